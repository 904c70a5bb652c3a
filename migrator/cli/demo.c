/* SPDX-License-Identifier: MIT */
/*
 * vmferry demo: a source and a destination on this host, two processes as run and receive make
 * them, and a migration between them as migrate drives it; then a look at the guest, which checks
 * its own memory.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "child.h"
#include "command.h"
#include "drive.h"
#include "exit.h"
#include "kvm_present.h"
#include "report.h"
#include "settings.h"
#include "signals.h"
#include "units.h"

/* A guest of many GiB is filled at a few hundred MB a second at worst. */
#define READY_NS (600 * NS_PER_S)
#define LOOK_NS	 (10 * NS_PER_MS)
#define BEATS_NS (2 * NS_PER_S)
#define PULSE_NS (200 * NS_PER_MS)

struct demo_settings {
	bool verify;
	uint64_t warmup;
	uint64_t after;
	const char *console;
	const char *json;
};

#define AT(member) offsetof(struct demo_settings, member)

static const struct option_spec demo_specs[] = {
	OPTION("verify", NULL, "yes",
	       "Compare all memory of both sides as it was in the pause. The blackout grows by "
	       "that.",
	       OPTION_SWITCH, AT(verify)),
	OPTION("warmup", "TIME", "300ms", "Let the guest run for so long before it is migrated.",
	       OPTION_DURATION, AT(warmup)),
	OPTION("after", "TIME", "500ms",
	       "Watch the guest at the destination for so long, or until it has checked all its "
	       "memory.",
	       OPTION_DURATION, AT(after)),
	OPTION("console", "FILE", "none", CONSOLE_HELP, OPTION_TEXT, AT(console)),
	OPTION("json", "FILE", NULL, JSON_HELP, OPTION_TEXT, AT(json)),
	{.name = NULL},
};

static const struct option_group demo_group = {"Options of vmferry demo", demo_specs};

static const struct option_group *const groups[] = {
	&machine_group,
	&workload_group,
	&migration_group,
	&transport_group,
	&demo_group,
	&common_group,
	NULL,
};

struct demo {
	struct machine_settings machine;
	struct workload_settings workload;
	struct migration_settings migration;
	struct demo_settings own;
	struct log *log;
	int console_fd;
	int signal_fd;
	char directory[64];
	char uri[128];
	struct child source;
	struct child destination;
};

/* ---- the two processes ----------------------------------------------------------------------- */

static int be_source(void *ctx, struct host *host)
{
	struct demo *demo = ctx;
	struct vmm *vmm;

	if (machine_start(&demo->machine, &demo->workload, demo->console_fd, &vmm) < 0)
		return EXIT_FAILED;
	host_adopt(host, vmm);
	return host_serve(host);
}

static int be_destination(void *ctx, struct host *host)
{
	struct demo *demo = ctx;
	struct host_arrival arrival = {
		.uri = "tcp:127.0.0.1:0",
		.transport = &demo->migration.transport,
		.numa_node = demo->machine.numa == NUMA_ANY ? -1 : (int)demo->machine.numa,
		.console_fd = demo->console_fd,
	};

	return host_await(host, &arrival) < 0 ? EXIT_FAILED : host_serve(host);
}

static int start(struct demo *demo)
{
	struct json_object *status = NULL;
	int rc;

	rc = child_start(&demo->destination, "destination", demo->directory, demo->log,
			 be_destination, demo);
	if (rc == 0)
		rc = child_start(&demo->source, "source", demo->directory, demo->log, be_source,
				 demo);
	if (rc == 0)
		rc = child_status(&demo->destination, demo->signal_fd, &status);
	if (rc < 0)
		return rc;
	snprintf(demo->uri, sizeof(demo->uri), "%s", report_text(status, "uri", ""));
	json_object_put(status);
	return 0;
}

/* ---- looking at the guest -------------------------------------------------------------------- */

struct look {
	bool ready;
	bool stopped;
	char why[128];
	uint64_t faults;
	uint64_t scrubs;
	uint64_t beats;	     /* of all vCPUs */
	uint64_t least;	     /* of the vCPU that has the fewest */
	uint64_t max_gap_us; /* of the vCPU that has the longest */
};

static uint64_t number(struct json_object *object, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
}

static void look_at_vcpus(struct json_object *vcpus, struct look *look)
{
	look->least = UINT64_MAX;
	for (size_t i = 0; i < json_object_array_length(vcpus); i++) {
		struct json_object *vcpu = json_object_array_get_idx(vcpus, i);
		uint64_t beats = number(vcpu, "beats");
		uint64_t gap = number(vcpu, "max_gap_us");

		look->beats += beats;
		if (beats < look->least)
			look->least = beats;
		if (gap > look->max_gap_us)
			look->max_gap_us = gap;
	}
}

