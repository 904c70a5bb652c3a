/* SPDX-License-Identifier: MIT */
/*
 * vmferry qemu-migrate: a migration between two QEMUs, driven by their QMP sockets, without
 * libvirt.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../qemu/check.h"
#include "../qemu/migration.h"
#include "../qemu/qmp.h"
#include "command.h"
#include "host_check.h"
#include "progress.h"
#include "qemu_ends.h"
#include "qemu_settings.h"
#include "report.h"
#include "signals.h"
#include "units.h"

#define ANSWER_NS     (10 * NS_PER_S)
#define REPORT_NS     (5 * NS_PER_S)
#define CHANNELS_MAX  16
#define DIRECTORY_MAX 64
#define PATH_BYTES    96

struct drive_settings {
	const char *qmp;
	const char *to_qmp;
	const char *incoming;
	const char *memory_qmp;
	const char *socket;
	const char *group;
	const char *json;
	uint64_t downtime;
	uint64_t bandwidth;
	uint64_t timeout;
	uint64_t channels;
	uint64_t lanes;
	uint64_t place;
	bool require_offload;
	bool allow_autostart;
	bool insecure;
	bool check;
	struct transport_settings transport; /* the transport group's */
};

/* In the order of enum placement_wish. */

#define AT(member) offsetof(struct drive_settings, member)

static const struct option_spec drive_specs[] = {
	OPTION("qmp", "PATH", NULL, "QMP socket of the QEMU whose guest is to be migrated. Needed.",
	       OPTION_TEXT, AT(qmp)),
	OPTION("to-qmp", "PATH", NULL, "QMP socket of the QEMU that receives it. Needed.",
	       OPTION_TEXT, AT(to_qmp)),
	OPTION("incoming", "PATH", NULL,
	       "Path of the receiving QEMU's incoming socket: it listens there, or is told to when "
	       "it waits with -incoming defer. Needed.",
	       OPTION_TEXT, AT(incoming)),
	OPTION("memory-qmp", "PATH", NULL,
	       "Another QMP socket of the receiving QEMU, for the adaptor: QEMU serves one client "
	       "a socket. It is asked where its memory is when /proc does not tell.",
	       OPTION_TEXT, AT(memory_qmp)),
	OPTION("check", NULL, "no",
	       "Tell what would stop or slow this migration, with the remedy, and migrate nothing.",
	       OPTION_SWITCH, AT(check)),
	OPTION("downtime", "TIME", "10ms",
	       "Limit of the blackout by which QEMU decides to switch over.", OPTION_DURATION,
	       AT(downtime), .min = 1000000, .max = 2000000000000ull),
	OPTION("bandwidth", "SIZE", "unlimited", "Bytes a second that QEMU sends at most.",
	       OPTION_SIZE, AT(bandwidth), .min = 1 << 20, .word = "unlimited", .word_value = 0),
	OPTION("timeout", "TIME", "300s",
	       "Give up, the guest running on at the source, when it was not migrated by then.",
	       OPTION_DURATION, AT(timeout), .min = 1000000, .max = 604800000000000ull),
	OPTION("channels", "N", "auto",
	       "Streams between QEMU and the adaptor, multifd with 2 and more; auto is 2 where the "
	       "receiving QEMU waits with -incoming defer, else 1.",
	       OPTION_COUNT, AT(channels), .min = 1, .max = CHANNELS_MAX, .word = "auto",
	       .word_value = 0),
	OPTION("lanes", "N", "auto", "Number of lanes; auto is what is useful here.", OPTION_COUNT,
	       AT(lanes), .min = 1, .max = VMFERRY_LANES_MAX, .word = "auto", .word_value = 0),
	OPTION("place", "HOW", "auto",
	       "How pages come into the receiving QEMU's memory, as with qemu-receive.",
	       OPTION_CHOICE, AT(place), .choices = qemu_place_choices),
	OPTION("socket", "PATH", NULL,
	       "Where the source's end of the adaptor listens for QEMU. Without it a path of its "
	       "own, or that of --incoming when the receiver is another host's.",
	       OPTION_TEXT, AT(socket)),
	OPTION("socket-group", "GROUP", NULL,
	       "Members of this group may connect to that socket, too.", OPTION_TEXT, AT(group)),
	OPTION("require-offload", NULL, "no",
	       "Fail a migration whose pages cannot be moved by lanes, rather than pass it "
	       "through.",
	       OPTION_SWITCH, AT(require_offload)),
	OPTION("allow-autostart", NULL, "no",
	       "Accept a receiving QEMU without -S: both QEMUs may run the guest if the last "
	       "answer is lost.",
	       OPTION_SWITCH, AT(allow_autostart)),
	OPTION("insecure", NULL, "no",
	       "Allow addresses other than loopback, although nothing is authenticated or "
	       "encrypted.",
	       OPTION_SWITCH, AT(insecure)),
	OPTION("json", "FILE", NULL, JSON_HELP, OPTION_TEXT, AT(json)),
	{.name = NULL},
};

