/* SPDX-License-Identifier: MIT */
/*
 * What the destination sends back to the source: how much is placed, which fence was reached, why
 * it refuses.
 */
#include <errno.h>
#include <string.h>

#include "transport/tcp/tcp.h"

static int refused(struct tcp_lane *l, uint32_t status)
{
	if (status == REFUSED_ACCESS)
		return session_fail(l->lane.session, -EACCES,
				    "lane %u: the destination refuses access to the addresses",
				    l->lane.number);
	return session_fail(l->lane.session, -EPROTO,
			    "lane %u: the destination does not understand this side (status %u)",
			    l->lane.number, status);
}

static int broken(struct tcp_lane *l)
{
	return session_fail(l->lane.session, -EPROTO, "lane %u: an answer makes no sense",
			    l->lane.number);
}

static int hear_answer(struct tcp_lane *l)
{
	struct tcp_sender *out = &l->out;
	struct frame_answer a;

	frame_answer_decode(out->answer, &a);
	switch (a.kind) {
	case ANSWER_PLACED:
		if (a.value < out->reached || a.value > out->fenced || a.placed > out->given)
			return broken(l);
		out->reached = a.value;
		counter_set(&l->lane.counters.placed_bytes, a.placed);
		return 0;
	case ANSWER_DATA:
		return out->reading > 0 && a.value == out->reading ? 1 : broken(l);
	case ANSWER_REFUSED:
		return refused(l, a.status);
	default:
		return broken(l);
	}
}

/* One answer or a part of one; -EAGAIN when none has come. */
static int hear_one(struct tcp_lane *l)
{
	struct tcp_sender *out = &l->out;
	ssize_t n =
		socket_recv(l->fd, out->answer + out->answer_have, ANSWER_FRAME - out->answer_have);

	if (n < 0)
		return (int)n;
	out->answer_have += (size_t)n;
	if (out->answer_have < ANSWER_FRAME)
		return 0;
	out->answer_have = 0;
	return hear_answer(l);
}

static int lost(struct tcp_lane *l, const char *what, int error)
{
	return session_fail(l->lane.session, error, "lane %u: %s: %s", l->lane.number, what,
			    strerror(-error));
}

int tcp_hear(struct tcp_lane *l)
{
	for (;;) {
		int ret = hear_one(l);

		if (ret == -EAGAIN)
			return 0;
		if (ret > 0 || (ret < 0 && session_error(l->lane.session) != 0))
			return ret > 0 ? ret : session_error(l->lane.session);
		if (ret < 0)
			return lost(l, "the peer is gone", ret);
	}
}

int tcp_source_failed(struct tcp_lane *l, const char *what, int error)
{
	/*
	 * Sending fails when the destination has closed; the reason that it gave first may still be
	 * unread.
	 */
	int ret = tcp_hear(l);

	return ret < 0 ? ret : lost(l, what, error);
}

int tcp_fence_wait(struct lane *lane, uint32_t epoch, uint64_t deadline)
{
	struct tcp_lane *l = tcp_lane_of(lane);

	while (l->out.reached <= epoch) {
		int ret = tcp_push(l);
		short events = ret == 0 ? POLLIN | POLLOUT : POLLIN;

		if (ret >= 0)
			ret = tcp_hear(l);
		if (ret == 0 && l->out.reached <= epoch)
			ret = socket_wait(l->fd, events, deadline);
		if (ret < 0)
			return ret;
	}
	return 0;
}
