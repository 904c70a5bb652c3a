/* SPDX-License-Identifier: MIT */
/*
 * The thread of a lane at the destination: it reads frames, judges everything in them before it
 * acts on it, and answers. It ends when the connection does, on shutdown, and at the first thing
 * that it must refuse.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/tcp/tcp.h"

int tcp_await(const struct tcp_lane *l, short events)
{
	/*
	 * A source may be silent for as long as it likes; looking at @stop now and then costs
	 * nothing.
	 */
	int ret = socket_wait(l->fd, events, vmferry_now() + NS_PER_S);

	if (atomic_load_explicit(&l->stop, memory_order_relaxed))
		return -ECANCELED;
	return ret == -ETIMEDOUT ? 0 : ret;
}

/* Fills @bytes up to @length; @have counts and survives errors. */
static int recv_exactly(struct tcp_lane *l, uint8_t *bytes, size_t length, size_t *have)
{
	while (*have < length) {
		ssize_t n = socket_recv(l->fd, bytes + *have, length - *have);

		if (n == -EAGAIN) {
			n = tcp_await(l, POLLIN);
			if (n == 0)
				continue;
		}
		if (n < 0)
			return (int)n;
		*have += (size_t)n;
		counter_add(&l->lane.counters.wire_bytes, (uint64_t)n);
	}
	return 0;
}

static int answer(struct tcp_lane *l, const struct frame_answer *a)
{
	uint8_t bytes[ANSWER_FRAME];
	size_t sent = 0;

	frame_answer_encode(a, bytes);
	while (sent < sizeof(bytes)) {
		ssize_t n = socket_send(l->fd, bytes + sent, sizeof(bytes) - sent,
					a->kind == ANSWER_DATA);

		if (n == -EAGAIN) {
			n = tcp_await(l, POLLOUT);
			if (n == 0)
				continue;
		}
		if (n < 0)
			return (int)n;
		sent += (size_t)n;
	}
	return 0;
}

static void count_cpu(struct tcp_lane *l)
{
	counter_set(&l->lane.counters.cpu_ns, thread_cpu_ns());
}

static int say_placed(struct tcp_lane *l)
{
	l->in.acked = l->in.placed;
	count_cpu(l);
	return answer(l, &(struct frame_answer){.kind = ANSWER_PLACED,
						.value = l->lane.reached,
						.placed = l->in.placed});
}

static int broken(struct tcp_lane *l, const char *what)
{
	answer(l, &(struct frame_answer){.kind = ANSWER_REFUSED, .status = REFUSED_PROTOCOL});
	return session_fail(l->lane.session, -EPROTO, "lane %u: %s", l->lane.number, what);
}

static int denied(struct tcp_lane *l, const char *what)
{
	const struct tcp_receiver *in = &l->in;

	answer(l, &(struct frame_answer){.kind = ANSWER_REFUSED, .status = REFUSED_ACCESS});
	return session_fail(l->lane.session, -EACCES,
			    "lane %u: %s of %llu bytes in %u ranges, the first at 0x%llx, is not "
			    "in memory registered for it",
			    l->lane.number, what, (unsigned long long)in->total, in->extent_count,
			    (unsigned long long)in->extents[0].address);
}

/* Reads and decodes @count extents; the sum of their lengths may not exceed @most. */
static int recv_extents(struct tcp_lane *l, uint32_t count, uint64_t most)
{
	struct tcp_receiver *in = &l->in;
	size_t have = 0;
	int ret = recv_exactly(l, in->table, (size_t)count * FRAME_EXTENT, &have);

	if (ret < 0)
		return ret;
	in->extent_count = count;
	in->generation = 0;
	in->total = 0;
	for (uint32_t i = 0; i < count; i++) {
		const uint8_t *at = in->table + (size_t)i * FRAME_EXTENT;

		in->extents[i].address = wire_get(at, 8);
		in->extents[i].length = wire_get(at + 8, 8);
		if (in->extents[i].length == 0 || in->extents[i].length > most - in->total)
			return broken(l, "a range is empty or longer than the frame");
		in->total += in->extents[i].length;
	}
	in->left = in->total;
	return 0;
}

