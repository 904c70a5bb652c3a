/* SPDX-License-Identifier: MIT */
/*
 * The source's half of a lane, inward: completions, the destination's answers to fences, and
 * waiting for either.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "transport/rdma/lane.h"

#define POLL_BATCH 16
/* As long as sleeping and being woken takes. */
#define SPIN_NS (20 * NS_PER_US)
/*
 * An event that got lost, by whatever fault of a device, costs a tenth of a second and not the
 * session.
 */
#define DOZE_NS	    (100 * NS_PER_MS)
#define DRAIN_NS    NS_PER_S
#define DRAIN_LOOKS 20 /* in a millisecond */
/* Acknowledging takes a lock. */
#define ACK_EVENTS 64

/*
 * By an acknowledgement of the device or by the answer to a fence, whichever comes first: nothing
 * orders these two.
 */
static void tell_placed(struct rdma_lane *l, uint64_t bytes)
{
	if (bytes > counter_get(&l->lane.counters.placed_bytes))
		counter_set(&l->lane.counters.placed_bytes, bytes);
}

/* Why a request was flushed is known within moments: whoever waits goes on doing so until then. */
static int completion_failed(struct rdma_lane *l, const struct ibv_wc *wc)
{
	int ret = rdma_wc_failed(l->lane.session, "lane", l->lane.number, wc);

	if (wc->status == IBV_WC_WR_FLUSH_ERR && !atomic_load(&l->lane.session->revoked))
		return session_error(l->lane.session);
	return ret;
}

/* What was sent and has completed. */
static int reap_sent(struct rdma_lane *l)
{
	struct lane_source *out = &l->out;
	struct ibv_wc wc[POLL_BATCH];
	int n = ibv_poll_cq(l->conn.send_cq, POLL_BATCH, wc);
	int ret = 0;

	if (n < 0)
		return lane_broken(l, "its completion queue is broken", EIO);
	for (int i = 0; i < n; i++) {
		out->done = wc[i].wr_id;
		if (wc[i].status != IBV_WC_SUCCESS) {
			out->flushed = true;
			ret = completion_failed(l, &wc[i]);
			continue;
		}
		out->placed = out->given_at[out->done % l->conn.send_depth];
		tell_placed(l, out->placed);
	}
	return ret < 0 ? ret : n;
}

static int hear_answer(struct rdma_lane *l, const struct ibv_wc *wc)
{
	struct lane_source *out = &l->out;
	uint32_t epoch = ntohl(wc->imm_data);

	if (wc->opcode != IBV_WC_RECV || (wc->wc_flags & IBV_WC_WITH_IMM) == 0 ||
	    epoch < out->reached || epoch >= out->fenced)
		return session_fail(l->lane.session, -EPROTO, "lane %u: an answer makes no sense",
				    l->lane.number);
	out->reached = (uint64_t)epoch + 1;
	/* Where several fences came at once, only the last is answered. */
	while (out->unanswered_count > 0 && out->unanswered[out->unanswered_first].epoch <= epoch) {
		tell_placed(l, out->unanswered[out->unanswered_first].given);
		out->unanswered_first = (out->unanswered_first + 1) % LANE_FENCES;
		out->unanswered_count--;
	}
	return lane_repost(l, LANE_ANSWER_RECVS);
}

static int reap_answers(struct rdma_lane *l)
{
	struct ibv_wc wc[POLL_BATCH];
	int n = ibv_poll_cq(l->conn.recv_cq, POLL_BATCH, wc);
	int ret = 0;

	if (n < 0)
		return lane_broken(l, "its completion queue is broken", EIO);
	l->receives -= (unsigned int)n;
	for (int i = 0; ret == 0 && i < n; i++)
		ret = wc[i].status == IBV_WC_SUCCESS ? hear_answer(l, &wc[i])
						     : completion_failed(l, &wc[i]);
	return ret < 0 ? ret : n;
}