#undef AT

static const struct option_group drive_group = {"Options of vmferry qemu-migrate", drive_specs};

static const struct option_group *const groups[] = {&drive_group, &transport_group, &common_group,
						    NULL};

struct drive {
	struct drive_settings own;
	const char *uri;
	struct qmp *source;
	struct qmp *destination;
	struct qemu_end sender;
	struct qemu_end receiver;
	bool far; /* the receiver is another host's */
	int signal_fd;
	char directory[DIRECTORY_MAX]; /* of the sender's socket; "": none was made */
	char path[PATH_BYTES];	       /* of the sender's socket */
};

/* ---- --check --------------------------------------------------------------------------------- */

static void print_checks(struct json_object *checks)
{
	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *check = json_object_array_get_idx(checks, i);
		const char *remedy = report_text(check, "remedy", NULL);

		printf("%-8s %-26s %s\n", report_text(check, "status", ""),
		       report_text(check, "name", ""), report_text(check, "value", ""));
		if (remedy != NULL)
			printf("%-8s %-26s -> %s\n", "", "", remedy);
	}
}

static int check(struct drive *drive)
{
	struct json_object *found = json_object_new_object();
	struct json_object *checks = json_object_new_array();
	const bool rdma = drive->own.transport.kind != VMFERRY_TRANSPORT_TCP;
	int code = EXIT_COMPLETED;
	bool stops;

	if (qemu_check_source(drive->source, vmferry_now() + ANSWER_NS, checks) < 0 ||
	    qemu_check_destination(drive->destination, vmferry_now() + ANSWER_NS, checks) < 0)
		code = EXIT_FAILED;
	check_memlock(checks, rdma);
	stops = qemu_check_stops(checks);
	print_checks(checks);
	json_object_object_add(found, "can_migrate", json_object_new_boolean(!stops));
	json_object_object_add(found, "checks", checks);
	printf("\nthis migration %s\n", stops ? "would be refused" : "works");
	if (code == EXIT_COMPLETED && stops)
		code = EXIT_UNABLE;
	if (drive->own.json != NULL && report_write(drive->own.json, found) < 0 &&
	    code == EXIT_COMPLETED)
		code = EXIT_FAILED;
	json_object_put(found);
	return code;
}

/* ---- the adaptor's ends ---------------------------------------------------------------------- */

static void transport(const struct drive *drive, struct vmferry_transport_options *options)
{
	transport_options(&drive->own.transport, options);
	options->lanes = (unsigned int)drive->own.lanes;
	options->insecure = drive->own.insecure;
}

/* At the destination's address if that is of this host and nobody listens there. */
static int start_receiver(struct drive *drive, char address[QEMU_END_ADDRESS_MAX])
{
	struct qemu_receiver_options options = {
		.uri = drive->uri,
		.destination =
			{
				.incoming = drive->own.incoming,
				.qmp = drive->own.memory_qmp,
				.place = (enum placement_wish)drive->own.place,
				.allow_autostart = drive->own.allow_autostart,
				.populate_threads = 2,
			},
	};
	const int ret = qemu_end_probe(drive->uri);

	snprintf(address, QEMU_END_ADDRESS_MAX, "%s", drive->uri);
	drive->far = ret == -EADDRNOTAVAIL;
	if (ret == -EADDRINUSE || ret == -EADDRNOTAVAIL)
		return 0;
	transport(drive, &options.transport);
	if (options.transport.lanes == 0)
		options.transport.lanes = VMFERRY_LANES_MAX;
	return qemu_end_receive(&drive->receiver, &options, address);
}