static int look_at(struct demo *demo, struct child *child, struct look *look)
{
	struct json_object *status;
	struct json_object *vcpus;
	const char *why;
	int rc;

	*look = (struct look){0};
	rc = child_status(child, demo->signal_fd, &status);
	if (rc == -EINTR)
		signals_take(demo->signal_fd);
	if (rc < 0)
		return rc;
	look->ready = number(status, "ready") != 0;
	why = report_text(status, "stop_reason", NULL);
	look->stopped = why != NULL;
	snprintf(look->why, sizeof(look->why), "%s", why == NULL ? "" : why);
	look->faults = number(status, "faults");
	look->scrubs = number(status, "scrubs");
	if (json_object_object_get_ex(status, "vcpus", &vcpus))
		look_at_vcpus(vcpus, look);
	json_object_put(status);
	return 0;
}

/* Only the built-in guest is known to say when it is ready, to beat and to check itself. */
static bool built_in(const struct demo *demo)
{
	return demo->machine.guest == NULL;
}

static int wait_ready(struct demo *demo)
{
	uint64_t deadline = vmferry_now() + READY_NS;
	struct look look = {0};
	int rc;

	while (built_in(demo) && !look.ready) {
		rc = look_at(demo, &demo->source, &look);
		if (rc < 0)
			return rc;
		if (look.stopped || vmferry_now() >= deadline) {
			fprintf(stderr,
				"vmferry demo: the guest did not get ready: %s: look at --console "
				"-\n",
				look.stopped ? look.why : "time is up");
			return -ETIMEDOUT;
		}
		if (signals_sleep(demo->signal_fd, vmferry_now() + LOOK_NS))
			return -EINTR;
	}
	return signals_sleep(demo->signal_fd, vmferry_now() + demo->own.warmup) ? -EINTR : 0;
}

/*
 * Until the guest has checked itself or has been watched for long enough; it must beat in any case.
 */
static bool seen_enough(const struct demo *demo, const struct look *look, uint64_t elapsed)
{
	if (look->stopped || look->faults > 0)
		return true;
	if (!built_in(demo))
		return elapsed >= demo->own.after;
	if (look->least == 0)
		return elapsed >= demo->own.after + BEATS_NS;
	return look->scrubs > 0 || elapsed >= demo->own.after;
}

static int watch_destination(struct demo *demo, struct look *look)
{
	uint64_t begin = vmferry_now();
	int rc;

	do {
		signals_sleep(demo->signal_fd, vmferry_now() + LOOK_NS);
		rc = look_at(demo, &demo->destination, look);
		if (rc < 0 && rc != -EINTR)
			return rc;
	} while (rc < 0 || !seen_enough(demo, look, vmferry_now() - begin));
	return 0;
}

/* How many beats the guest made in a moment at the source. */
static int watch_source(struct demo *demo, struct look *look)
{
	struct look before;
	int rc;

	rc = look_at(demo, &demo->source, &before);
	signals_sleep(demo->signal_fd, vmferry_now() + PULSE_NS);
	if (rc == 0)
		rc = look_at(demo, &demo->source, look);
	if (rc == 0)
		look->beats -= before.beats;
	return rc;
}

/* ---- the result ------------------------------------------------------------------------------ */

static void add_look(const struct demo *demo, struct json_object *report, const char *where,
		     const struct look *look)
{
	struct json_object *guest = json_object_new_object();
	struct json_object *old = NULL;
	struct json_object *silence = NULL;

	json_object_object_add(guest, "runs_at", json_object_new_string(where));
	json_object_object_add(guest, "faults", json_object_new_uint64(look->faults));
	json_object_object_add(guest, "checks_of_all_memory", json_object_new_uint64(look->scrubs));
	json_object_object_add(guest, "beats", json_object_new_uint64(look->beats));
	json_object_object_add(guest, "longest_between_beats_us",
			       json_object_new_uint64(look->max_gap_us));
	json_object_object_add(guest, "vcpus", json_object_new_uint64(demo->machine.vcpus));
	json_object_object_add(guest, "memory", json_object_new_uint64(demo->machine.memory));
	/* What only the source knew when it wrote the report. */
	if (json_object_object_get_ex(report, "guest", &old) &&
	    json_object_object_get_ex(old, "per_vcpu", &silence))
		json_object_object_add(guest, "per_vcpu", json_object_get(silence));
	json_object_object_add(report, "guest", guest);
}