static int handle_write(struct tcp_lane *l, const struct frame_head *head)
{
	int ret;

	if (head->count == 0 || head->count > FRAME_EXTENTS_MAX || head->payload == 0 ||
	    head->payload > FRAME_PAYLOAD_MAX)
		return broken(l, "a write has impossible sizes");
	ret = recv_extents(l, head->count, head->payload);
	if (ret < 0)
		return ret;
	if (l->in.total != head->payload)
		return broken(l, "a write's ranges are not as long as its payload");
	l->in.access = VMFERRY_ACCESS_REMOTE_WRITE;
	ret = tcp_place(l);
	if (ret < 0)
		return ret == -EACCES ? denied(l, "a write") : ret;
	counter_add(&l->lane.counters.writes, head->count);
	return l->in.placed - l->in.acked >= ACK_EVERY ? say_placed(l) : 0;
}

static int handle_fence(struct tcp_lane *l, const struct frame_head *head)
{
	/* Only this thread writes it: no lock is needed to read it. */
	if (head->payload != 0 || head->count < l->lane.reached)
		return broken(l, "a fence's epoch does not grow");
	session_fence_reached(&l->lane, head->count);
	return say_placed(l);
}

/* Memory that cannot be read at all is refused before the answer says that bytes follow. */
static int check_readable(struct tcp_lane *l)
{
	struct memory_table *table = &l->lane.session->memory;
	const uint8_t *p;

	pthread_rwlock_rdlock(&table->lock);
	p = memory_table_resolve(table, l->in.extents[0].address, l->in.extents[0].length,
				 VMFERRY_ACCESS_REMOTE_READ);
	pthread_rwlock_unlock(&table->lock);
	return p == NULL ? -EACCES : 0;
}

static int handle_read(struct tcp_lane *l, const struct frame_head *head)
{
	int ret;

	if (head->count != 1 || head->payload != 0)
		return broken(l, "a read has impossible sizes");
	ret = recv_extents(l, 1, READ_MAX);
	if (ret < 0)
		return ret;
	if (check_readable(l) < 0)
		return denied(l, "a read");
	l->in.access = VMFERRY_ACCESS_REMOTE_READ;
	ret = answer(l, &(struct frame_answer){
				.kind = ANSWER_DATA, .value = l->in.total, .placed = l->in.placed});
	if (ret == 0)
		ret = tcp_serve(l);
	/*
	 * Revoked in the middle: the bytes that the source waits for cannot come any more, nor can
	 * a reason.
	 */
	if (ret == -EACCES)
		return session_fail(l->lane.session, ret,
				    "lane %u: memory was deregistered while it was read",
				    l->lane.number);
	return ret;
}

static int handle_frame(struct tcp_lane *l)
{
	struct frame_head head;
	int ret = recv_exactly(l, l->in.head, FRAME_HEAD, &l->in.head_have);

	if (ret < 0)
		return ret;
	l->in.head_have = 0;
	frame_head_decode(l->in.head, &head);
	switch (head.kind) {
	case FRAME_WRITE:
		ret = handle_write(l, &head);
		break;
	case FRAME_FENCE:
		ret = handle_fence(l, &head);
		break;
	case FRAME_READ:
		ret = handle_read(l, &head);
		break;
	default:
		return broken(l, "a frame is of an unknown kind");
	}
	return ret;
}

void *tcp_receive_thread(void *lane)
{
	struct tcp_lane *l = lane;
	struct vmferry_session *s = l->lane.session;
	int ret;

	do {
		ret = handle_frame(l);
	} while (ret == 0);
	count_cpu(l);
	/*
	 * A lane that just ends says nothing of the session: the source may have no more use for
	 * it, and its last message may still wait on the control connection.
	 */
	if (ret == -ECONNRESET || ret == -ECANCELED)
		log_debug("session %s: lane %u: ended", s->name, l->lane.number);
	else
		session_fail(s, ret, "lane %u: %s", l->lane.number, strerror(-ret));
	session_lane_ended(&l->lane);
	return NULL;
}
