/* SPDX-License-Identifier: MIT */
/*
 * The bare link: what loopback carries when one process only gathers memory by pages and another
 * only scatters it. No frames, no dirty map, no acknowledgements; the memory on both sides is a
 * memfd as a guest's is, and has been touched before. What the product loses against this is its
 * own doing. With --hops processes are between the two that only hand bytes on, as the adaptors of
 * QEMU's streams do at least.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "hops.h"
#include "measure.h"

#define STREAMS_MAX 64
/* What lanes ask for on loopback; a system that does not have it gives them its default. */
#define LANES_CONGESTION "cubic"
/* Whatever hangs, this ends it. */
#define SECONDS_MAX 120
#define HUGE	    (2 * MIB)
/* Streams take turns by this much, as the lanes do. */
#define GRANULE (2 * MIB)

static struct {
	uint64_t size;
	uint64_t piece; /* of an iovec */
	uint64_t call;	/* bytes in a system call at most */
	unsigned int streams;
	const char *congestion;
	int sndbuf;
	int rcvbuf;
	bool huge;
	bool untouched;
	unsigned int hops;
	bool splices;
} options = {.size = GIB, .piece = 4096, .call = MIB, .streams = 1};

/* Shared by both processes. */
struct result {
	pthread_barrier_t start;
	uint64_t begun_ns;
	uint64_t ended_ns[STREAMS_MAX];
	uint64_t cpu_ns[2];
	uint64_t hop_cpu_ns[2];
};

struct stream {
	pthread_t thread;
	unsigned int index;
	int fd;
	char *memory;
	bool sends;
	struct result *result;
};

/* ---- memory ---------------------------------------------------------------------------------- */

/*
 * A memfd, as a guest's memory is; where huge pages are asked for it is anonymous, since few
 * systems have them for a memfd.
 */
