/* SPDX-License-Identifier: MIT */
/* vmferry run: a guest of our own, with a control socket. */
#include "command.h"
#include "exit.h"
#include "host.h"
#include "kvm_present.h"
#include "settings.h"

struct run_settings {
	const char *control;
	const char *console;
};

#define AT(member) offsetof(struct run_settings, member)

static const struct option_spec run_specs[] = {
	OPTION("control", "SOCKET", NULL,
	       "Path of the control socket. Without it vmferry-PID.sock in $XDG_RUNTIME_DIR or "
	       "/tmp.",
	       OPTION_TEXT, AT(control)),
	OPTION("console", "FILE", "-", CONSOLE_HELP, OPTION_TEXT, AT(console)),
	{.name = NULL},
};

static const struct option_group run_group = {"Options of vmferry run", run_specs};

static const struct option_group *const groups[] = {
	&machine_group, &workload_group, &run_group, &common_group, NULL,
};

static int serve(struct cli *cli, const struct machine_settings *machine,
		 const struct workload_settings *workload, const struct run_settings *run)
{
	struct host_setup setup = {.control = run->control, .control_fd = -1, .log = &cli->log};
	int code = EXIT_FAILED;
	struct host *host;
	struct vmm *vmm;
	int console_fd;

	if (!kvm_present())
		return EXIT_UNABLE;
	if (console_open(run->console, &console_fd) < 0)
		return EXIT_FAILED;
	if (host_new(&setup, &host) < 0)
		goto out_console;
	if (machine_start(machine, workload, console_fd, &vmm) == 0) {
		host_adopt(host, vmm);
		code = host_serve(host);
	}
	host_free(&host);
out_console:
	console_close(console_fd);
	return code;
}

static int run_main(struct cli *cli, int argc, char **argv)
{
	struct machine_settings machine = {0};
	struct workload_settings workload = {0};
	struct common_settings common = {0};
	struct run_settings run = {0};
	void *const targets[] = {&machine, &workload, &run, &common};
	struct option_result result;
	int code;

	if (!option_parse(&command_run, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	if (machine_check(&machine, result.given[1] != 0) < 0)
		return EXIT_USAGE;
	return serve(cli, &machine, &workload, &run);
}

const struct command command_run = {
	.name = "run",
	.arguments = "",
	.summary = "Start a guest that can be migrated. It lives until it stops, until Ctrl-C, or "
		   "until it was migrated away.",
	.groups = groups,
	.main = run_main,
};
