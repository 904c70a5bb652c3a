/* SPDX-License-Identifier: MIT */
/*
 * The destination's data path: bytes between a lane's socket and registered memory, without a copy
 * between.
 *
 * The lock of the table of memory is held for each single system call, which does not block, and
 * never while the peer is waited for: so memory can be deregistered at any time, and what is in the
 * middle of being placed is then refused.
 */
#include <errno.h>

#include "transport/tcp/tcp.h"

/* Makes pointers of what is left of the extents. All are judged before any is used. */
static int resolve(struct tcp_lane *l, struct memory_table *table)
{
	struct tcp_receiver *in = &l->in;
	uint64_t skip = in->total - in->left;

	in->iov_at = 0;
	in->iov_count = 0;
	for (unsigned int i = 0; i < in->extent_count; i++) {
		uint64_t length = in->extents[i].length;
		uint8_t *p;

		if (skip >= length) {
			skip -= length;
			continue;
		}
		p = memory_table_resolve(table, in->extents[i].address, length, in->access);
		if (p == NULL)
			return -EACCES;
		in->iov[in->iov_count++] = (struct iovec){p + skip, length - skip};
		skip = 0;
	}
	in->generation = table->generation;
	return 0;
}

/* One system call's worth, with the pointers valid while it runs. */
static ssize_t move(struct tcp_lane *l, ssize_t (*call)(struct tcp_lane *l))
{
	struct memory_table *table = &l->lane.session->memory;
	ssize_t n = 0;

	pthread_rwlock_rdlock(&table->lock);
	if (l->in.generation != table->generation)
		n = resolve(l, table);
	if (n == 0)
		n = call(l);
	pthread_rwlock_unlock(&table->lock);
	return n;
}

static ssize_t recv_payload(struct tcp_lane *l)
{
	struct tcp_receiver *in = &l->in;
	struct msghdr msg = {
		.msg_iov = in->iov + in->iov_at,
		.msg_iovlen = in->iov_count + 1 - in->iov_at,
	};

	/* The next frame's head in the same call, if it is there: one call less for each frame. */
	in->iov[in->iov_count] = (struct iovec){in->head, FRAME_HEAD};
	return socket_recvmsg(l->fd, &msg);
}

static ssize_t send_bytes(struct tcp_lane *l)
{
	struct msghdr msg = {
		.msg_iov = l->in.iov + l->in.iov_at,
		.msg_iovlen = l->in.iov_count - l->in.iov_at,
	};

	return socket_sendmsg(l->fd, &msg);
}

/* Counts what was moved; what is beyond the extents was the next head's. */
static void moved(struct tcp_receiver *in, uint64_t n)
{
	if (n > in->left) {
		in->head_have = (size_t)(n - in->left);
		n = in->left;
	}
	iov_advance(in->iov, &in->iov_at, in->iov_count, n);
	in->left -= n;
}

int tcp_place(struct tcp_lane *l)
{
	struct tcp_receiver *in = &l->in;

	while (in->left > 0) {
		uint64_t before = in->left;
		ssize_t n = move(l, recv_payload);

		if (n == -EAGAIN) {
			n = tcp_await(l, POLLIN);
			if (n == 0)
				continue;
		}
		if (n < 0)
			return (int)n;
		moved(in, (uint64_t)n);
		in->placed += before - in->left;
		counter_set(&l->lane.counters.bytes, in->placed);
		counter_set(&l->lane.counters.placed_bytes, in->placed);
		counter_add(&l->lane.counters.wire_bytes, (uint64_t)n);
		counter_add(&l->lane.counters.submissions, 1);
	}
	return 0;
}

int tcp_serve(struct tcp_lane *l)
{
	struct tcp_receiver *in = &l->in;

	while (in->left > 0) {
		ssize_t n = move(l, send_bytes);

		if (n == -EAGAIN) {
			n = tcp_await(l, POLLOUT);
			if (n == 0)
				continue;
		}
		if (n < 0)
			return (int)n;
		moved(in, (uint64_t)n);
	}
	return 0;
}
