/* SPDX-License-Identifier: MIT */
/*
 * Migrations whose connections are cut at random moments: how long each cut costs, how many bytes
 * are sent again, and whether every page arrives. Both ends are in this process, over TCP on
 * loopback; the guest is a thread that writes pages and tells the library of each. A cut shuts down
 * all TCP connections between the two at once.
 */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmferry/migration.h>

#include "measure.h"

#define CUTS_MAX    64
#define SECONDS_MAX 120ull
/* The guest writes so many pages, and then sleeps until they are due. */
#define BURST_PAGES 64

static struct {
	uint64_t memory;
	uint64_t working_set;
	uint64_t rate; /* bytes a second */
	unsigned int migrations;
	unsigned int cuts;
	unsigned int seed;
	uint64_t downtime_ms;
} options = {
	.memory = GIB,
	.working_set = 256 * MIB,
	.rate = 200000000,
	.migrations = 10,
	.cuts = 5,
	.seed = 1,
	.downtime_ms = 300,
};

struct machine {
	char *memory;
	int fd;
	uint64_t state;
	_Atomic(struct vmferry_source *) source;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool runs, stands, quits; /* @lock */
	struct machine *other;
	uint64_t differing;
	bool compared;
};

static struct machine here, there;

/* ---- the guest ------------------------------------------------------------------------------- */

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static void write_burst(struct machine *m)
{
	struct vmferry_source *source = atomic_load(&m->source);

	for (int i = 0; i < BURST_PAGES; i++) {
		uint64_t page = random_next(&m->state) % (options.working_set / VMFERRY_PAGE_SIZE);
		uint64_t at = page * VMFERRY_PAGE_SIZE;

		*(volatile uint64_t *)(void *)(m->memory + at + m->state % 512 * 8) = m->state;
		if (source != NULL)
			vmferry_source_mark_dirty(source, at, VMFERRY_PAGE_SIZE);
	}
}

static void *guest_main(void *arg)
{
	const uint64_t burst_ns =
		BURST_PAGES * (uint64_t)VMFERRY_PAGE_SIZE * NS_PER_S / options.rate;
	struct machine *m = arg;
	uint64_t due = now_ns(), now;

	pthread_mutex_lock(&m->lock);
	while (!m->quits) {
		m->stands = !m->runs;
		pthread_cond_broadcast(&m->changed);
		if (!m->runs) {
			pthread_cond_wait(&m->changed, &m->lock);
			due = now_ns();
			continue;
		}
		pthread_mutex_unlock(&m->lock);
		write_burst(m);
		due += burst_ns;
		now = now_ns();
		if (due > now)
			sleep_ns(due - now);
		pthread_mutex_lock(&m->lock);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

static int set_running(struct machine *m, bool runs)
{
	pthread_mutex_lock(&m->lock);
	m->runs = runs;
	pthread_cond_broadcast(&m->changed);
	while (!runs && !m->stands)
		pthread_cond_wait(&m->changed, &m->lock);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static void machine_init(struct machine *m)
{
	m->fd = memfd_create("losses", MFD_CLOEXEC);
	if (m->fd < 0 || ftruncate(m->fd, (off_t)options.memory) < 0)
		die("memfd: %s", strerror(errno));
	m->memory = mmap(NULL, options.memory, PROT_READ | PROT_WRITE, MAP_SHARED, m->fd, 0);
	if (m->memory == MAP_FAILED)
		die("cannot map the memory: %s", strerror(errno));
	m->state = options.seed;
	m->stands = true;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->changed, NULL);
}

static void describe_to(struct machine *m, struct vmferry_vm *vm)
{
	static struct vmferry_region regions[2];
	struct vmferry_region *r = &regions[m == &there];

	*r = (struct vmferry_region){.size = options.memory, .base = m->memory, .fd = m->fd};
	*vm = (struct vmferry_vm){
		.size = sizeof(*vm), .regions = r, .region_count = 1, .vm_fd = -1};
}

/* ---- what the library asks of it ------------------------------------------------------------- */

static int describe(void *ctx, struct vmferry_blob *spec)
{
	(void)ctx;
	return vmferry_blob_append(spec, "losses", 6);
}

static int pause_machine(void *ctx)
{
	return set_running(ctx, false);
}

static int resume_machine(void *ctx)
{
	return set_running(ctx, true);
}

static int save(void *ctx, struct vmferry_blob *state)
{
	const struct machine *m = ctx;

	return vmferry_blob_append(state, &m->state, sizeof(m->state));
}

static int check(void *ctx, const void *spec, size_t length, struct vmferry_problems *problems)
{
	(void)ctx;
	(void)spec;
	(void)length;
	(void)problems;
	return 0;
}

/* Its memory has to read as zeroes. */
static int prepare(void *ctx, const void *spec, size_t length, struct vmferry_vm *vm)
{
	struct machine *m = ctx;

	(void)spec;
	(void)length;
	if (fallocate(m->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)options.memory) <
	    0)
		return -errno;
	describe_to(m, vm);
	return 0;
}

static int load(void *ctx, const void *state, size_t length)
{
	struct machine *m = ctx;

	if (length != sizeof(m->state))
		return -EPROTO;
	memcpy(&m->state, state, length);
	return 0;
}

/* It is not let run: the source's guest stands still now, and every page of both is compared. */
static int run(void *ctx)
{
	struct machine *m = ctx;

	for (uint64_t at = 0; at < options.memory; at += VMFERRY_PAGE_SIZE)
		m->differing +=
			memcmp(m->memory + at, m->other->memory + at, VMFERRY_PAGE_SIZE) != 0;
	m->compared = true;
	return 0;
}

static void abandon(void *ctx)
{
	(void)ctx;
}

static const struct vmferry_source_ops source_ops = {
	.size = sizeof(source_ops),
	.describe = describe,
	.pause = pause_machine,
	.resume = resume_machine,
	.save = save,
};

static const struct vmferry_destination_ops destination_ops = {
	.size = sizeof(destination_ops),
	.check = check,
	.prepare = prepare,
	.load = load,
	.run = run,
	.abandon = abandon,
};

/* ---- cutting --------------------------------------------------------------------------------- */

static bool is_between(int fd, uint16_t port)
{
	struct sockaddr_in local = {0}, peer = {0};
	socklen_t length = sizeof(local), peer_length = sizeof(peer);

	return getsockname(fd, (struct sockaddr *)&local, &length) == 0 &&
	       getpeername(fd, (struct sockaddr *)&peer, &peer_length) == 0 &&
	       local.sin_family == AF_INET &&
	       (ntohs(local.sin_port) == port || ntohs(peer.sin_port) == port);
}

static void cut(uint16_t port)
{
	DIR *fds = opendir("/proc/self/fd");
	const struct dirent *entry;

	if (fds == NULL)
		die("/proc/self/fd: %s", strerror(errno));
	while ((entry = readdir(fds)) != NULL) {
		int fd = atoi(entry->d_name);

		if (is_between(fd, port))
			shutdown(fd, SHUT_RDWR);
	}
	closedir(fds);
}

/* ---- one migration --------------------------------------------------------------------------- */

struct outcome {
	double seconds;
	uint64_t bytes_sent;
	uint64_t bytes_again;
	unsigned int losses;
	double lost[CUTS_MAX]; /* seconds, of each loss */
};

static uint64_t number(struct json_object *object, const char *name)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, name, &value))
		die("the report has no %s", name);
	return json_object_get_uint64(value);
}

