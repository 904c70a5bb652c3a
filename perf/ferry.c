/* SPDX-License-Identifier: MIT */
/*
 * One migration by vmferry, measured from outside: starts `vmferry receive` and `vmferry run`, asks
 * for the migration over the control socket, and prints one "name value" a line: the wall time from
 * the request to the report, CPU time of both processes without vCPUs, memory of both, and what the
 * report says.
 *
 *     perf-ferry VMFERRY [--scan] [--warmup MS] [--touch SIZE] [--set NAME=VALUE]... [-- OPTIONS OF
 *     vmferry run]
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "channel.h"
#include "measure.h"

#define START_NS   (10 * NS_PER_S)
#define READY_NS   (300 * NS_PER_S)
#define MIGRATE_NS (60 * NS_PER_S)
#define ANSWER_NS  (5 * NS_PER_S)
#define ARGS_MAX   64

struct side {
	pid_t pid;
	char path[96];
	struct channel channel;
	struct cpu_time before;
	struct cpu_time after;
	struct memory_use memory;
};

static char directory[] = "/tmp/vmferry-perf-XXXXXX";
static struct side source;
static struct side destination;
static struct json_object *settings;
static bool scan;
static uint64_t warmup_ns = 500 * NS_PER_MS;
static uint64_t touch; /* bytes of free memory, before the migration */

static void clean_up(void)
{
	if (source.pid > 0)
		reap(source.pid);
	if (destination.pid > 0)
		reap(destination.pid);
	if (source.path[0] != '\0')
		unlink(source.path);
	if (destination.path[0] != '\0')
		unlink(destination.path);
	rmdir(directory);
}

static void start(struct side *side, const char *name, char **argv, int count, char **more)
{
	char *args[ARGS_MAX + 8];
	int n = 0;

	snprintf(side->path, sizeof(side->path), "%s/%s", directory, name);
	while (n < count) {
		args[n] = argv[n];
		n++;
	}
	args[n++] = "--control";
	args[n++] = side->path;
	args[n++] = "--console";
	args[n++] = "none";
	for (int i = 0; more != NULL && more[i] != NULL && n < ARGS_MAX; i++)
		args[n++] = more[i];
	args[n] = NULL;
	side->pid = spawn(args);
	channel_connect(&side->channel, name, side->path, now_ns() + START_NS);
}

static struct json_object *status(struct side *side)
{
	channel_send_text(&side->channel, "{\"command\":\"status\"}");
	return channel_await(&side->channel, "event", "status", now_ns() + ANSWER_NS);
}

static void await_ready(void)
{
	uint64_t deadline = now_ns() + READY_NS;
	bool ready = false;

	while (!ready) {
		struct json_object *s = status(&source);

		ready = json_object_get_boolean(member(s, "ready"));
		json_object_put(s);
		if (now_ns() >= deadline)
			die("the guest did not get ready");
		sleep_ns(20 * NS_PER_MS);
	}
	sleep_ns(warmup_ns);
}

static struct json_object *request(void)
{
	struct json_object *s = status(&destination);
	struct json_object *r = json_object_new_object();

	json_object_object_add(r, "command", json_object_new_string("migrate"));
	json_object_object_add(r, "uri", json_object_new_string(member_text(s, "uri")));
	json_object_object_add(r, "options", settings);
	settings = NULL;
	json_object_put(s);
	return r;
}

static void print_number(struct json_object *report, const char *name)
{
	struct json_object *value = member(report, name);

	if (value != NULL)
		printf("%s %" PRIu64 "\n", name, json_object_get_uint64(value));
}

static void print_report(struct json_object *report)
{
	static const char *const numbers[] = {
		"lanes",
		"blackout_us",
		"observed_blackout_us",
		"predicted_blackout_us",
		"bytes_sent",
		"bytes_minimum",
		"first_pass_bytes_per_second",
		"rounds",
		"total_us",
		"cpu/source_lanes_us",
		"cpu/source_harvester_us",
		"cpu/source_control_us",
		"cpu/destination_lanes_us",
		"cpu/destination_control_us",
		"link/destination_populate_us",
		"link/stall_us",
	};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		print_number(report, numbers[i]);
	printf("tracker %s\n", member_text(report, "tracker"));
}

