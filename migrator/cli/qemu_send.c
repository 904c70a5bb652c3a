/* SPDX-License-Identifier: MIT */
/* vmferry qemu-send: the source host's end of migrations of QEMU guests. */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <vmferry/rdma.h>

#include "../qemu/sender.h"
#include "command.h"
#include "qemu_settings.h"
#include "service.h"
#include "signals.h"

struct send_settings {
	const char *json;
	const char *group;
	uint64_t lanes;
	bool insecure;
	bool once;
	bool require_offload;
	uint64_t source;
	const char *qmp;
	struct transport_settings transport; /* the transport group's */
};

#define PASSED_SOCKET "systemd:"

enum source_choice { SOURCE_PAYLOAD, SOURCE_LIVE };

static const char *const sources[] = {"payload", "live", NULL};

#define AT(member) offsetof(struct send_settings, member)

static const struct option_spec send_specs[] = {
	OPTION("lanes", "N", "auto", "Number of lanes; auto is what is useful here.", OPTION_COUNT,
	       AT(lanes), .min = 1, .max = VMFERRY_LANES_MAX, .word = "auto", .word_value = 0),
	OPTION("socket-group", "GROUP", NULL,
	       "Members of this group may connect to the socket, too: libvirt-qemu, say, which "
	       "QEMU runs as under libvirt.",
	       OPTION_TEXT, AT(group)),
	OPTION("require-offload", NULL, "no",
	       "Fail a migration whose pages cannot be moved by lanes, rather than pass it "
	       "through.",
	       OPTION_SWITCH, AT(require_offload)),
	OPTION("source", "WHAT", "payload",
	       "What is written to the destination: payload, the pages as they were in the stream; "
	       "or live, the guest's memory itself, which needs --qmp and memory that QEMU shares, "
	       "and is refused with xbzrle and with a balloon.",
	       OPTION_CHOICE, AT(source), .choices = sources),
	OPTION("qmp", "PATH", NULL, "QMP socket of the QEMU that sends, for --source live.",
	       OPTION_TEXT, AT(qmp)),
	OPTION("once", NULL, "no", "End after one migration, with its exit status.", OPTION_SWITCH,
	       AT(once)),
	OPTION("insecure", NULL, "no",
	       "Connect to addresses other than loopback, although nothing is authenticated or "
	       "encrypted.",
	       OPTION_SWITCH, AT(insecure)),
	OPTION("json", "FILE", NULL,
	       "Write the report of each migration to this file, as JSON; it replaces the one "
	       "before.",
	       OPTION_TEXT, AT(json)),
	{.name = NULL},
};

static const struct option_group send_group = {"Options of vmferry qemu-send", send_specs};

static const struct option_group *const groups[] = {&send_group, &transport_group, &common_group,
						    NULL};

static int refuse(const char *address, const char *why)
{
	fprintf(stderr, "vmferry qemu-send: %s: %s\n", address, why);
	return -EINVAL;
}

/*
 * @address is unix:PATH, or PASSED_SOCKET for the service manager's. A socket that was passed
 * together with unix:PATH has to be bound to PATH.
 */
static int choose_socket(const struct service *service, const char *address,
			 char passed[SERVICE_PATH_MAX], struct qemu_sender_options *options)
{
	bool wants_passed = strcmp(address, PASSED_SOCKET) == 0;
	int ret = service_socket(service, passed, &options->listen_fd);

	if (ret < 0 && ret != -ENOENT)
		return ret;
	if (ret < 0 && wants_passed)
		return refuse(
			address,
			"the service manager has passed no socket: start the .socket unit, or "
			"name unix:PATH");
	if (ret == 0 && options->group != NULL)
		return refuse("--socket-group",
			      "the socket is the service manager's: give SocketGroup= there");
	options->path = wants_passed ? passed : qemu_unix_path("qemu-send", address);
	if (options->path == NULL)
		return -EINVAL;
	if (ret == 0 && strcmp(options->path, passed) != 0)
		return refuse(address,
			      "the service manager has passed another socket: name " PASSED_SOCKET);
	return 0;
}

