/* SPDX-License-Identifier: MIT */
#include "cutter.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define PAIRS_MAX 2048
#define BUFFER	  (256u << 10)

/* Two sockets and the threads that carry bytes from one to the other. */
struct pair {
	int fds[2];
	pthread_t threads[2];
	atomic_bool open;
};

struct direction {
	struct pair *pair;
	int from, to;
};

static struct {
	pthread_mutex_t lock;
	pthread_t thread;
	int fd;
	struct sockaddr_in target;
	char uri[64];
	atomic_bool quit, frozen;
	unsigned int count; /* @lock */
	struct pair pairs[PAIRS_MAX];
} cutter = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool hand_on(int to, const char *data, ssize_t length)
{
	while (length > 0) {
		ssize_t n = send(to, data, (size_t)length, MSG_NOSIGNAL);

		if (n <= 0)
			return false;
		data += n;
		length -= n;
	}
	return true;
}

static void *carry(void *arg)
{
	struct direction *d = arg;
	char *buffer = malloc(BUFFER);
	ssize_t n;

	while ((n = recv(d->from, buffer, BUFFER, 0)) > 0)
		if (!atomic_load(&cutter.frozen) && !hand_on(d->to, buffer, n))
			break;
	/* What one end has closed the other one sees closed. */
	shutdown(d->to, SHUT_WR);
	if (n < 0)
		shutdown(d->from, SHUT_RDWR);
	free(buffer);
	free(d);
	return NULL;
}

static void start(struct pair *p, unsigned int i)
{
	struct direction *d = malloc(sizeof(*d));

	*d = (struct direction){p, p->fds[i], p->fds[1 - i]};
	cr_assert_eq(pthread_create(&p->threads[i], NULL, carry, d), 0);
}

static void serve(int fd)
{
	int one = 1, out = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pair *p;

	cr_assert_geq(out, 0);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(out, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (connect(out, (struct sockaddr *)&cutter.target, sizeof(cutter.target)) < 0) {
		close(out);
		close(fd);
		return;
	}
	pthread_mutex_lock(&cutter.lock);
	cr_assert_lt(cutter.count, PAIRS_MAX);
	p = &cutter.pairs[cutter.count++];
	p->fds[0] = fd;
	p->fds[1] = out;
	start(p, 0);
	start(p, 1);
	atomic_store(&p->open, true);
	pthread_mutex_unlock(&cutter.lock);
}

static void *listen_main(void *arg)
{
	(void)arg;
	while (!atomic_load(&cutter.quit)) {
		struct pollfd p = {.fd = cutter.fd, .events = POLLIN};
		int fd;

		if (poll(&p, 1, 20) != 1 || atomic_load(&cutter.frozen))
			continue;
		fd = accept4(cutter.fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			serve(fd);
		else
			usleep(1000);
	}
	return NULL;
}

const char *cutter_open(const char *uri)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);

	cutter.target = address;
	cutter.target.sin_port = htons((uint16_t)atoi(strrchr(uri, ':') + 1));
	cutter.fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(cutter.fd, (struct sockaddr *)&address, length), 0);
	cr_assert_eq(listen(cutter.fd, 64), 0);
	cr_assert_eq(getsockname(cutter.fd, (struct sockaddr *)&address, &length), 0);
	snprintf(cutter.uri, sizeof(cutter.uri), "tcp:127.0.0.1:%u", ntohs(address.sin_port));
	cutter.count = 0;
	atomic_store(&cutter.quit, false);
	atomic_store(&cutter.frozen, false);
	cr_assert_eq(pthread_create(&cutter.thread, NULL, listen_main, NULL), 0);
	return cutter.uri;
}

static void cut(struct pair *p)
{
	const struct linger now = {.l_onoff = 1};

	if (!atomic_exchange(&p->open, false))
		return;
	for (int i = 0; i < 2; i++)
		setsockopt(p->fds[i], SOL_SOCKET, SO_LINGER, &now, sizeof(now));
	for (int i = 0; i < 2; i++)
		shutdown(p->fds[i], SHUT_RDWR);
	for (int i = 0; i < 2; i++)
		pthread_join(p->threads[i], NULL);
	/* With linger and no time this is a reset. */
	for (int i = 0; i < 2; i++)
		close(p->fds[i]);
}

unsigned int cutter_cut(void)
{
	unsigned int open = 0;

	pthread_mutex_lock(&cutter.lock);
	for (unsigned int i = 0; i < cutter.count; i++) {
		open += atomic_load(&cutter.pairs[i].open);
		cut(&cutter.pairs[i]);
	}
	pthread_mutex_unlock(&cutter.lock);
	return open;
}

void cutter_cut_one(unsigned int number)
{
	pthread_mutex_lock(&cutter.lock);
	for (unsigned int i = 0; i < cutter.count; i++)
		if (atomic_load(&cutter.pairs[i].open) && number-- == 0)
			cut(&cutter.pairs[i]);
	pthread_mutex_unlock(&cutter.lock);
}

void cutter_freeze(void)
{
	atomic_store(&cutter.frozen, true);
}

void cutter_refuse(void)
{
	atomic_store(&cutter.quit, true);
	pthread_join(cutter.thread, NULL);
	close(cutter.fd);
	cutter.fd = -1;
}

void cutter_mend(void)
{
	cutter_cut();
	atomic_store(&cutter.frozen, false);
}

unsigned int cutter_count(void)
{
	unsigned int count;

	pthread_mutex_lock(&cutter.lock);
	count = cutter.count;
	pthread_mutex_unlock(&cutter.lock);
	return count;
}

void cutter_close(void)
{
	if (cutter.fd >= 0)
		cutter_refuse();
	cutter_cut();
}
