/* SPDX-License-Identifier: MIT */
/*
 * One migration by QEMU, measured from outside as perf-ferry measures one by vmferry: two QEMU processes on this host with
 * the same guest image and command line, driven over QMP, the guest's ports on socket pairs. Prints one "name value" a line.
 *
 *     perf-qemu IMAGE COMMAND-LINE [--qemu PROGRAM] [--memory SIZE] [--multifd CHANNELS] [--downtime MS] [--warmup MS]
 *               [--max-time SECONDS] [--rdma ADDRESS [--pin-all]]
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "beats.h"
#include "channel.h"
#include "measure.h"

#define START_NS  (20 * NS_PER_S)
#define READY_NS  (300 * NS_PER_S)
#define ANSWER_NS (10 * NS_PER_S)
#define BEAT_NS	  (10 * NS_PER_S)
/* Bytes a second, far above what can be; 0 means other things to other versions. */
#define UNLIMITED (1ull << 40)
#define TEXT_MAX  160

struct side {
	const char *name;
	pid_t pid;
	struct channel qmp;
	struct beats_side ports;
	struct cpu_time before;
	struct cpu_time after;
};

static struct {
	const char *qemu;
	const char *image;
	const char *words;
	uint64_t memory;
	unsigned int multifd; /* channels, 0: one plain stream */
	unsigned int downtime_ms;
	const char *rdma; /* address of an RDMA port of this host, NULL: over TCP */
	bool pin_all;
	uint64_t warmup_ns;
	uint64_t max_ns;
} options = {
	.qemu = "qemu-system-x86_64",
	.memory = GIB,
	.downtime_ms = 300,
	.warmup_ns = 500 * NS_PER_MS,
	.max_ns = 120 * NS_PER_S,
};

static struct side source = {.name = "source"};
static struct side destination = {.name = "destination"};

static void clean_up(void)
{
	if (source.pid > 0)
		reap(source.pid);
	if (destination.pid > 0)
		reap(destination.pid);
}

/* ---- QMP ---------------------------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static struct json_object *command(struct side *side,
									 const char *fmt, ...)
{
	char text[512];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	channel_send_text(&side->qmp, text);
	return channel_await(&side->qmp, "return", NULL, now_ns() + ANSWER_NS);
}

static void set_up(struct side *side)
{
	json_object_put(channel_await(&side->qmp, "QMP", NULL, now_ns() + START_NS));
	json_object_put(command(side, "{\"execute\":\"qmp_capabilities\"}"));
	json_object_put(command(
		side,
		"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":["
		"{\"capability\":\"events\",\"state\":true},"
		"{\"capability\":\"rdma-pin-all\",\"state\":%s},"
		"{\"capability\":\"multifd\",\"state\":%s}]}}",
		options.pin_all ? "true" : "false", options.multifd > 0 ? "true" : "false"));
	json_object_put(command(
		side,
		"{\"execute\":\"migrate-set-parameters\",\"arguments\":{\"max-bandwidth\":%llu,"
		"\"downtime-limit\":%u,\"multifd-channels\":%u}}",
		UNLIMITED, options.downtime_ms, options.multifd > 0 ? options.multifd : 2));
}

/* ---- processes ---------------------------------------------------------------------------------------------- */

/* Our end is returned, the other is for the child to inherit: closed by the caller once it has started. */
static int pair(int *theirs)
{
	int fds[2];

	if (socketpair(AF_UNIX, SOCK_STREAM, 0, fds) < 0)
		die("socketpair: %s", strerror(errno));
	fcntl(fds[0], F_SETFD, FD_CLOEXEC);
	*theirs = fds[1];
	return fds[0];
}

static void start(struct side *side)
{
	char qmp[TEXT_MAX], beat[TEXT_MAX], status[TEXT_MAX], name[TEXT_MAX], memory[TEXT_MAX];
	char *args[] = {
		(char *)options.qemu,
		"-name",
		name,
		"-nodefaults",
		"-no-user-config",
		"-display",
		"none",
		"-machine",
		"pc,accel=kvm",
		"-cpu",
		"host",
		"-smp",
		"1",
		"-m",
		memory,
		"-kernel",
		(char *)options.image,
		"-append",
		(char *)options.words,
		"-chardev",
		qmp,
		"-mon",
		"chardev=qmp,mode=control",
		"-chardev",
		beat,
		"-device",
		"isa-debugcon,iobase=0xea,chardev=beat",
		"-chardev",
		status,
		"-device",
		"isa-debugcon,iobase=0xeb,chardev=status",
		"-chardev",
		"null,id=console",
		"-device",
		"isa-debugcon,iobase=0xe9,chardev=console",
		NULL,
		NULL,
		NULL,
	};
	int theirs[3];

	if (side == &destination) {
		size_t n = sizeof(args) / sizeof(args[0]) - 3;

		args[n] = "-incoming";
		args[n + 1] = "defer";
	}
	side->qmp = (struct channel){.name = side->name, .fd = pair(&theirs[0])};
	side->ports.beat_fd = pair(&theirs[1]);
	side->ports.status_fd = pair(&theirs[2]);
	snprintf(name, sizeof(name), "%s,debug-threads=on", side->name);
	snprintf(memory, sizeof(memory), "%" PRIu64 "M", options.memory / MIB);
	snprintf(qmp, sizeof(qmp), "socket,id=qmp,fd=%d", theirs[0]);
	snprintf(beat, sizeof(beat), "socket,id=beat,fd=%d", theirs[1]);
	snprintf(status, sizeof(status), "socket,id=status,fd=%d", theirs[2]);
	side->pid = spawn(args);
	for (int i = 0; i < 3; i++)
		close(theirs[i]);
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
	} while (!view.ready && view.faults == 0);
	sleep_ns(options.warmup_ns);
}