static void print_memory(const char *name, const struct memory_use *use)
{
	printf("%s_rss_bytes %" PRIu64 "\n", name, use->rss);
	printf("%s_guest_bytes %" PRIu64 "\n", name, use->guest);
	if (scan)
		printf("%s_nonzero_bytes %" PRIu64 "\n", name, use->nonzero);
}

static void migrate(void)
{
	struct json_object *r = request();
	struct json_object *event;
	uint64_t used[2];
	uint64_t begun;
	uint64_t ns;

	source.memory = memory_use(source.pid, scan);
	source.before = cpu_time(source.pid, "vcpu");
	destination.before = cpu_time(destination.pid, "vcpu");
	begun = now_ns();
	channel_send(&source.channel, r);
	json_object_put(channel_await(&source.channel, "event", "started", begun + ANSWER_NS));
	channel_await_text(&source.channel, "\"report\"", begun + MIGRATE_NS);
	ns = now_ns() - begun;
	/* The source ends now that its guest has gone, and its threads' times with it. */
	freeze(source.pid);
	freeze(destination.pid);
	source.after = cpu_time(source.pid, "vcpu");
	destination.after = cpu_time(destination.pid, "vcpu");
	destination.memory = memory_use(destination.pid, scan);
	thaw(source.pid);
	thaw(destination.pid);
	event = channel_await(&source.channel, "event", "report", now_ns() + ANSWER_NS);
	if (strcmp(member_text(event, "report/result"), "completed") != 0)
		die("the migration did not complete: %s", json_object_to_json_string(event));
	used[0] = cpu_used(source.before, source.after);
	used[1] = cpu_used(destination.before, destination.after);
	printf("seconds %.6f\n", (double)ns / (double)NS_PER_S);
	printf("cpu_seconds %.6f\n", (double)(used[0] + used[1]) / (double)NS_PER_S);
	printf("source_cpu_seconds %.6f\n", (double)used[0] / (double)NS_PER_S);
	printf("destination_cpu_seconds %.6f\n", (double)used[1] / (double)NS_PER_S);
	print_report(member(event, "report"));
	print_memory("source", &source.memory);
	print_memory("destination", &destination.memory);
	json_object_put(event);
}

/* A guest that found its memory wrong makes all figures worthless. */
static void check_guest(void)
{
	struct json_object *s = status(&destination);

	if (member_number(s, "faults") != 0 || strcmp(member_text(s, "state"), "running") != 0)
		die("the guest is not well at the destination: %s", json_object_to_json_string(s));
	json_object_put(s);
}

static void set(const char *text)
{
	const char *value = strchr(text, '=');
	char name[32];

	if (value == NULL)
		die("--set %s: write NAME=VALUE, for example downtime=5ms", text);
	snprintf(name, sizeof(name), "%.*s", (int)(value - text), text);
	json_object_object_add(settings, name, json_object_new_string(value + 1));
}

static void parse(int argc, char **argv)
{
	static const struct option options[] = {
		{"scan", no_argument, NULL, 's'},
		{"warmup", required_argument, NULL, 'w'},
		{"touch", required_argument, NULL, 't'},
		{"set", required_argument, NULL, 'o'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		if (c == 's')
			scan = true;
		else if (c == 'w')
			warmup_ns = strtoull(optarg, NULL, 10) * NS_PER_MS;
		else if (c == 't')
			touch = parse_size(optarg);
		else if (c == 'o')
			set(optarg);
		else
			exit(2);
	}
}

int main(int argc, char **argv)
{
	char *receive[] = {NULL, "receive", "tcp:127.0.0.1:0"};
	char *run[] = {NULL, "run"};

	settings = json_object_new_object();
	if (argc < 2 || argv[1][0] == '-')
		die("usage: perf-ferry VMFERRY [--scan] [--warmup MS] [--touch SIZE] "
		    "[--set NAME=VALUE]... [-- OPTIONS OF vmferry run]");
	receive[0] = run[0] = argv[1];
	parse(argc - 1, argv + 1);
	if (mkdtemp(directory) == NULL)
		die("/tmp: cannot make a directory");
	atexit(clean_up);
	exit_on_signals();
	start(&destination, "destination", receive, 3, NULL);
	start(&source, "source", run, 2, argv + 1 + optind);
	await_ready();
	touch_free_memory(touch);
	be_prompt();
	migrate();
	check_guest();
	return 0;
}