/* What the guest's own state makes of the migration's exit status. */
static int judge(const struct demo *demo, const struct look *look, const char *where, int code)
{
	if (look->faults > 0) {
		fprintf(stderr,
			"vmferry demo: the guest found %llu faults in its memory: --console - "
			"shows which\n",
			(unsigned long long)look->faults);
		return EXIT_DIFFERENT;
	}
	if (look->stopped || (built_in(demo) && look->beats == 0)) {
		fprintf(stderr, "vmferry demo: the guest does not run at the %s: %s\n", where,
			look->stopped ? look->why : "no vCPU beats");
		return code == EXIT_COMPLETED || code == EXIT_CANCELLED ? EXIT_FAILED : code;
	}
	return code;
}

static int conclude(struct demo *demo, struct json_object *report, int code)
{
	bool moved = code == EXIT_COMPLETED || code == EXIT_DIFFERENT;
	const char *where = moved ? "destination" : "source";
	struct look look;
	int rc = 0;

	if (code == EXIT_INDETERMINATE)
		where = "unknown";
	else
		rc = moved ? watch_destination(demo, &look) : watch_source(demo, &look);
	if (rc < 0)
		code = EXIT_FAILED;
	else if (code != EXIT_INDETERMINATE) {
		add_look(demo, report, where, &look);
		code = judge(demo, &look, where, code);
	}
	report_print(stdout, report);
	if (code == EXIT_CANCELLED)
		printf("\ncancelled; the guest runs on at the source\n");
	if (demo->own.json != NULL && report_write(demo->own.json, report) < 0 &&
	    code == EXIT_COMPLETED)
		code = EXIT_FAILED;
	return code;
}

static int ferry(struct demo *demo)
{
	struct json_object *report;
	int code;
	int rc;

	rc = start(demo);
	if (rc == 0)
		rc = wait_ready(demo);
	if (rc == -EINTR) {
		printf("cancelled before the migration began\n");
		return EXIT_CANCELLED;
	}
	if (rc < 0)
		return EXIT_FAILED;
	code = drive_migration(demo->source.client, demo->uri, &demo->migration, demo->signal_fd,
			       &report);
	if (report == NULL)
		return code;
	code = conclude(demo, report, code);
	json_object_put(report);
	return code;
}

static int stage(struct demo *demo)
{
	const char *base = getenv("XDG_RUNTIME_DIR");
	int code;

	snprintf(demo->directory, sizeof(demo->directory), "%s/vmferry-XXXXXX",
		 base != NULL && *base == '/' && strlen(base) < 40 ? base : "/tmp");
	if (mkdtemp(demo->directory) == NULL) {
		fprintf(stderr, "vmferry demo: %s: %s: make it writable\n", demo->directory,
			strerror(errno));
		return EXIT_FAILED;
	}
	code = ferry(demo);
	child_stop(&demo->source);
	child_stop(&demo->destination);
	rmdir(demo->directory);
	return code;
}

static int perform(struct demo *demo)
{
	int code = EXIT_FAILED;

	if (!kvm_present())
		return EXIT_UNABLE;
	if (console_open(demo->own.console, &demo->console_fd) < 0)
		return EXIT_FAILED;
	if (signals_open(&demo->signal_fd) == 0) {
		code = stage(demo);
		close(demo->signal_fd);
	}
	console_close(demo->console_fd);
	return code;
}

static int demo_main(struct cli *cli, int argc, char **argv)
{
	struct demo demo = {.log = &cli->log};
	struct common_settings common = {0};
	void *const targets[] = {&demo.machine,	  &demo.workload,
				 &demo.migration, &demo.migration.transport,
				 &demo.own,	  &common};
	struct option_result result;
	const char *wrong;
	int code;

	if (!option_parse(&command_demo, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	demo.migration.verify = demo.own.verify;
	wrong = transport_check(&demo.migration.transport);
	if (wrong != NULL)
		fprintf(stderr, "vmferry demo: %s\n", wrong);
	if (wrong != NULL || machine_check(&demo.machine, result.given[1] != 0) < 0)
		return EXIT_USAGE;
	return perform(&demo);
}

const struct command command_demo = {
	.name = "demo",
	.arguments = "",
	.summary = "Migrate a live guest from one process to another on this host, check it, and "
		   "report. Ctrl-C cancels, and the guest runs on at the source.",
	.groups = groups,
	.main = demo_main,
};