int lane_reap(struct rdma_lane *l)
{
	int sent = reap_sent(l);
	int heard;

	if (sent < 0)
		return sent;
	heard = reap_answers(l);
	return heard < 0 ? heard : sent + heard;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static int arm(struct rdma_lane *l)
{
	int error = ibv_req_notify_cq(l->conn.send_cq, 0);

	if (error == 0)
		error = ibv_req_notify_cq(l->conn.recv_cq, 0);
	if (error == 0)
		return 0;
	return lane_broken(l, "completions cannot be waited for", error);
}

static void take_events(struct rdma_lane *l)
{
	struct rdma_connection *conn = &l->conn;
	struct ibv_cq *cq;
	void *unused;

	while (ibv_get_cq_event(l->out.channel, &cq, &unused) == 0) {
		unsigned int *unacked =
			cq == conn->send_cq ? &conn->unacked_send : &conn->unacked_recv;

		if (++*unacked < ACK_EVENTS)
			continue;
		ibv_ack_cq_events(cq, *unacked);
		*unacked = 0;
	}
}

/* Sleeps until something completes. Says nothing of what. */
static int doze(struct rdma_lane *l, uint64_t deadline)
{
	struct pollfd fds[] = {
		{.fd = l->out.channel->fd, .events = POLLIN},
		{.fd = l->wake, .events = POLLIN},
	};
	uint64_t until = vmferry_now() + DOZE_NS;
	int ret = arm(l);

	/* What completed before the queues were armed makes no event. */
	if (ret == 0)
		ret = lane_reap(l);
	if (ret != 0)
		return ret < 0 ? ret : 0;
	counter_add(&l->lane.counters.sleeps, 1);
	poll(fds, 2, deadline_poll_ms(until < deadline ? until : deadline));
	if (fds[0].revents != 0)
		take_events(l);
	return 0;
}

/* Rests until it is worth looking again, for a moment only before @spin_until. */
static int rest(struct rdma_lane *l, uint64_t spin_until, uint64_t deadline)
{
	uint64_t now = vmferry_now();
	int error = session_error(l->lane.session);

	if (error != 0)
		return error;
	if (now >= deadline)
		return -ETIMEDOUT;
	if (now >= spin_until && !rdma_busy_polls(l->rdma, now))
		return doze(l, deadline);
	rdma_spin(now);
	return 0;
}

int lane_await(struct rdma_lane *l, lane_condition met, uint64_t arg, uint64_t deadline)
{
	uint64_t spin_until = vmferry_now() + SPIN_NS;

	for (;;) {
		int ret = lane_reap(l);

		if (ret < 0)
			return ret;
		if (met(l, arg))
			return 0;
		if (ret > 0)
			spin_until = vmferry_now() + SPIN_NS;
		ret = rest(l, spin_until, deadline);
		if (ret < 0)
			return ret;
	}
}

static bool has_reached(const struct rdma_lane *l, uint64_t epoch)
{
	return l->out.reached > epoch;
}

int rdma_lane_fence_wait(struct lane *lane, uint32_t epoch, uint64_t deadline)
{
	struct rdma_lane *l = rdma_lane_of(lane);

	return has_reached(l, epoch) ? 0 : lane_await(l, has_reached, epoch, deadline);
}

/* ---- the end --------------------------------------------------------------------------------- */

/*
 * The last requests may have asked for no completion, and if they were done before the connection
 * broke there will be none. What is posted to a broken connection is flushed with one, in turn; the
 * queue has a place that is kept for it.
 */
static int post_marker(struct rdma_lane *l)
{
	struct ibv_send_wr *bad;
	struct ibv_send_wr wr = {
		.wr_id = l->out.posted + 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = IBV_SEND_SIGNALED,
	};

	l->out.chain.count = 0;
	l->out.chain.bytes = 0;
	if (ibv_post_send(l->conn.id->qp, &wr, &bad) != 0)
		return -EIO;
	l->out.posted++;
	return 0;
}

void lane_drain(struct rdma_lane *l)
{
	uint64_t until = vmferry_now() + DRAIN_NS;
	const struct timespec nap = {.tv_nsec = NS_PER_MS / DRAIN_LOOKS};

	if (l->out.done == l->out.posted || post_marker(l) < 0)
		return;
	while (l->out.done < l->out.posted && vmferry_now() < until) {
		struct ibv_wc wc;

		if (ibv_poll_cq(l->conn.send_cq, 1, &wc) > 0)
			l->out.done = wc.wr_id;
		else
			nanosleep(&nap, NULL);
	}
}
