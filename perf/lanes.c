/* SPDX-License-Identifier: MIT */
/*
 * RDMA lanes alone, by the public transport interface: two processes of which one moves its memory
 * into the other's, in order as a first pass does or a page here and there as later rounds do, and
 * then sets fences on a lane that has nothing else to do. What perftest measures with ib_write_bw
 * and ib_write_lat. Prints one "name value" a line.
 *
 *     perf-lanes --rail ADDRESS [--transport tcp] [--lanes N] [--size BYTES] [--depth N] [--memory
 *     SIZE] [--rounds N] [--scattered]
 *                [--fences N]
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmferry/transport.h>

#include "measure.h"

#define PAGE	  4096ull
#define ADDRESS	  (4 * GIB)
#define STRIPE	  (2 * MIB) /* memory goes to lanes by turns of so much, as the engine's does */
#define BATCH	  64
#define LANES_MAX 16
#define LIMIT_NS  (120 * NS_PER_S)
#define URI_MAX	  128

/* The source's messages: what its next fences are for. */
enum phase {
	PHASE_BULK,
	PHASE_FENCES,	     /* the destination sleeps for them */
	PHASE_FENCES_POLLED, /* both sides spin */
	PHASE_OVER,
	PHASE_READY, /* the destination's: go on */
};

struct pass {
	struct vmferry_session *session;
	struct vmferry_memory *memory;
	unsigned int lane;
	unsigned int rounds;
	uint32_t epoch;
};

struct span {
	uint64_t ns;
	uint64_t user_ns; /* of this process, all threads */
	uint64_t system_ns;
};

static struct {
	struct vmferry_transport_options transport;
	uint64_t memory;
	uint64_t size;
	unsigned int depth;
	unsigned int rounds;
	unsigned int fences;
	bool scattered;
} options = {
	.transport = {.size = sizeof(options.transport),
		      .transport = VMFERRY_TRANSPORT_RDMA,
		      .lanes = 1},
	.memory = 32 * MIB,
	.size = 64 << 10,
	.depth = 128,
	.rounds = 2,
	.fences = 400,
};

/*
 * When the destination saw the fences, of one lane, both sides spinning. Both processes have it:
 * their clock is the same.
 */
static _Atomic uint64_t *arrivals;

static uint64_t limit(void)
{
	return vmferry_now() + LIMIT_NS;
}

static void must(const char *what, int ret)
{
	if (ret < 0)
		die("%s: %s", what, strerror(-ret));
}

static void print_log(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	fprintf(stderr, "%s\n", line);
}

