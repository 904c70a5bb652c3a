/* SPDX-License-Identifier: MIT */
/*
 * One migration by QEMU, measured from outside as perf-ferry measures one by vmferry: two QEMU
 * processes on this host with the same guest image and command line, driven over QMP, the guest's
 * ports on socket pairs. Prints one "name value" a line.
 *
 *     perf-qemu IMAGE COMMAND-LINE [--qemu PROGRAM] [--tcg] [--memory SIZE]
 *               [--mapped | --mapped-in DIR] [--multifd CHANNELS] [--downtime MS]
 *               [--warmup MS] [--touch SIZE] [--max-time SECONDS] [--rdma ADDRESS [--pin-all]]
 *               [--check] [--lossy] [--ferry VMFERRY [--place KIND] [--rail ADDRESS]]
 *
 * With --ferry the migration goes over unix sockets and through vmferry's adaptor, which is
 * measured with QEMU: over TCP, or over RDMA from the port with that address to itself.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "adaptors.h"
#include "beats.h"
#include "machine.h"
#include "measure.h"

#define READY_NS (300 * NS_PER_S)
#define BEAT_NS	 (10 * NS_PER_S)
#define CHECK_NS (120 * NS_PER_S)
#define TEXT_MAX 96
/* Bytes a second, far above what can be; 0 means other things to other versions. */
#define UNLIMITED (1ull << 40)

static struct {
	struct machine_options machine;
	unsigned int multifd; /* channels, 0: one plain stream */
	unsigned int downtime_ms;
	const char *rdma; /* address of an RDMA port of this host, NULL: over TCP */
	bool pin_all;
	struct adaptors_options ferry; /* without a program: none */
	const char *shared;	       /* the destination's memory, see struct machine_options */
	bool check;
	bool lossy; /* this QEMU may lose pages: then only measure again */
	uint64_t warmup_ns;
	uint64_t touch; /* bytes of free memory, before the migration */
	uint64_t max_ns;
} options = {
	.machine = {.qemu = "qemu-system-x86_64", .memory = GIB},
	.downtime_ms = 300,
	.warmup_ns = 500 * NS_PER_MS,
	.max_ns = 120 * NS_PER_S,
};

static struct machine source = {.name = "source"};
static struct machine destination = {.name = "destination"};

static struct adaptors adaptors;

static void clean_up(void)
{
	adaptors_end(&adaptors);
	machine_end(&source);
	machine_end(&destination);
}