static void read_report(const struct vmferry_source *source, struct outcome *o)
{
	struct json_object *report, *losses;
	char *json;

	if (vmferry_source_report(source, &json) < 0)
		die("no report");
	report = json_tokener_parse(json);
	free(json);
	o->seconds = (double)number(report, "total_us") / 1e6;
	o->bytes_sent = number(report, "bytes_sent");
	json_object_object_get_ex(report, "losses", &losses);
	o->losses = (unsigned int)json_object_array_length(losses);
	for (unsigned int i = 0; i < o->losses && i < CUTS_MAX; i++) {
		struct json_object *loss = json_object_array_get_idx(losses, i);

		o->lost[i] = (double)number(loss, "resumed_us") / 1e6;
		o->bytes_again += number(loss, "bytes_again");
	}
	json_object_put(report);
}

static int compare(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

static bool is_over(const struct vmferry_source *source)
{
	return vmferry_source_phase(source) >= VMFERRY_COMMITTED;
}

/* When so much has been sent as random numbers say, of what the memory holds. */
static void cut_at_random(const struct vmferry_source *source, uint16_t port, unsigned int cuts)
{
	double shares[CUTS_MAX];

	for (unsigned int i = 0; i < cuts; i++)
		shares[i] = (double)random() / (double)RAND_MAX;
	qsort(shares, cuts, sizeof(*shares), compare);
	for (unsigned int i = 0; i < cuts && !is_over(source); i++) {
		struct vmferry_progress p;

		do {
			sleep_ns(NS_PER_MS / 4);
			vmferry_source_progress(source, &p);
		} while (!is_over(source) &&
			 (double)p.bytes_sent < shares[i] * (double)options.memory);
		cut(port);
	}
}

static void migrate(unsigned int cuts, struct outcome *o)
{
	struct vmferry_source_options options_of_source = {
		.size = sizeof(options_of_source),
		.downtime_ns = options.downtime_ms * NS_PER_MS,
		.timeout_ns = SECONDS_MAX * NS_PER_S,
	};
	struct vmferry_destination *destination;
	struct vmferry_source *source;
	struct vmferry_vm vm;
	const char *uri;
	int ret;

	*o = (struct outcome){0};
	if (vmferry_destination_new(&destination_ops, &there, "tcp:127.0.0.1:0", NULL,
				    &destination) < 0 ||
	    vmferry_destination_start(destination) < 0)
		die("no destination");
	uri = vmferry_destination_uri(destination);
	describe_to(&here, &vm);
	if (vmferry_source_new(&vm, &source_ops, &here, uri, &options_of_source, &source) < 0)
		die("no source");
	atomic_store(&here.source, source);
	there.compared = false;
	set_running(&here, true);
	if (vmferry_source_start(source) < 0)
		die("the source does not start");
	cut_at_random(source, (uint16_t)atoi(strrchr(uri, ':') + 1), cuts);
	ret = vmferry_source_wait(source, vmferry_now() + 2 * SECONDS_MAX * NS_PER_S);
	if (ret < 0)
		die("a migration failed in phase %s: %s",
		    vmferry_phase_name(vmferry_source_phase(source)), strerror(-ret));
	if (vmferry_destination_wait(destination, vmferry_now() + SECONDS_MAX * NS_PER_S) < 0 ||
	    !there.compared)
		die("the destination does not run");
	read_report(source, o);
	atomic_store(&here.source, NULL);
	set_running(&here, false);
	vmferry_source_free(&source);
	vmferry_destination_free(&destination);
}

/* ---- all of them ----------------------------------------------------------------------------- */

static void usage(void)
{
	printf("usage: perf-losses [OPTION]...\n"
	       "  --migrations N   with cuts; a fifth as many without, for comparison (default "
	       "10)\n"
	       "  --cuts K         in each of them (default 5)\n"
	       "  --memory SIZE, --ws SIZE, --rate SIZE   of the guest (default 1G, 256M, "
	       "200000000)\n"
	       "  --downtime MS    limit of the blackout (default 300)\n"
	       "  --seed N         of the moments (default 1)\n");
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"migrations", required_argument, NULL, 'n'},
		{"cuts", required_argument, NULL, 'k'},
		{"memory", required_argument, NULL, 'm'},
		{"ws", required_argument, NULL, 'w'},
		{"rate", required_argument, NULL, 'r'},
		{"downtime", required_argument, NULL, 'd'},
		{"seed", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'n')
			options.migrations = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'k')
			options.cuts = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'm')
			options.memory = parse_size(optarg);
		else if (c == 'w')
			options.working_set = parse_size(optarg);
		else if (c == 'r')
			options.rate = parse_size(optarg);
		else if (c == 'd')
			options.downtime_ms = strtoull(optarg, NULL, 10);
		else if (c == 's')
			options.seed = (unsigned int)strtoul(optarg, NULL, 10);
		else {
			usage();
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (options.migrations == 0 || options.cuts > CUTS_MAX || options.seed == 0 ||
	    options.rate == 0 || options.working_set < VMFERRY_PAGE_SIZE ||
	    options.working_set > options.memory || options.memory % VMFERRY_PAGE_SIZE != 0)
		die("at least one migration, at most %d cuts, and a working set within the memory",
		    CUTS_MAX);
}