static char *guest_memory(void)
{
	int fd = options.huge ? -1 : memfd_create("link", MFD_CLOEXEC);
	int flags = options.huge ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
	char *p;

	if (!options.huge && (fd < 0 || ftruncate(fd, (off_t)options.size) < 0))
		die("memfd: %s", strerror(errno));
	p = mmap(NULL, options.size + HUGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		die("no address space: %s", strerror(errno));
	p += -(uintptr_t)p & (HUGE - 1);
	if (mmap(p, options.size, PROT_READ | PROT_WRITE, flags | MAP_FIXED, fd, 0) == MAP_FAILED)
		die("cannot map %" PRIu64 " bytes: %s", options.size, strerror(errno));
	if (options.huge)
		madvise(p, options.size, MADV_HUGEPAGE);
	else
		close(fd);
	return p;
}

/*
 * Distinct content, as a guest's: the same cache lines sent again and again would flatter the link.
 */
static void fill(char *p)
{
	for (uint64_t i = 0; i < options.size / sizeof(uint64_t); i++)
		((uint64_t *)(void *)p)[i] = (i + 1) * 0x9e3779b97f4a7c15ull;
}

/* ---- sockets --------------------------------------------------------------------------------- */

static void set(int fd, int level, int name, int value)
{
	if (setsockopt(fd, level, name, &value, sizeof(value)) < 0)
		die("a socket option: %s", strerror(errno));
}

static void set_up(int fd)
{
	const char *wanted = options.congestion;
	const char *cc = wanted != NULL ? wanted : LANES_CONGESTION;

	set(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (options.sndbuf > 0)
		set(fd, SOL_SOCKET, SO_SNDBUF, options.sndbuf);
	if (options.rcvbuf > 0)
		set(fd, SOL_SOCKET, SO_RCVBUF, options.rcvbuf);
	if (cc != NULL &&
	    setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cc, (socklen_t)strlen(cc)) < 0)
		die("congestion control %s: %s", cc, strerror(errno));
}

static int listen_here(struct sockaddr_in *address)
{
	socklen_t length = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	*address = (struct sockaddr_in){.sin_family = AF_INET,
					.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (fd < 0)
		die("socket: %s", strerror(errno));
	set_up(fd);
	if (bind(fd, (struct sockaddr *)address, length) < 0 || listen(fd, STREAMS_MAX) < 0 ||
	    getsockname(fd, (struct sockaddr *)address, &length) < 0)
		die("cannot listen: %s", strerror(errno));
	return fd;
}

static int connect_to(const struct sockaddr_in *address)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		die("socket: %s", strerror(errno));
	set_up(fd);
	if (connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0)
		die("cannot connect: %s", strerror(errno));
	return fd;
}

static int accept_from(int listener)
{
	struct pollfd p = {.fd = listener, .events = POLLIN};
	int fd = poll(&p, 1, 10000) == 1 ? accept4(listener, NULL, NULL, SOCK_CLOEXEC) : -1;

	if (fd < 0)
		die("nobody connects");
	set_up(fd);
	return fd;
}

/* ---- the data path --------------------------------------------------------------------------- */

static void advance(struct iovec *iov, unsigned int *at, size_t n)
{
	while (n > 0) {
		size_t step = n < iov[*at].iov_len ? n : iov[*at].iov_len;

		iov[*at].iov_base = (char *)iov[*at].iov_base + step;
		iov[*at].iov_len -= step;
		n -= step;
		if (iov[*at].iov_len == 0)
			(*at)++;
	}
}

static void move_call(const struct stream *s, struct iovec *iov, unsigned int count)
{
	unsigned int at = 0;

	while (at < count) {
		struct msghdr msg = {.msg_iov = iov + at, .msg_iovlen = count - at};
		ssize_t n = s->sends ? sendmsg(s->fd, &msg, MSG_NOSIGNAL) : recvmsg(s->fd, &msg, 0);

		if (n <= 0)
			die("stream %u: %s", s->index,
			    n == 0 ? "ended too early" : strerror(errno));
		advance(iov, &at, (size_t)n);
	}
}

static void move_granule(const struct stream *s, uint64_t offset, uint64_t length)
{
	struct iovec iov[IOV_MAX];

	while (length > 0) {
		uint64_t bytes = 0;
		unsigned int count = 0;

		while (count < IOV_MAX && bytes < options.call && bytes < length) {
			uint64_t n =
				options.piece < length - bytes ? options.piece : length - bytes;

			iov[count++] = (struct iovec){s->memory + offset + bytes, n};
			bytes += n;
		}
		move_call(s, iov, count);
		offset += bytes;
		length -= bytes;
	}
}

static void *move(void *arg)
{
	struct stream *s = arg;

	pthread_barrier_wait(&s->result->start);
	if (s->sends && s->index == 0)
		s->result->begun_ns = now_ns();
	for (uint64_t at = s->index * GRANULE; at < options.size; at += options.streams * GRANULE)
		move_granule(s, at, options.size - at < GRANULE ? options.size - at : GRANULE);
	if (!s->sends)
		s->result->ended_ns[s->index] = now_ns();
	return NULL;
}

static void run(struct stream *streams, bool sends, struct result *result)
{
	char *memory = guest_memory();
	uint64_t cpu;

	if (sends)
		fill(memory);
	else if (!options.untouched)
		memset(memory, 1, options.size);
	cpu = process_cpu_ns();
	for (unsigned int i = 0; i < options.streams; i++) {
		streams[i].sends = sends;
		streams[i].index = i;
		streams[i].memory = memory;
		streams[i].result = result;
		if (pthread_create(&streams[i].thread, NULL, move, &streams[i]) != 0)
			die("no thread");
	}
	for (unsigned int i = 0; i < options.streams; i++)
		pthread_join(streams[i].thread, NULL);
	result->cpu_ns[sends] = process_cpu_ns() - cpu;
}

static void insert_hop(struct stream *streams, bool sends, struct result *result)
{
	int fds[STREAMS_MAX];

	for (unsigned int i = 0; i < options.streams; i++)
		fds[i] = streams[i].fd;
	hop_start(fds, options.streams, !sends, options.splices, options.call,
		  &result->hop_cpu_ns[sends]);
	for (unsigned int i = 0; i < options.streams; i++)
		streams[i].fd = fds[i];
}

/* Behind the bytes: each hop ends when they do. */
static void await_hop(const struct stream *streams, bool sends)
{
	int status;

	for (unsigned int i = 0; sends && i < options.streams; i++)
		shutdown(streams[i].fd, SHUT_WR);
	while (wait(&status) > 0)
		if (status != 0)
			die("%s failed",
			    sends ? "the receiver or the sender's hop" : "the receiver's hop");
}

/* ---- both processes -------------------------------------------------------------------------- */

static struct result *result_new(void)
{
	struct result *result = mmap(NULL, sizeof(*result), PROT_READ | PROT_WRITE,
				     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_barrierattr_t attr;

	if (result == MAP_FAILED)
		die("no memory");
	pthread_barrierattr_init(&attr);
	pthread_barrierattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(&result->start, &attr, 2 * options.streams);
	return result;
}

static void receiver(const struct sockaddr_in *address, struct result *result)
{
	struct stream streams[STREAMS_MAX] = {0};

	for (unsigned int i = 0; i < options.streams; i++)
		streams[i].fd = connect_to(address);
	if (options.hops > 1)
		insert_hop(streams, false, result);
	run(streams, false, result);
	await_hop(streams, false);
	exit(0);
}

static void print(const struct result *result)
{
	double gib = (double)options.size / (double)GIB;
	uint64_t ended = 0;
	double seconds;
	double cpu;

	for (unsigned int i = 0; i < options.streams; i++) {
		if (result->ended_ns[i] > ended)
			ended = result->ended_ns[i];
	}
	seconds = (double)(ended - result->begun_ns) / (double)NS_PER_S;
	cpu = (double)(result->cpu_ns[0] + result->cpu_ns[1] + result->hop_cpu_ns[0] +
		       result->hop_cpu_ns[1]) /
	      (double)NS_PER_S;
	printf("streams %u\n", options.streams);
	printf("hops %u\n", options.hops);
	printf("seconds %.6f\n", seconds);
	printf("cpu_seconds %.6f\n", cpu);
	printf("bytes_per_second %.0f\n", (double)options.size / seconds);
	printf("gib_per_second %.3f\n", gib / seconds);
	printf("cpu_seconds_per_gib %.3f\n", cpu / gib);
}

static void usage(void)
{
	printf("usage: perf-link [OPTION]...\n"
	       "  --streams N        connections, a thread for each on both sides (default 1)\n"
	       "  --size SIZE        bytes to move (default 1G)\n"
	       "  --piece SIZE       bytes of an iovec (default 4K)\n"
	       "  --call SIZE        bytes in a system call at most (default 1M; at most %d "
	       "iovecs)\n"
	       "  --congestion NAME  congestion control (default cubic, as lanes have on "
	       "loopback)\n"
	       "  --sndbuf SIZE, --rcvbuf SIZE   fixed buffers (default: the system adapts them)\n"
	       "  --huge             anonymous memory with transparent huge pages\n"
	       "  --untouched        receive into memory that was never touched\n"
	       "  --hops 1|2         processes in between: unix socket to TCP at the sender, 2: "
	       "and back at the receiver\n"
	       "  --splice           they splice() and copy nothing\n",
	       IOV_MAX);
}

static void parse(int argc, char **argv)
{
	static const struct option known[] = {
		{"streams", required_argument, NULL, 'n'},
		{"size", required_argument, NULL, 's'},
		{"piece", required_argument, NULL, 'p'},
		{"call", required_argument, NULL, 'c'},
		{"congestion", required_argument, NULL, 'g'},
		{"sndbuf", required_argument, NULL, 'S'},
		{"rcvbuf", required_argument, NULL, 'R'},
		{"huge", no_argument, NULL, 'H'},
		{"untouched", no_argument, NULL, 'u'},
		{"hops", required_argument, NULL, 'o'},
		{"splice", no_argument, NULL, 'l'},
		{"help", no_argument, NULL, 'h'},
		{NULL, 0, NULL, 0},
	};
	int c;

	while ((c = getopt_long(argc, argv, "", known, NULL)) != -1) {
		if (c == 'n')
			options.streams = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 's')
			options.size = parse_size(optarg);
		else if (c == 'p')
			options.piece = parse_size(optarg);
		else if (c == 'c')
			options.call = parse_size(optarg);
		else if (c == 'g')
			options.congestion = optarg;
		else if (c == 'S')
			options.sndbuf = (int)parse_size(optarg);
		else if (c == 'R')
			options.rcvbuf = (int)parse_size(optarg);
		else if (c == 'H')
			options.huge = true;
		else if (c == 'u')
			options.untouched = true;
		else if (c == 'o')
			options.hops = (unsigned int)strtoul(optarg, NULL, 10);
		else if (c == 'l')
			options.splices = true;
		else {
			usage();
			exit(c == 'h' ? 0 : 2);
		}
	}
	if (options.streams == 0 || options.streams > STREAMS_MAX || options.piece == 0 ||
	    options.call == 0 || options.size == 0 || options.hops > 2)
		die("1 to %d streams, 0 to 2 hops, and no size may be 0", STREAMS_MAX);
}

int main(int argc, char **argv)
{
	struct stream streams[STREAMS_MAX] = {0};
	struct sockaddr_in address;
	struct result *result;
	int listener;
	pid_t child;

	parse(argc, argv);
	result = result_new();
	listener = listen_here(&address);
	child = fork();
	if (child < 0)
		die("fork: %s", strerror(errno));
	alarm(SECONDS_MAX);
	if (child == 0)
		receiver(&address, result);
	for (unsigned int i = 0; i < options.streams; i++)
		streams[i].fd = accept_from(listener);
	if (options.hops > 0)
		insert_hop(streams, true, result);
	run(streams, true, result);
	await_hop(streams, true);
	print(result);
	return 0;
}