/* In a folder of its own, that others get into only where they may use the socket. */
static int make_directory(struct drive *drive)
{
	const char *base = getenv("XDG_RUNTIME_DIR");

	snprintf(drive->directory, sizeof(drive->directory), "%s/vmferry-XXXXXX",
		 base != NULL && *base == '/' && strlen(base) < 40 ? base : "/tmp");
	if (mkdtemp(drive->directory) == NULL ||
	    (drive->own.group != NULL && chmod(drive->directory, 0711) < 0)) {
		fprintf(stderr, "vmferry qemu-migrate: %s: %s: make it writable\n",
			drive->directory, strerror(errno));
		drive->directory[0] = '\0';
		return -EIO;
	}
	snprintf(drive->path, sizeof(drive->path), "%s/source", drive->directory);
	return 0;
}

static int start_sender(struct drive *drive, const char *uri)
{
	struct qemu_sender_options options = {
		.uri = uri,
		.path = drive->path,
		.listen_fd = -1,
		.group = drive->own.group,
		.require_offload = drive->own.require_offload,
	};
	char address[QEMU_END_ADDRESS_MAX];
	int ret = 0;

	if (drive->own.socket != NULL)
		snprintf(drive->path, sizeof(drive->path), "%s", drive->own.socket);
	else if (drive->far)
		snprintf(drive->path, sizeof(drive->path), "%s", drive->own.incoming);
	else
		ret = make_directory(drive);
	if (ret < 0)
		return ret;
	transport(drive, &options.transport);
	ret = qemu_end_send(&drive->sender, &options, address);
	return ret == -EADDRINUSE ? 0 : ret;
}

/* ---- the migration --------------------------------------------------------------------------- */

static uint64_t number(struct json_object *object, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
}

