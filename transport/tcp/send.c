/* SPDX-License-Identifier: MIT */
/*
 * The source's half of a lane: writes become frames, and frames go out by sendmsg() straight from
 * the memory. A frame that the socket does not take whole stays, and whoever uses the lane next
 * goes on with it.
 */
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "transport/tcp/tcp.h"

static void begin(struct tcp_sender *out)
{
	out->extents = 0;
	out->payload = 0;
	out->iov_at = 0;
	out->iov_count = 1;
}

static void finish(struct tcp_lane *l, uint32_t kind, uint32_t count)
{
	struct tcp_sender *out = &l->out;
	size_t head = FRAME_HEAD + (size_t)out->extents * FRAME_EXTENT;

	frame_head_encode(&(struct frame_head){kind, count, out->payload}, out->head);
	out->iov[0] = (struct iovec){out->head, head};
	out->left = head + out->payload;
	out->given += out->payload;
	counter_add(&l->lane.counters.bytes, out->payload);
	counter_add(&l->lane.counters.wire_bytes, out->left);
}

void tcp_begin_frame(struct tcp_lane *l, const struct frame_head *head, const uint8_t *extent)
{
	begin(&l->out);
	if (extent != NULL) {
		memcpy(l->out.head + FRAME_HEAD, extent, FRAME_EXTENT);
		l->out.extents = 1;
	}
	finish(l, head->kind, head->count);
}

/* Where the bytes go: the last extent grows if they follow it. */
static void add_extent(struct tcp_sender *out, bool grows, uint64_t address, uint64_t length)
{
	uint8_t *at;

	if (!grows)
		out->extents++;
	at = out->head + FRAME_HEAD + (size_t)(out->extents - 1) * FRAME_EXTENT;
	out->last_length = grows ? out->last_length + length : length;
	out->end = address + length;
	if (!grows)
		wire_put_u64(at, address);
	wire_put_u64(at + 8, out->last_length);
}

/* Moves as much of a write into the frame as it has room for; false if that is nothing. */
static bool add_write(struct tcp_sender *out, struct vmferry_write *w)
{
	uint8_t *from = w->memory->base + w->offset;
	struct iovec *last = &out->iov[out->iov_count - 1];
	uint64_t room = FRAME_PAYLOAD - out->payload;
	uint64_t n = w->length < room ? w->length : room;
	/* An end of 0 is the end of all addresses: address 0 does not follow it. */
	bool grows = out->extents > 0 && out->end == w->address && out->end != 0;
	bool joins = out->iov_count > 1 && (uint8_t *)last->iov_base + last->iov_len == from;

	if (n == 0 || (!grows && out->extents == FRAME_EXTENTS_MAX) ||
	    (!joins && out->iov_count == SEND_IOVS))
		return false;
	add_extent(out, grows, w->address, n);
	if (joins)
		last->iov_len += n;
	else
		out->iov[out->iov_count++] = (struct iovec){from, n};
	out->payload += n;
	w->offset += n;
	w->address += n;
	w->length -= n;
	return true;
}

/*
 * Makes the next frame of what is left of a large write and of @writes; returns how many of these
 * it took.
 */
static unsigned int compose(struct tcp_lane *l, const struct vmferry_write *writes,
			    unsigned int count)
{
	struct tcp_sender *out = &l->out;
	unsigned int taken = 0;

	begin(out);
	if (out->rest.length > 0)
		add_write(out, &out->rest);
	while (out->rest.length == 0 && taken < count) {
		struct vmferry_write w = writes[taken];

		if (!add_write(out, &w))
			break;
		out->rest = w;
		taken++;
	}
	finish(l, FRAME_WRITE, out->extents);
	counter_add(&l->lane.counters.writes, taken);
	return taken;
}

/* 1 when the frame is out, 0 when the socket is full. */
static int push_frame(struct tcp_lane *l)
{
	struct tcp_sender *out = &l->out;

	while (out->left > 0) {
		struct msghdr msg = {
			.msg_iov = out->iov + out->iov_at,
			.msg_iovlen = out->iov_count - out->iov_at,
		};
		ssize_t n = socket_sendmsg(l->fd, &msg);

		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return tcp_source_failed(l, "cannot send", (int)n);
		counter_add(&l->lane.counters.submissions, 1);
		iov_advance(out->iov, &out->iov_at, out->iov_count, (uint64_t)n);
		out->left -= (uint64_t)n;
	}
	return 1;
}

int tcp_push(struct tcp_lane *l)
{
	for (;;) {
		int ret = push_frame(l);

		if (ret <= 0 || l->out.rest.length == 0)
			return ret;
		compose(l, NULL, 0);
	}
}

/*
 * Waits until a full socket takes more, hearing what comes back: 0, -ETIMEDOUT, or the session's
 * error.
 */
static int await_room(struct tcp_lane *l, uint64_t deadline)
{
	uint64_t begun = vmferry_now();
	int ret = socket_wait(l->fd, POLLOUT | POLLIN, deadline);

	counter_add(&l->lane.counters.stall_ns, vmferry_now() - begun);
	return ret < 0 ? ret : tcp_hear(l);
}

int tcp_flush(struct tcp_lane *l, uint64_t deadline)
{
	for (;;) {
		int ret = tcp_push(l);

		if (ret != 0)
			return ret < 0 ? ret : 0;
		ret = await_room(l, deadline);
		if (ret < 0)
			return ret;
	}
}

int tcp_write(struct lane *lane, const struct vmferry_write *writes, unsigned int count,
	      uint64_t deadline)
{
	struct tcp_lane *l = tcp_lane_of(lane);
	unsigned int taken = 0;
	int ret = tcp_flush(l, deadline);

	if (ret < 0)
		return ret == -ETIMEDOUT ? -EAGAIN : ret;
	while (taken < count) {
		taken += compose(l, writes + taken, count - taken);
		ret = tcp_push(l);
		if (ret < 0)
			return ret;
		if (ret == 0)
			break;
	}
	ret = tcp_hear(l);
	return ret < 0 ? ret : (int)taken;
}

int tcp_fence(struct lane *lane, uint32_t epoch, uint64_t deadline)
{
	struct tcp_lane *l = tcp_lane_of(lane);
	int ret;

	if (epoch < l->out.fenced)
		return -EINVAL;
	ret = tcp_flush(l, deadline);
	if (ret < 0)
		return ret;
	tcp_begin_frame(l, &(struct frame_head){.kind = FRAME_FENCE, .count = epoch}, NULL);
	l->out.fenced = (uint64_t)epoch + 1;
	/*
	 * The lane may never be used again, so nobody would go on with a fence that the socket did
	 * not take: what was sent before may have filled it to the brim. Past the deadline it is
	 * set all the same, and the next call goes on with it.
	 */
	ret = tcp_flush(l, deadline);
	return ret == -ETIMEDOUT ? 0 : ret;
}