int main(int argc, char **argv)
{
	unsigned int plain, losses = 0;
	uint64_t sent_plain = 0, sent_cut = 0, again = 0;
	double seconds_plain = 0, seconds_cut = 0;
	struct outcome o;
	double *lost;

	parse(argc, argv);
	srandom(options.seed);
	vmferry_set_log(NULL, NULL, VMFERRY_LOG_ERROR);
	machine_init(&here);
	machine_init(&there);
	there.other = &here;
	for (uint64_t at = 0; at < options.memory; at += sizeof(uint64_t))
		*(uint64_t *)(void *)(here.memory + at) = (at + 1) * 0x9e3779b97f4a7c15ull;
	if (pthread_create(&here.thread, NULL, guest_main, &here) != 0)
		die("no thread");
	lost = calloc((size_t)options.migrations * CUTS_MAX, sizeof(*lost));
	plain = options.migrations / 5 + 1;
	/* The first one is dearer than the others. */
	migrate(0, &o);
	for (unsigned int i = 0; i < plain; i++) {
		migrate(0, &o);
		seconds_plain += o.seconds / plain;
		sent_plain += o.bytes_sent / plain;
	}
	for (unsigned int i = 0; i < options.migrations; i++) {
		migrate(options.cuts, &o);
		seconds_cut += o.seconds / options.migrations;
		sent_cut += o.bytes_sent / options.migrations;
		again += o.bytes_again / options.migrations;
		for (unsigned int k = 0; k < o.losses && k < CUTS_MAX; k++)
			lost[losses++] = o.lost[k];
	}
	qsort(lost, losses, sizeof(*lost), compare);
	printf("migrations %u\n", options.migrations);
	printf("losses %u\n", losses);
	printf("differing_pages %" PRIu64 "\n", there.differing);
	printf("seconds_without_cuts %.3f\n", seconds_plain);
	printf("seconds_with_cuts %.3f\n", seconds_cut);
	printf("lost_seconds_median %.4f\n", losses > 0 ? lost[losses / 2] : 0);
	printf("lost_seconds_most %.4f\n", losses > 0 ? lost[losses - 1] : 0);
	printf("bytes_without_cuts %" PRIu64 "\n", sent_plain);
	printf("bytes_with_cuts %" PRIu64 "\n", sent_cut);
	printf("bytes_unplaced_again %" PRIu64 "\n", again);
	free(lost);
	return there.differing != 0;
}
