/* SPDX-License-Identifier: MIT */
#include "hops.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "measure.h"

struct hop {
	pthread_t thread;
	int from;
	int to;
	uint64_t bytes;
};

static void copy(const struct hop *h)
{
	char *buffer = malloc(h->bytes);
	ssize_t got;

	if (buffer == NULL)
		die("no memory");
	while ((got = recv(h->from, buffer, h->bytes, 0)) > 0)
		for (ssize_t at = 0, n; at < got; at += n) {
			n = send(h->to, buffer + at, (size_t)(got - at), MSG_NOSIGNAL);
			if (n <= 0)
				die("a hop cannot send: %s", strerror(errno));
		}
	if (got < 0)
		die("a hop cannot receive: %s", strerror(errno));
	free(buffer);
}

/* No copy: the pages of one socket's buffers become those of the other's. */
static void splice_on(const struct hop *h)
{
	int ends[2];
	ssize_t got;

	if (pipe2(ends, O_CLOEXEC) < 0 || fcntl(ends[1], F_SETPIPE_SZ, (int)h->bytes) < 0)
		die("a pipe of %llu bytes: %s", (unsigned long long)h->bytes, strerror(errno));
	while ((got = splice(h->from, NULL, ends[1], NULL, h->bytes, SPLICE_F_MOVE)) > 0)
		for (ssize_t n; got > 0; got -= n) {
			n = splice(ends[0], NULL, h->to, NULL, (size_t)got, SPLICE_F_MOVE);
			if (n <= 0)
				die("a hop cannot splice: %s", strerror(errno));
		}
	if (got < 0)
		die("a hop cannot splice: %s", strerror(errno));
	close(ends[0]);
	close(ends[1]);
}

static void *copy_main(void *arg)
{
	copy(arg);
	return NULL;
}

static void *splice_main(void *arg)
{
	splice_on(arg);
	return NULL;
}

static void run(struct hop *hops, unsigned int count, bool splices, uint64_t *cpu_ns)
{
	for (unsigned int i = 0; i < count; i++)
		if (pthread_create(&hops[i].thread, NULL, splices ? splice_main : copy_main,
				   &hops[i]) != 0)
			die("no thread");
	for (unsigned int i = 0; i < count; i++) {
		pthread_join(hops[i].thread, NULL);
		shutdown(hops[i].to, SHUT_WR);
	}
	*cpu_ns = process_cpu_ns();
	exit(0);
}

void hop_start(int *fds, unsigned int count, bool inward, bool splices, uint64_t bytes,
	       uint64_t *cpu_ns)
{
	struct hop *hops = calloc(count, sizeof(*hops));
	int *ours = calloc(count, sizeof(*ours));
	pid_t child;

	if (hops == NULL || ours == NULL)
		die("no memory");
	for (unsigned int i = 0; i < count; i++) {
		int pair[2];

		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
			die("socketpair: %s", strerror(errno));
		ours[i] = pair[0];
		hops[i] = (struct hop){.from = inward ? fds[i] : pair[1],
				       .to = inward ? pair[1] : fds[i],
				       .bytes = bytes};
	}
	child = fork();
	if (child < 0)
		die("fork: %s", strerror(errno));
	if (child == 0) {
		for (unsigned int i = 0; i < count; i++)
			close(ours[i]);
		run(hops, count, splices, cpu_ns);
	}
	for (unsigned int i = 0; i < count; i++) {
		close(hops[i].from);
		close(hops[i].to);
		fds[i] = ours[i];
	}
	free(hops);
	free(ours);
}