static void pass_over(void *ctx, const struct vmferry_rdma_port *port)
{
	(void)ctx;
	(void)port;
}

/*
 * The first look loads the devices' drivers, which is a good part of a small guest's migration.
 * Devices may still come and go.
 */
static void look_for_devices(enum vmferry_transport transport)
{
	int ret = transport == VMFERRY_TRANSPORT_TCP ? 0 : vmferry_rdma_ports(pass_over, NULL);

	if (ret < 0 && transport == VMFERRY_TRANSPORT_RDMA)
		fprintf(stderr,
			"vmferry qemu-send: no RDMA device on this host: %s: migrations fail as "
			"long as there is none: see vmferry check, or use the transport tcp or "
			"auto\n",
			strerror(-ret));
}

static int serve(const struct qemu_sender_options *options, const struct service *service)
{
	struct qemu_sender *sender;
	char status[512];
	int signal_fd;
	int ret;

	if (signals_open(&signal_fd) < 0)
		return EXIT_FAILED;
	look_for_devices(options->transport.transport);
	ret = qemu_sender_open(options, &sender);
	if (ret == 0) {
		snprintf(status, sizeof(status), "listening at unix:%s for QEMU, sending to %s",
			 options->path, options->uri);
		puts(status);
		fflush(stdout);
		service_ready(service, status);
		ret = qemu_sender_run(sender, signal_fd);
		service_stopping(service);
		qemu_sender_close(&sender);
	}
	close(signal_fd);
	return qemu_exit_code(ret);
}

static int prepare_and_serve(const struct send_settings *send, const char *address, const char *uri)
{
	struct qemu_output output = {.json = send->json, .command = "qemu-send"};
	struct service service;
	struct qemu_sender_options options = {
		.uri = uri,
		.listen_fd = -1,
		.group = send->group,
		.require_offload = send->require_offload,
		.live = send->source == SOURCE_LIVE,
		.qmp = send->qmp,
		.once = send->once,
		.report = qemu_output_report,
		.ctx = &output,
		.alive = service_alive,
		.alive_ctx = &service,
	};
	char passed[SERVICE_PATH_MAX];

	service_open(&service, output.command);
	transport_options(&send->transport, &options.transport);
	options.transport.lanes = (unsigned int)send->lanes;
	options.transport.insecure = send->insecure;
	if (vmferry_uri_check(uri) < 0 || choose_socket(&service, address, passed, &options) < 0)
		return EXIT_USAGE;
	return serve(&options, &service);
}

static int send_main(struct cli *cli, int argc, char **argv)
{
	struct send_settings send = {0};
	struct common_settings common = {0};
	void *const targets[] = {&send, &send.transport, &common};
	struct option_result result;
	const char *wrong;
	int code;

	if (!option_parse(&command_qemu_send, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	wrong = transport_check(&send.transport);
	if (wrong != NULL) {
		fprintf(stderr, "vmferry qemu-send: %s\n", wrong);
		return EXIT_USAGE;
	}
	if (send.source == SOURCE_LIVE && send.qmp == NULL) {
		fprintf(stderr,
			"vmferry qemu-send: --source live: give QEMU's QMP socket by --qmp\n");
		return EXIT_USAGE;
	}
	return prepare_and_serve(&send, result.arguments[0], result.arguments[1]);
}

const struct command command_qemu_send = {
	.name = "qemu-send",
	.arguments = "unix:PATH URI",
	.argument_count = 2,
	.summary =
		"Listen at unix:PATH for a QEMU or libvirt that migrates, and move its memory to "
		"the qemu-receive at tcp:HOST:PORT. With systemd: in place of unix:PATH, take the "
		"socket that systemd has passed. Serves many migrations, until a signal ends it.",
	.groups = groups,
	.main = send_main,
};