/* ---- the migration ------------------------------------------------------------------------------------------ */

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

static void await_beat(struct beats_view *view)
{
	uint64_t deadline = now_ns() + BEAT_NS;

	for (;;) {
		beats_look(view);
		if (view->count[BEATS_DESTINATION] > 0)
			return;
		if (now_ns() >= deadline)
			die("the guest does not beat at the destination");
		sleep_ns(NS_PER_MS);
	}
}

static void print_figures(uint64_t ns, const struct beats_view *view)
{
	struct json_object *answer = command(&source, "{\"execute\":\"query-migrate\"}");
	uint64_t used[2] = {cpu_used(source.before, source.after),
			    cpu_used(destination.before, destination.after)};

	printf("seconds %.6f\n", (double)ns / (double)NS_PER_S);
	printf("cpu_seconds %.6f\n", (double)(used[0] + used[1]) / (double)NS_PER_S);
	printf("source_cpu_seconds %.6f\n", (double)used[0] / (double)NS_PER_S);
	printf("destination_cpu_seconds %.6f\n", (double)used[1] / (double)NS_PER_S);
	printf("observed_blackout_us %" PRIu64 "\n",
	       (view->first_ns[BEATS_DESTINATION] - view->last_ns[BEATS_SOURCE]) / 1000);
	printf("blackout_us %" PRIu64 "\n", member_number(answer, "return/downtime") * 1000);
	printf("total_us %" PRIu64 "\n", member_number(answer, "return/total-time") * 1000);
	printf("bytes_sent %" PRIu64 "\n", member_number(answer, "return/ram/transferred"));
	printf("rounds %" PRIu64 "\n", member_number(answer, "return/ram/dirty-sync-count"));
	printf("longest_between_beats_us %" PRIu64 "\n", view->max_gap_ns[BEATS_SOURCE] / 1000);
	json_object_put(answer);
}

/* The same for both sides: where the one listens the other connects to. */
static void ask(struct side *side, const char *what, unsigned int port)
{
	json_object_put(command(side, "{\"execute\":\"%s\",\"arguments\":{\"uri\":\"%s:%s:%u\"}}",
				what, options.rdma != NULL ? "rdma" : "tcp",
				options.rdma != NULL ? options.rdma : "127.0.0.1", port));
}

static void migrate(void)
{
	unsigned int port = free_port();
	struct beats_view view;
	uint64_t begun;
	uint64_t ns;

	ask(&destination, "migrate-incoming", port);
	source.before = cpu_time(source.pid, "/KVM");
	destination.before = cpu_time(destination.pid, "/KVM");
	beats_forget_gaps();
	begun = now_ns();
	ask(&source, "migrate", port);
	await_end(begun + options.max_ns);
	ns = now_ns() - begun;
	await_beat(&view);
	freeze(source.pid);
	freeze(destination.pid);
	source.after = cpu_time(source.pid, "/KVM");
	destination.after = cpu_time(destination.pid, "/KVM");
	thaw(source.pid);
	thaw(destination.pid);
	if (view.faults != 0)
		die("the guest found faults in its memory");
	print_figures(ns, &view);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"qemu", required_argument, NULL, 'q'},
		{"memory", required_argument, NULL, 'm'},
		{"multifd", required_argument, NULL, 'f'},
		{"downtime", required_argument, NULL, 'd'},
		{"warmup", required_argument, NULL, 'w'},
		{"max-time", required_argument, NULL, 't'},
		{"rdma", required_argument, NULL, 'r'},
		{"pin-all", no_argument, NULL, 'p'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'q')
			options.qemu = optarg;
		else if (c == 'm')
			options.memory = parse_size(optarg);
		else if (c == 'f')
			options.multifd = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'd')
			options.downtime_ms = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'w')
			options.warmup_ns = strtoull(optarg, NULL, 10) * NS_PER_MS;
		else if (c == 't')
			options.max_ns = strtoull(optarg, NULL, 10) * NS_PER_S;
		else if (c == 'r')
			options.rdma = optarg;
		else if (c == 'p')
			options.pin_all = true;
		else
			exit(2);
	}
	if (argc - optind != 2)
		die("usage: perf-qemu IMAGE COMMAND-LINE [--qemu PROGRAM] [--memory SIZE] [--multifd CHANNELS] "
		    "[--downtime MS] [--warmup MS] [--max-time SECONDS] [--rdma ADDRESS [--pin-all]]");
	options.image = argv[optind];
	options.words = argv[optind + 1];
}

int main(int argc, char **argv)
{
	struct beats_side sides[BEATS_SIDES];

	parse(argc, argv);
	atexit(clean_up);
	start(&destination);
	start(&source);
	sides[BEATS_SOURCE] = source.ports;
	sides[BEATS_DESTINATION] = destination.ports;
	beats_start(sides);
	set_up(&destination);
	set_up(&source);
	await_ready();
	be_prompt();
	migrate();
	return 0;
}
