/* SPDX-License-Identifier: MIT */
/*
 * The destination's half of a lane: the device places what the source writes, and this side hears
 * only of fences, which it answers. Everything here happens under the session's poll_lock.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/rdma/lane.h"

#define POLL_BATCH 16

static int take_fence(struct rdma_lane *l, const struct ibv_wc *wc)
{
	uint32_t epoch = ntohl(wc->imm_data);
	int ret;

	if (wc->status != IBV_WC_SUCCESS)
		return rdma_wc_failed(l->lane.session, "lane", l->lane.number, wc);
	/* Only who holds poll_lock writes lane.reached: no other lock is needed to read it. */
	if (wc->opcode != IBV_WC_RECV_RDMA_WITH_IMM || epoch < l->lane.reached)
		return session_fail(l->lane.session, -EPROTO, "lane %u: %s", l->lane.number,
				    wc->opcode != IBV_WC_RECV_RDMA_WITH_IMM
					    ? "a message that is no fence"
					    : "a fence's epoch does not grow");
	/* Before the answer, which allows the source one fence more. */
	ret = lane_repost(l, LANE_FENCE_RECVS);
	if (ret < 0)
		return ret;
	session_fence_reached(&l->lane, epoch);
	l->in.owed = true;
	return 0;
}

/* What became of answers. */
static int reap_answers(struct rdma_lane *l)
{
	struct ibv_wc wc[POLL_BATCH];
	int n = ibv_poll_cq(l->conn.send_cq, POLL_BATCH, wc);

	if (n < 0)
		return lane_broken(l, "its completion queue is broken", EIO);
	for (int i = 0; i < n; i++) {
		l->in.done = wc[i].wr_id;
		if (wc[i].status != IBV_WC_SUCCESS)
			return rdma_wc_failed(l->lane.session, "lane", l->lane.number, &wc[i]);
	}
	return 0;
}

/*
 * One answer, for the last of the fences that have come; nothing if the queue is full, and the next
 * poll tries again.
 */
static int answer(struct rdma_lane *l)
{
	struct lane_arrivals *in = &l->in;
	struct ibv_send_wr *bad;
	struct ibv_send_wr wr = {
		.wr_id = in->posted + 1,
		.opcode = IBV_WR_SEND_WITH_IMM,
		.send_flags = (in->posted + 1) % in->signal_every == 0 ? IBV_SEND_SIGNALED : 0,
		.imm_data = htonl((uint32_t)(l->lane.reached - 1)),
	};
	int error;

	if (in->posted - in->done == in->depth)
		return 0;
	error = ibv_post_send(l->conn.id->qp, &wr, &bad);
	if (error != 0)
		return lane_broken(l, "a fence cannot be answered", error);
	in->posted++;
	in->owed = false;
	return 0;
}

/* 1 if there was anything, 0, or why the lane is over. */
static int take_in(struct rdma_lane *l)
{
	struct ibv_wc wc[POLL_BATCH];
	int n = ibv_poll_cq(l->conn.recv_cq, POLL_BATCH, wc);
	int ret = n < 0 ? lane_broken(l, "its completion queue is broken", EIO) : 0;

	if (n > 0)
		l->receives -= (unsigned int)n;
	for (int i = 0; ret == 0 && i < n; i++)
		ret = take_fence(l, &wc[i]);
	/*
	 * What became of earlier answers matters to the next one only; that a connection is broken
	 * shows by its receives.
	 */
	if (ret == 0 && l->in.owed)
		ret = reap_answers(l);
	if (ret == 0 && l->in.owed)
		ret = answer(l);
	/*
	 * Nothing tells when the queue is not full any more: until then, whoever polls shall go on.
	 */
	return ret < 0 ? ret : n > 0 || l->in.owed;
}

int rdma_lane_poll(struct lane *lane)
{
	int ret;

	if (lane->ended)
		return 0;
	ret = take_in(rdma_lane_of(lane));
	if (ret >= 0)
		return ret;
	session_lane_ended(lane);
	return 1;
}