static void *filled(int value)
{
	void *base = mmap(NULL, options.memory, PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (base == MAP_FAILED)
		die("no memory: %s", strerror(errno));
	memset(base, value, options.memory);
	return base;
}

static void tell(struct vmferry_session *session, enum phase phase, uint32_t epoch)
{
	must("send", vmferry_send(session, VMFERRY_CONTROL, phase, &epoch, sizeof(epoch), limit()));
}

static enum phase hear(struct vmferry_session *session, uint32_t *epoch)
{
	struct vmferry_message message;
	enum phase phase;

	must("receive", vmferry_recv(session, &message, limit()));
	if (message.length != sizeof(*epoch))
		die("a message makes no sense");
	memcpy(epoch, message.data, sizeof(*epoch));
	phase = message.type;
	vmferry_message_free(&message);
	return phase;
}

/* ---- destination ----------------------------------------------------------------------------- */

static void stamp_fences(struct vmferry_session *session, uint32_t first)
{
	for (unsigned int i = 0; i < options.fences; i++) {
		must("fence", vmferry_fence_wait(session, first + i, limit()));
		atomic_store(&arrivals[i], now_ns());
	}
}

static void serve(struct vmferry_session *session)
{
	uint32_t epoch;
	enum phase phase;

	while ((phase = hear(session, &epoch)) != PHASE_OVER) {
		vmferry_session_busy_poll(session, phase == PHASE_FENCES_POLLED ? limit() : 0);
		tell(session, PHASE_READY, epoch);
		/* Of more lanes only the last fence comes on all. */
		if (phase == PHASE_FENCES_POLLED && vmferry_session_lanes(session) == 1)
			stamp_fences(session, epoch - options.fences);
		must("fence", vmferry_fence_wait(session, epoch, limit()));
	}
}

/* What has come is what was sent: a figure for bytes that did not arrive would be none. */
static void compare(const uint8_t *base)
{
	for (uint64_t at = 0; at < options.memory; at += options.scattered ? 2 * PAGE : PAGE)
		if (base[at] != 0x5a || base[at + PAGE - 1] != 0x5a)
			die("byte %" PRIu64 " has not arrived", at);
}

static void destination(int uri_fd)
{
	struct vmferry_listener *listener;
	struct vmferry_session *session;
	struct vmferry_memory *memory;
	void *base = filled(0);
	char uri[URI_MAX] = "";

	options.transport.lanes = LANES_MAX;
	must("listen", vmferry_listen("tcp:127.0.0.1:0", &options.transport, &listener));
	snprintf(uri, sizeof(uri), "%s", vmferry_listener_uri(listener));
	if (write(uri_fd, uri, sizeof(uri)) != sizeof(uri))
		die("the source is gone");
	must("accept", vmferry_accept(listener, limit(), &session));
	vmferry_listener_close(&listener);
	must("register", vmferry_register(session, base, options.memory, ADDRESS,
					  VMFERRY_ACCESS_REMOTE_WRITE, &memory));
	must("prepare", vmferry_prepare(memory, 0, options.memory));
	tell(session, PHASE_READY, 0);
	serve(session);
	compare(base);
	vmferry_deregister(&memory);
	vmferry_session_close(&session);
}

/* ---- source ---------------------------------------------------------------------------------- */

static void give(const struct pass *pass, const struct vmferry_write *writes, unsigned int count)
{
	unsigned int done = 0;

	while (done < count) {
		int ret = vmferry_lane_write(pass->session, pass->lane, writes + done, count - done,
					     limit());

		must("write", ret);
		done += (unsigned int)ret;
	}
}

/* One lane's part of the memory, once. */
static void write_round(const struct pass *pass)
{
	uint64_t step = options.scattered ? 2 * PAGE : STRIPE;
	struct vmferry_write writes[BATCH];
	unsigned int count = 0;

	for (uint64_t at = 0; at < options.memory; at += step) {
		if (at / STRIPE % options.transport.lanes != pass->lane)
			continue;
		writes[count++] = (struct vmferry_write){pass->memory, at, ADDRESS + at,
							 options.scattered ? PAGE : STRIPE};
		if (count < BATCH)
			continue;
		give(pass, writes, count);
		count = 0;
	}
	give(pass, writes, count);
}

static void *write_lane(void *arg)
{
	const struct pass *pass = arg;

	for (unsigned int i = 0; i < pass->rounds; i++)
		write_round(pass);
	must("fence", vmferry_lane_fence(pass->session, pass->lane, pass->epoch, limit()));
	must("fence wait",
	     vmferry_lane_fence_wait(pass->session, pass->lane, pass->epoch, limit()));
	return NULL;
}

static uint64_t timeval_ns(struct timeval tv)
{
	return (uint64_t)tv.tv_sec * NS_PER_S + (uint64_t)tv.tv_usec * 1000;
}

static struct span stamp(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (struct span){now_ns(), timeval_ns(usage.ru_utime), timeval_ns(usage.ru_stime)};
}

static struct span since(struct span begun)
{
	struct span now = stamp();

	return (struct span){now.ns - begun.ns, now.user_ns - begun.user_ns,
			     now.system_ns - begun.system_ns};
}

static void announce(struct vmferry_session *session, enum phase phase, uint32_t epoch)
{
	tell(session, phase, epoch);
	if (hear(session, &epoch) != PHASE_READY)
		die("the destination is out of step");
}

/*
 * All lanes at once, a thread each; one lane has this thread, so that its time is not a thread's
 * creation.
 */
static struct span move(struct pass all, unsigned int rounds)
{
	struct pass passes[LANES_MAX] = {all};
	pthread_t threads[LANES_MAX] = {0};
	struct span begun;

	announce(all.session, PHASE_BULK, all.epoch);
	passes[0].lane = 0;
	passes[0].rounds = rounds;
	begun = stamp();
	for (unsigned int i = 1; i < options.transport.lanes; i++) {
		passes[i] = all;
		passes[i].lane = i;
		passes[i].rounds = rounds;
		if (pthread_create(&threads[i], NULL, write_lane, &passes[i]) != 0)
			die("no thread for lane %u", i);
	}
	write_lane(&passes[0]);
	for (unsigned int i = 1; i < options.transport.lanes; i++)
		pthread_join(threads[i], NULL);
	return since(begun);
}

static struct vmferry_lane_stats stats(struct vmferry_session *session)
{
	struct vmferry_lane_stats sum = {0};

	for (unsigned int i = 0; i < options.transport.lanes; i++) {
		struct vmferry_lane_stats one;

		must("statistics", vmferry_lane_stats(session, i, &one));
		sum.bytes += one.bytes;
		sum.requests += one.requests;
		sum.submissions += one.submissions;
		sum.signals += one.signals;
		sum.sleeps += one.sleeps;
		sum.stall_ns += one.stall_ns;
	}
	return sum;
}

static void print_bulk(struct span span, struct vmferry_lane_stats before,
		       struct vmferry_lane_stats after)
{
	double bytes = (double)(after.bytes - before.bytes);
	double requests = (double)(after.requests - before.requests);

	printf("bytes %.0f\n", bytes);
	printf("bytes_per_second %.0f\n", bytes * (double)NS_PER_S / (double)span.ns);
	printf("user_seconds %.6f\n", (double)span.user_ns / (double)NS_PER_S);
	printf("system_seconds %.6f\n", (double)span.system_ns / (double)NS_PER_S);
	printf("requests_per_doorbell %.2f\n",
	       requests / (double)(after.submissions - before.submissions));
	printf("writes_per_signal %.2f\n", requests / (double)(after.signals - before.signals));
	printf("sleeps %" PRIu64 "\n", after.sleeps - before.sleeps);
	printf("stall_seconds %.6f\n",
	       (double)(after.stall_ns - before.stall_ns) / (double)NS_PER_S);
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

static void print_times(const char *what, uint64_t *ns)
{
	unsigned int middle = options.fences / 2, high = options.fences * 9 / 10;

	qsort(ns, options.fences, sizeof(*ns), ascending);
	printf("%s_us %.1f\n", what, (double)ns[middle] / 1e3);
	/* On a machine that others load the least says more of the work than the middle. */
	printf("%s_least_us %.1f\n", what, (double)ns[0] / 1e3);
	printf("%s_p90_us %.1f\n", what, (double)ns[high] / 1e3);
}

/*
 * Returns the epoch after the last. All lanes get that one, or the destination would wait for ever.
 */
static uint32_t time_fences(struct vmferry_session *session, uint32_t epoch, bool polled)
{
	bool stamped = polled && options.transport.lanes == 1;
	uint32_t last = epoch + options.fences;
	uint64_t *ns = calloc(2 * (size_t)options.fences, sizeof(*ns));
	uint64_t *there = ns + options.fences;

	if (ns == NULL)
		die("no memory");
	announce(session, polled ? PHASE_FENCES_POLLED : PHASE_FENCES, last);
	vmferry_session_busy_poll(session, polled ? limit() : 0);
	for (unsigned int i = 0; i < options.fences; i++) {
		uint64_t begun = now_ns();

		must("fence", vmferry_lane_fence(session, 0, epoch + i, limit()));
		must("fence wait", vmferry_lane_fence_wait(session, 0, epoch + i, limit()));
		ns[i] = now_ns() - begun;
		there[i] = begun;
	}
	for (unsigned int i = 0; i < options.transport.lanes; i++) {
		must("fence", vmferry_lane_fence(session, i, last, limit()));
		must("fence wait", vmferry_lane_fence_wait(session, i, last, limit()));
	}
	vmferry_session_busy_poll(session, 0);
	print_times(polled ? "fence_polled" : "fence", ns);
	/* The last fence of all lanes came behind these: all are stamped. */
	for (unsigned int i = 0; stamped && i < options.fences; i++)
		there[i] = atomic_load(&arrivals[i]) - there[i];
	if (stamped)
		print_times("fence_there", there);
	free(ns);
	return last + 1;
}

static void measure(struct pass all)
{
	struct vmferry_lane_stats before, after;
	struct span span;
	uint32_t epoch;

	if (hear(all.session, &epoch) != PHASE_READY)
		die("the destination is out of step");
	/* Once for nothing, so that all is pinned, and its keys are here. */
	all.epoch = 1;
	move(all, 1);
	before = stats(all.session);
	all.epoch = 2;
	span = move(all, options.rounds);
	after = stats(all.session);
	print_bulk(span, before, after);
	if (options.fences > 0) {
		epoch = time_fences(all.session, 3, true);
		time_fences(all.session, epoch, false);
	}
	tell(all.session, PHASE_OVER, 0);
}

static void source(int uri_fd)
{
	struct pass all = {0};
	void *base = filled(0x5a);
	char uri[URI_MAX];

	if (read(uri_fd, uri, sizeof(uri)) != sizeof(uri))
		die("the destination did not start");
	options.transport.write_bytes = (uint32_t)options.size;
	options.transport.window_bytes = (uint32_t)(options.size * options.depth);
	must("connect", vmferry_connect(uri, &options.transport, limit(), &all.session));
	if (vmferry_session_lanes(all.session) != options.transport.lanes)
		die("there are %u lanes", vmferry_session_lanes(all.session));
	must("register", vmferry_register(all.session, base, options.memory, ADDRESS,
					  VMFERRY_ACCESS_LOCAL, &all.memory));
	must("prepare", vmferry_prepare(all.memory, 0, options.memory));
	measure(all);
	vmferry_deregister(&all.memory);
	vmferry_session_close(&all.session);
}

/* ---- both ------------------------------------------------------------------------------------ */

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"rail", required_argument, NULL, 'r'},
		{"transport", required_argument, NULL, 't'},
		{"lanes", required_argument, NULL, 'l'},
		{"size", required_argument, NULL, 's'},
		{"depth", required_argument, NULL, 'd'},
		{"memory", required_argument, NULL, 'm'},
		{"rounds", required_argument, NULL, 'n'},
		{"scattered", no_argument, NULL, 'x'},
		{"fences", required_argument, NULL, 'f'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'r' && options.transport.rail_count < VMFERRY_RAILS_MAX)
			options.transport.rails[options.transport.rail_count++] = optarg;
		else if (c == 't' && strcmp(optarg, "tcp") == 0)
			options.transport.transport = VMFERRY_TRANSPORT_TCP;
		else if (c == 'l')
			options.transport.lanes = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 's')
			options.size = parse_size(optarg);
		else if (c == 'd')
			options.depth = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'm')
			options.memory = parse_size(optarg);
		else if (c == 'n')
			options.rounds = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'x')
			options.scattered = true;
		else if (c == 'f')
			options.fences = (unsigned int)strtoul(optarg, NULL, 10);
		else
			exit(2);
	}
	if (optind != argc || options.transport.lanes == 0 || options.transport.lanes > LANES_MAX ||
	    options.memory % STRIPE != 0 || options.size * options.depth > GIB)
		die("--lanes is 1 to 16, --memory a multiple of 2M, --size by --depth at most 1G");
}

int main(int argc, char **argv)
{
	int fds[2], status;
	pid_t pid;

	parse(argc, argv);
	vmferry_set_log(print_log, NULL, VMFERRY_LOG_WARN);
	if (pipe(fds) < 0)
		die("pipe: %s", strerror(errno));
	arrivals = mmap(NULL, (options.fences + 1) * sizeof(*arrivals), PROT_READ | PROT_WRITE,
			MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (arrivals == MAP_FAILED)
		die("no memory: %s", strerror(errno));
	pid = fork();
	if (pid < 0)
		die("fork: %s", strerror(errno));
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(fds[0]);
		destination(fds[1]);
		return 0;
	}
	close(fds[1]);
	source(fds[0]);
	if (waitpid(pid, &status, 0) != pid || status != 0)
		die("the destination failed");
	return 0;
}