static void add_number(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

/* QEMU's numbers as those of a migration of our own: megabits and pages become bytes. */
static void show(void *ctx, struct json_object *info)
{
	struct json_object *line = json_object_new_object();
	struct json_object *ram = NULL;
	struct json_object *rate = NULL;

	(void)ctx;
	json_object_object_add(line, "phase",
			       json_object_new_string(report_text(info, "status", "?")));
	if (json_object_object_get_ex(info, "ram", &ram)) {
		const uint64_t total = number(ram, "total");
		const uint64_t left = number(ram, "remaining");

		add_number(line, "percent",
			   total == 0 || left > total ? 0 : 100 - 100 * left / total);
		add_number(line, "round", number(ram, "dirty-sync-count"));
		if (json_object_object_get_ex(ram, "mbps", &rate))
			add_number(line, "bytes_per_second",
				   (uint64_t)(json_object_get_double(rate) * 1e6 / 8));
		add_number(line, "dirty_bytes_per_second",
			   number(ram, "dirty-pages-rate") * number(ram, "page-size"));
		add_number(line, "predicted_blackout_us", number(info, "expected-downtime") * 1000);
	}
	progress_show(line);
	json_object_put(line);
}

static const char *const results[] = {
	[QEMU_MIGRATION_COMPLETED] = "completed",
	[QEMU_MIGRATION_FAILED] = "failed",
	[QEMU_MIGRATION_CANCELLED] = "cancelled",
	[QEMU_MIGRATION_INDETERMINATE] = "indeterminate",
};

/* What people look for first stands first: how it ended, how long, by what. */
static struct json_object *make_report(struct drive *drive, const struct qemu_migration *migration,
				       enum qemu_migration_outcome outcome)
{
	struct json_object *report = json_object_new_object();
	struct json_object *info = qemu_migration_info(migration);
	struct json_object *sent = qemu_end_report(&drive->sender, vmferry_now() + REPORT_NS);

	json_object_object_add(report, "result", json_object_new_string(results[outcome]));
	add_number(report, "total_us", number(info, "total-time") * 1000);
	add_number(report, "qemu_downtime_us", number(info, "downtime") * 1000);
	add_number(report, "cont_us", qemu_migration_cont_ns(migration) / NS_PER_US);
	add_number(report, "channels", qemu_migration_channels(migration));
	json_object_object_add(report, "mode",
			       json_object_new_string(report_text(sent, "mode", "unknown")));
	json_object_object_add(report, "mode_reason",
			       json_object_new_string(report_text(sent, "mode_reason", "")));
	json_object_object_add(report, "transport",
			       json_object_new_string(report_text(sent, "transport", "unknown")));
	if (sent != NULL)
		json_object_object_add(report, "adaptor", sent);
	if (info != NULL)
		json_object_object_add(report, "query_migrate", json_object_get(info));
	return report;
}

static int conclude(struct drive *drive, const struct qemu_migration *migration,
		    enum qemu_migration_outcome outcome)
{
	struct json_object *report = make_report(drive, migration, outcome);
	int code = report_exit_code(report);

	progress_clear();
	report_print(stdout, report);
	if (code == EXIT_CANCELLED || code == EXIT_FAILED)
		printf("\n%s; the guest is at the source as it was\n", results[outcome]);
	if (drive->own.json != NULL && report_write(drive->own.json, report) < 0 &&
	    code == EXIT_COMPLETED)
		code = EXIT_FAILED;
	json_object_put(report);
	return code;
}

static int migrate(struct drive *drive)
{
	const struct qemu_migration_options options = {
		.socket = drive->path,
		.incoming = drive->own.incoming,
		.downtime_ns = drive->own.downtime,
		.bandwidth = drive->own.bandwidth,
		.channels = (unsigned int)drive->own.channels,
		.allow_autostart = drive->own.allow_autostart,
		.deadline = vmferry_now() + drive->own.timeout,
		.cancel_fd = drive->signal_fd,
		.progress = show,
	};
	struct qemu_migration *migration = NULL;
	char uri[QEMU_END_ADDRESS_MAX];
	int code;
	int ret;

	ret = start_receiver(drive, uri);
	if (ret == 0)
		ret = start_sender(drive, uri);
	if (ret == 0)
		ret = qemu_migration_new(&options, drive->source, drive->destination, &migration);
	if (ret == -EINVAL || ret == -EPERM || ret == -EBUSY)
		return EXIT_UNABLE;
	if (ret < 0)
		return EXIT_FAILED;
	code = conclude(drive, migration, qemu_migration_run(migration));
	qemu_migration_free(&migration);
	return code;
}

static int perform(struct drive *drive)
{
	int code = EXIT_FAILED;

	if (qmp_open(drive->own.qmp, vmferry_now() + ANSWER_NS, &drive->source) == 0 &&
	    qmp_open(drive->own.to_qmp, vmferry_now() + ANSWER_NS, &drive->destination) == 0)
		code = drive->own.check ? check(drive) : migrate(drive);
	qemu_end_stop(&drive->sender);
	qemu_end_stop(&drive->receiver);
	if (drive->directory[0] != '\0') {
		unlink(drive->path);
		rmdir(drive->directory);
	}
	qmp_close(&drive->source);
	qmp_close(&drive->destination);
	return code;
}

/* What no single option can check: NULL, or what is wrong. */
static const char *check_settings(const struct drive_settings *own)
{
	if (own->qmp == NULL || own->to_qmp == NULL)
		return "--qmp PATH and --to-qmp PATH are needed: QEMU's option -qmp makes the "
		       "sockets";
	if (own->incoming == NULL && !own->check)
		return "--incoming PATH is needed: the path of the receiving QEMU's incoming "
		       "socket";
	if ((own->incoming != NULL && strlen(own->incoming) >= PATH_BYTES) ||
	    (own->socket != NULL && strlen(own->socket) >= PATH_BYTES))
		return "the path of a socket is too long: it has 95 bytes at most";
	return transport_check(&own->transport);
}

static int qemu_migrate_main(struct cli *cli, int argc, char **argv)
{
	struct drive drive = {0};
	struct common_settings common = {0};
	void *const targets[] = {&drive.own, &drive.own.transport, &common};
	struct option_result result;
	const char *wrong;
	int code;

	if (!option_parse(&command_qemu_migrate, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	wrong = check_settings(&drive.own);
	if (wrong != NULL) {
		fprintf(stderr, "vmferry qemu-migrate: %s\n", wrong);
		return EXIT_USAGE;
	}
	drive.uri = result.arguments[0];
	if (vmferry_uri_check(drive.uri) < 0)
		return EXIT_USAGE;
	if (signals_open(&drive.signal_fd) < 0)
		return EXIT_FAILED;
	code = perform(&drive);
	close(drive.signal_fd);
	return code;
}

const struct command command_qemu_migrate = {
	.name = "qemu-migrate",
	.arguments = "URI",
	.argument_count = 1,
	.summary =
		"Migrate a guest between two QEMUs, by their QMP sockets and over the qemu-receive "
		"at tcp:HOST:PORT. Starts the ends of the adaptor where they are not running. "
		"Ctrl-C cancels, and the guest runs on at the source.",
	.groups = groups,
	.main = qemu_migrate_main,
};