static void set_up(struct machine *m)
{
	json_object_put(machine_command(
		m,
		"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":["
		"{\"capability\":\"events\",\"state\":true},"
		"{\"capability\":\"rdma-pin-all\",\"state\":%s},"
		"{\"capability\":\"multifd\",\"state\":%s}]}}",
		options.pin_all ? "true" : "false", options.multifd > 0 ? "true" : "false"));
	json_object_put(machine_command(
		m,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":%llu,"
		"\"downtime-limit\":%u,\"multifd-channels\":%u}}",
		UNLIMITED, options.downtime_ms, options.multifd > 0 ? options.multifd : 2));
}

/* A port that is free now; QEMU itself cannot be asked to choose one for several connections. */
static unsigned int free_port(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ||
	    getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		die("no free port: %s", strerror(errno));
	close(fd);
	return ntohs(address.sin_port);
}

static void await_ready(void)
{
	uint64_t deadline = now_ns() + READY_NS;
	struct beats_view view;

	do {
		if (now_ns() >= deadline)
			die("the guest did not get ready");
		sleep_ns(20 * NS_PER_MS);
		beats_look(&view);
		if (view.faults != 0)
			die("the guest stopped at its start");
	} while (!view.ready);
	sleep_ns(options.warmup_ns);
}

/* ---- the migration --------------------------------------------------------------------------- */

static void await_end(uint64_t deadline)
{
	for (;;) {
		struct json_object *event =
			channel_await(&source.qmp, "event", "MIGRATION", deadline);
		const char *status = member_text(event, "data/status");

		if (strcmp(status, "failed") == 0)
			die("the migration failed");
		if (strcmp(status, "completed") == 0) {
			json_object_put(event);
			return;
		}
		json_object_put(event);
	}
}

/* The guest has not survived its migration. */
__attribute__((noreturn)) static void die_of_loss(const char *what)
{
	if (options.lossy)
		exit(MEASURE_AGAIN);
	die("%s", what);
}

/* Tells a migration that has not ended there ("inmigrate") from a guest that died of it. */
__attribute__((noreturn)) static void die_without_beat(void)
{
	struct json_object *answer =
		machine_command(&destination, "{\"execute\":\"query-status\"}");
	const char *state = member_text(answer, "return/status");

	if (strcmp(state, "running") != 0)
		die("the guest does not run at the destination: %s", state);
	die_of_loss("the guest does not beat at the destination");
}

static void await_beat(struct beats_view *view)
{
	uint64_t deadline = now_ns() + BEAT_NS;

	for (;;) {
		beats_look(view);
		if (view->faults != 0)
			die_of_loss("the guest found faults in its memory");
		if (view->count[BEATS_DESTINATION] > 0)
			return;
		if (now_ns() >= deadline)
			die_without_beat();
		sleep_ns(NS_PER_MS);
	}
}

static void print_figures(uint64_t ns, const struct beats_view *view)
{
	struct json_object *answer = machine_command(&source, "{\"execute\":\"query-migrate\"}");
	uint64_t send = cpu_used(adaptors.send.before, adaptors.send.after);
	uint64_t receive = cpu_used(adaptors.receive.before, adaptors.receive.after);
	uint64_t used[2] = {cpu_used(source.before, source.after) + send,
			    cpu_used(destination.before, destination.after) + receive};

	printf("seconds %.6f\n", (double)ns / (double)NS_PER_S);
	printf("cpu_seconds %.6f\n", (double)(used[0] + used[1]) / (double)NS_PER_S);
	printf("source_cpu_seconds %.6f\n", (double)used[0] / (double)NS_PER_S);
	printf("destination_cpu_seconds %.6f\n", (double)used[1] / (double)NS_PER_S);
	printf("adaptors_cpu_seconds %.6f\n", (double)(send + receive) / (double)NS_PER_S);
	printf("observed_blackout_us %" PRIu64 "\n",
	       (view->first_ns[BEATS_DESTINATION] - view->last_ns[BEATS_SOURCE]) / 1000);
	printf("blackout_us %" PRIu64 "\n", member_number(answer, "return/downtime") * 1000);
	printf("total_us %" PRIu64 "\n", member_number(answer, "return/total-time") * 1000);
	printf("bytes_sent %" PRIu64 "\n", member_number(answer, "return/ram/transferred"));
	printf("rounds %" PRIu64 "\n", member_number(answer, "return/ram/dirty-sync-count"));
	printf("longest_between_beats_us %" PRIu64 "\n", view->max_gap_ns[BEATS_SOURCE] / 1000);
	json_object_put(answer);
}

static void ask(struct machine *m, const char *what, const char *uri)
{
	json_object_put(machine_command(m, "{\"execute\":\"%s\",\"arguments\":{\"uri\":\"%s\"}}",
					what, uri));
}

/* Makes the destination listen. Returns where the source connects to. */
static const char *open_road(void)
{
	static char direct[TEXT_MAX];
	unsigned int port = free_port();

	if (options.ferry.vmferry != NULL) {
		adaptors_start(&adaptors, &options.ferry, port);
		ask(&destination, "migrate-incoming", adaptors.destination);
		return adaptors.source;
	}
	snprintf(direct, sizeof(direct), "%s:%s:%u", options.rdma != NULL ? "rdma" : "tcp",
		 options.rdma != NULL ? options.rdma : "127.0.0.1", port);
	ask(&destination, "migrate-incoming", direct);
	return direct;
}

struct measured {
	pid_t pid;
	struct cpu_time *before;
	struct cpu_time *after;
};

/* Those whose CPU time counts. */
static size_t all_measured(struct measured list[4])
{
	size_t n = 0;

	list[n++] = (struct measured){source.pid, &source.before, &source.after};
	list[n++] = (struct measured){destination.pid, &destination.before, &destination.after};
	if (options.ferry.vmferry != NULL) {
		list[n++] = (struct measured){adaptors.send.pid, &adaptors.send.before,
					      &adaptors.send.after};
		list[n++] = (struct measured){adaptors.receive.pid, &adaptors.receive.before,
					      &adaptors.receive.after};
	}
	return n;
}

/* While all of them stand still: the figures are of one moment. */
static void take_cpu_times(const struct measured *list, size_t count)
{
	for (size_t i = 0; i < count; i++)
		freeze(list[i].pid);
	for (size_t i = 0; i < count; i++)
		*list[i].after = cpu_time(list[i].pid, MACHINE_VCPU);
	for (size_t i = 0; i < count; i++)
		thaw(list[i].pid);
}

static void migrate(const char *uri)
{
	struct measured list[4];
	size_t count = all_measured(list);
	struct beats_view view;
	uint64_t begun;
	uint64_t ns;

	for (size_t i = 0; i < count; i++)
		*list[i].before = cpu_time(list[i].pid, MACHINE_VCPU);
	beats_forget_gaps();
	begun = now_ns();
	ask(&source, "migrate", uri);
	await_end(begun + options.max_ns);
	ns = now_ns() - begun;
	await_beat(&view);
	take_cpu_times(list, count);
	print_figures(ns, &view);
	if (options.ferry.vmferry != NULL)
		adaptors_print(&adaptors, &options.ferry);
}

/*
 * Until the guest has read all its memory at the destination: behind the second pass' end there
 * surely was a whole one.
 */
static void check(void)
{
	uint64_t deadline = now_ns() + CHECK_NS;
	struct beats_view view;
	uint64_t passes;

	beats_look(&view);
	passes = view.scrubs[BEATS_DESTINATION];
	while (view.faults == 0 && view.scrubs[BEATS_DESTINATION] < passes + 2) {
		if (now_ns() >= deadline)
			die("the guest does not check its memory at the destination");
		sleep_ns(20 * NS_PER_MS);
		beats_look(&view);
	}
	if (view.faults != 0)
		die("the guest found faults in its memory");
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"qemu", required_argument, NULL, 'q'},
		{"memory", required_argument, NULL, 'm'},
		{"multifd", required_argument, NULL, 'f'},
		{"downtime", required_argument, NULL, 'd'},
		{"warmup", required_argument, NULL, 'w'},
		{"touch", required_argument, NULL, 'u'},
		{"max-time", required_argument, NULL, 't'},
		{"rdma", required_argument, NULL, 'r'},
		{"pin-all", no_argument, NULL, 'p'},
		{"ferry", required_argument, NULL, 'F'},
		{"place", required_argument, NULL, 'P'},
		{"rail", required_argument, NULL, 'R'},
		{"mapped", no_argument, NULL, 'M'},
		{"mapped-in", required_argument, NULL, 'I'},
		{"tcg", no_argument, NULL, 'T'},
		{"check", no_argument, NULL, 'c'},
		{"lossy", no_argument, NULL, 'l'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'q')
			options.machine.qemu = optarg;
		else if (c == 'm')
			options.machine.memory = parse_size(optarg);
		else if (c == 'f')
			options.multifd = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'd')
			options.downtime_ms = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'w')
			options.warmup_ns = strtoull(optarg, NULL, 10) * NS_PER_MS;
		else if (c == 'u')
			options.touch = parse_size(optarg);
		else if (c == 't')
			options.max_ns = strtoull(optarg, NULL, 10) * NS_PER_S;
		else if (c == 'r')
			options.rdma = optarg;
		else if (c == 'p')
			options.pin_all = true;
		else if (c == 'F')
			options.ferry.vmferry = optarg;
		else if (c == 'P')
			options.ferry.place = optarg;
		else if (c == 'R')
			options.ferry.rail = optarg;
		else if (c == 'M')
			options.shared = "";
		else if (c == 'I')
			options.shared = optarg;
		else if (c == 'T')
			options.machine.emulated = true;
		else if (c == 'c')
			options.check = true;
		else if (c == 'l')
			options.lossy = true;
		else
			exit(2);
	}
}

int main(int argc, char **argv)
{
	struct beats_side sides[BEATS_SIDES];
	const char *uri;

	parse(argc, argv);
	if (argc - optind != 2)
		die("usage: perf-qemu IMAGE COMMAND-LINE [OPTION]...: see perf/qemu.c");
	options.machine.image = argv[optind];
	options.machine.words = argv[optind + 1];
	atexit(clean_up);
	exit_on_signals();
	options.machine.shared = options.shared;
	machine_start(&destination, &options.machine, true);
	options.machine.shared = NULL;
	machine_start(&source, &options.machine, false);
	sides[BEATS_SOURCE] = source.ports;
	sides[BEATS_DESTINATION] = destination.ports;
	beats_start(sides);
	set_up(&destination);
	set_up(&source);
	/*
	 * Before be_prompt(): what that thread starts loses a priority that all of this was given.
	 */
	uri = open_road();
	await_ready();
	touch_free_memory(options.touch);
	be_prompt();
	migrate(uri);
	if (options.check)
		check();
	return 0;
}
