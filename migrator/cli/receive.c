/* SPDX-License-Identifier: MIT */
/* vmferry receive: waits for a guest, and is then to it what vmferry run was. */
#include <errno.h>
#include <stdio.h>

#include "command.h"
#include "exit.h"
#include "host.h"
#include "kvm_present.h"
#include "settings.h"

struct receive_settings {
	const char *control;
	const char *console;
	const char *json;
	uint64_t memory_limit;
	uint64_t numa;
	bool insecure;
	struct transport_settings transport; /* the transport group's */
};

#define AT(member) offsetof(struct receive_settings, member)

static const struct option_spec receive_specs[] = {
	OPTION("control", "SOCKET", NULL,
	       "Path of the control socket. Without it vmferry-PID.sock in $XDG_RUNTIME_DIR or "
	       "/tmp.",
	       OPTION_TEXT, AT(control)),
	OPTION("console", "FILE", "-", CONSOLE_HELP, OPTION_TEXT, AT(console)),
	OPTION("memory-limit", "SIZE", "free",
	       "Refuse a guest with more memory than this; free is what this host has available.",
	       OPTION_SIZE, AT(memory_limit), .min = 1, .word = "free", .word_value = 0),
	OPTION("numa", "NODE", "any", "Bind the guest's memory to this NUMA node.", OPTION_COUNT,
	       AT(numa), .max = 1023, .word = "any", .word_value = NUMA_ANY),
	OPTION("insecure", NULL, "no",
	       "Listen at addresses other than loopback, although nothing is authenticated or "
	       "encrypted.",
	       OPTION_SWITCH, AT(insecure)),
	OPTION("json", "FILE", NULL, "Write the report of the arrival to this file, as JSON.",
	       OPTION_TEXT, AT(json)),
	{.name = NULL},
};

static const struct option_group receive_group = {"Options of vmferry receive", receive_specs};

static const struct option_group *const groups[] = {&receive_group, &transport_group, &common_group,
						    NULL};

static int serve(struct cli *cli, const struct receive_settings *receive, const char *uri)
{
	struct host_setup setup = {.control = receive->control, .control_fd = -1, .log = &cli->log};
	struct host_arrival arrival = {
		.uri = uri,
		.transport = &receive->transport,
		.json = receive->json,
		.memory_limit = receive->memory_limit,
		.numa_node = receive->numa == NUMA_ANY ? -1 : (int)receive->numa,
		.insecure = receive->insecure,
	};
	int code = EXIT_FAILED;
	struct host *host;
	int rc;

	if (!kvm_present())
		return EXIT_UNABLE;
	if (console_open(receive->console, &arrival.console_fd) < 0)
		return EXIT_FAILED;
	if (host_new(&setup, &host) < 0)
		goto out_console;
	rc = host_await(host, &arrival);
	if (rc == 0)
		code = host_serve(host);
	else if (rc == -EINVAL || rc == -EPERM)
		code = EXIT_USAGE;
	host_free(&host);
out_console:
	console_close(arrival.console_fd);
	return code;
}

static int receive_main(struct cli *cli, int argc, char **argv)
{
	struct receive_settings receive = {0};
	struct common_settings common = {0};
	void *const targets[] = {&receive, &receive.transport, &common};
	struct option_result result;
	const char *wrong;
	int code;

	if (!option_parse(&command_receive, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	wrong = transport_check(&receive.transport);
	if (wrong != NULL) {
		fprintf(stderr, "vmferry receive: %s\n", wrong);
		return EXIT_USAGE;
	}
	return serve(cli, &receive, result.arguments[0]);
}

const struct command command_receive = {
	.name = "receive",
	.arguments = "URI",
	.argument_count = 1,
	.summary =
		"Wait for a guest at tcp:HOST:PORT (port 0: the system chooses) and run it. It can "
		"be migrated onward.",
	.groups = groups,
	.main = receive_main,
};
