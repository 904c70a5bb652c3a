/* SPDX-License-Identifier: MIT */
/* vmferry qemu-receive: the destination host's end of migrations of QEMU guests. */
#include <stdio.h>
#include <unistd.h>

#include "../qemu/receiver.h"
#include "command.h"
#include "qemu_settings.h"
#include "service.h"
#include "signals.h"

struct receive_settings {
	const char *incoming;
	const char *qmp;
	const char *json;
	uint64_t place; /* enum placement_wish */
	uint64_t populate_threads;
	uint64_t lanes;
	bool allow_autostart;
	bool insecure;
	bool once;
	struct transport_settings transport; /* the transport group's */
};

/* In the order of enum placement_wish. */

#define AT(member) offsetof(struct receive_settings, member)

static const struct option_spec receive_specs[] = {
	OPTION("incoming", "PATH", NULL,
	       "Path of QEMU's incoming socket. Without it the path of the sender's socket, as "
	       "libvirt uses it.",
	       OPTION_TEXT, AT(incoming)),
	OPTION("qmp", "PATH", NULL,
	       "QMP socket of the QEMU that receives: it is asked where its memory is when /proc "
	       "does not tell.",
	       OPTION_TEXT, AT(qmp)),
	OPTION("place", "HOW", "auto",
	       "How pages come into QEMU's memory: mapped, written by lanes straight into memory "
	       "that QEMU shares (memfd, file and hugetlbfs backends with share=on); process, "
	       "copied into private memory; forward, left in the stream for QEMU; auto, the best "
	       "that each block allows.",
	       OPTION_CHOICE, AT(place), .choices = qemu_place_choices),
	OPTION("populate-threads", "N", "2",
	       "Threads that populate mapped memory ahead of its pages; 0: none.", OPTION_COUNT,
	       AT(populate_threads), .max = 64),
	OPTION("lanes", "N", "64", "At most so many lanes.", OPTION_COUNT, AT(lanes), .min = 1,
	       .max = VMFERRY_LANES_MAX),
	OPTION("allow-autostart", NULL, "no",
	       "Accept a QEMU without -S also where the migration has a return path: both QEMUs "
	       "may run the guest if the last answer is lost.",
	       OPTION_SWITCH, AT(allow_autostart)),
	OPTION("once", NULL, "no", "End after one migration, with its exit status.", OPTION_SWITCH,
	       AT(once)),
	OPTION("insecure", NULL, "no",
	       "Listen at addresses other than loopback, although nothing is authenticated or "
	       "encrypted.",
	       OPTION_SWITCH, AT(insecure)),
	OPTION("json", "FILE", NULL,
	       "Write the report of each migration to this file, as JSON; it replaces the one "
	       "before.",
	       OPTION_TEXT, AT(json)),
	{.name = NULL},
};

static const struct option_group receive_group = {"Options of vmferry qemu-receive", receive_specs};

static const struct option_group *const groups[] = {&receive_group, &transport_group, &common_group,
						    NULL};

static int serve(const struct receive_settings *receive, const char *uri)
{
	struct qemu_output output = {.json = receive->json, .command = "qemu-receive"};
	struct service service;
	struct qemu_receiver_options options = {
		.uri = uri,
		.destination =
			{
				.incoming = receive->incoming,
				.qmp = receive->qmp,
				.place = (enum placement_wish)receive->place,
				.allow_autostart = receive->allow_autostart,
				.populate_threads = (unsigned int)receive->populate_threads,
			},
		.once = receive->once,
		.report = qemu_output_report,
		.ctx = &output,
		.alive = service_alive,
		.alive_ctx = &service,
	};
	struct qemu_receiver *receiver;
	char status[256];
	int signal_fd;
	int ret;

	transport_options(&receive->transport, &options.transport);
	options.transport.lanes = (unsigned int)receive->lanes;
	options.transport.insecure = receive->insecure;
	service_open(&service, output.command);
	if (signals_open(&signal_fd) < 0)
		return EXIT_FAILED;
	ret = qemu_receiver_open(&options, &receiver);
	if (ret == 0) {
		snprintf(status, sizeof(status), "listening at %s for qemu-send",
			 qemu_receiver_uri(receiver));
		puts(status);
		fflush(stdout);
		service_ready(&service, status);
		ret = qemu_receiver_run(receiver, signal_fd);
		service_stopping(&service);
		qemu_receiver_close(&receiver);
	}
	close(signal_fd);
	return qemu_exit_code(ret);
}

static int receive_main(struct cli *cli, int argc, char **argv)
{
	struct receive_settings receive = {0};
	struct common_settings common = {0};
	void *const targets[] = {&receive, &receive.transport, &common};
	struct option_result result;
	const char *wrong;
	int code;

	if (!option_parse(&command_qemu_receive, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	wrong = transport_check(&receive.transport);
	if (wrong != NULL) {
		fprintf(stderr, "vmferry qemu-receive: %s\n", wrong);
		return EXIT_USAGE;
	}
	return serve(&receive, result.arguments[0]);
}

const struct command command_qemu_receive = {
	.name = "qemu-receive",
	.arguments = "URI",
	.argument_count = 1,
	.summary = "Wait at tcp:HOST:PORT for a qemu-send, and give what it sends to the QEMU that "
		   "waits for a migration. Serves many migrations, until a signal ends it.",
	.groups = groups,
	.main = receive_main,
};
