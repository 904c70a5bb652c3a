/* SPDX-License-Identifier: MIT */
/* Lanes over TCP: how they begin and end, and the table that makes them known. */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "common/thread.h"
#include "transport/tcp/tcp.h"

#define DEFAULT_LANES_MAX 4

void iov_advance(struct iovec *iov, unsigned int *at, unsigned int count, uint64_t bytes)
{
	while (bytes > 0 && *at < count) {
		struct iovec *v = &iov[*at];

		if (bytes < v->iov_len) {
			v->iov_base = (char *)v->iov_base + bytes;
			v->iov_len -= bytes;
			return;
		}
		bytes -= v->iov_len;
		(*at)++;
	}
}

static unsigned int default_lanes(const struct address *peer,
				  const struct vmferry_transport_options *options)
{
	cpu_set_t set;
	int cpus = 1;

	(void)peer;
	(void)options;
	if (sched_getaffinity(0, sizeof(set), &set) == 0)
		cpus = CPU_COUNT(&set);
	return cpus < DEFAULT_LANES_MAX ? (unsigned int)cpus : DEFAULT_LANES_MAX;
}

static int lane_new(struct vmferry_session *session, unsigned int number, int fd,
		    struct tcp_lane **lane)
{
	struct tcp_lane *l = calloc(1, sizeof(*l));

	if (l == NULL)
		return -ENOMEM;
	l->lane.session = session;
	l->lane.number = number;
	l->fd = fd;
	*lane = l;
	return 0;
}

static int tcp_connect(struct vmferry_session *session, const struct hello_lane *hello,
		       uint64_t deadline, struct lane **lane)
{
	uint8_t bytes[HELLO_LANE];
	struct tcp_lane *l = NULL;
	int fd;
	int ret = socket_connect(&session->peer, deadline, &fd);

	if (ret < 0)
		return ret;
	hello_lane_encode(hello, bytes);
	ret = socket_send_all(fd, bytes, sizeof(bytes), deadline);
	if (ret == 0)
		ret = lane_new(session, hello->number, fd, &l);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	*lane = &l->lane;
	return 0;
}

static int tcp_accept(struct vmferry_session *session, unsigned int number, int fd,
		      struct lane **lane)
{
	struct tcp_lane *l = NULL;
	int ret = lane_new(session, number, fd, &l);

	if (ret == 0)
		*lane = &l->lane;
	return ret;
}

static int tcp_start(struct lane *lane)
{
	struct tcp_lane *l = tcp_lane_of(lane);
	char name[THREAD_NAME_MAX];
	int ret;

	snprintf(name, sizeof(name), "vmf-lane-%u", lane->number % VMFERRY_LANES_MAX);
	ret = thread_start(&l->thread, name, tcp_receive_thread, l);
	if (ret < 0) {
		log_error("session %s: lane %u: cannot start its thread: %s: raise the limit of "
			  "processes",
			  lane->session->name, lane->number, strerror(-ret));
		return ret;
	}
	l->has_thread = true;
	return 0;
}

static int tcp_fd(const struct lane *lane)
{
	return ((const struct tcp_lane *)(const void *)lane)->fd;
}

static void tcp_shutdown(struct lane *lane)
{
	shutdown(tcp_lane_of(lane)->fd, SHUT_RDWR);
}

/*
 * After the lock was held for writing no lane is in the middle of placing; the next pointer it
 * makes is refused.
 */
static int tcp_revoke(struct vmferry_session *session)
{
	struct memory_table *table = &session->memory;

	pthread_rwlock_wrlock(&table->lock);
	table->closed = true;
	table->generation++;
	pthread_rwlock_unlock(&table->lock);
	return 0;
}

static void tcp_close(struct lane *lane)
{
	struct tcp_lane *l = tcp_lane_of(lane);

	/* The thread never waits but in poll(), which shutdown() ends. */
	atomic_store(&l->stop, true);
	tcp_shutdown(lane);
	if (l->has_thread)
		pthread_join(l->thread, NULL);
	close(l->fd);
	free(l);
}

const struct transport_ops tcp_ops = {
	.name = "tcp",
	.kind = VMFERRY_TRANSPORT_TCP,
	.default_lanes = default_lanes,
	.connect = tcp_connect,
	.accept = tcp_accept,
	.start = tcp_start,
	.write = tcp_write,
	.fence = tcp_fence,
	.fence_wait = tcp_fence_wait,
	.read = tcp_read,
	.fd = tcp_fd,
	.revoke = tcp_revoke,
	.shutdown = tcp_shutdown,
	.close = tcp_close,
};
