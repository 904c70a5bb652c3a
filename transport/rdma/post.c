/* SPDX-License-Identifier: MIT */
/*
 * The source's half of a lane, outward: writes become requests in a chain, and a doorbell is rung
 * for the chain.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "transport/rdma/lane.h"

void lane_chain_init(struct lane_chain *chain)
{
	for (unsigned int i = 0; i < LANE_CHAIN; i++) {
		chain->wr[i].sg_list = &chain->sge[i];
		chain->wr[i].next = i + 1 < LANE_CHAIN ? &chain->wr[i + 1] : NULL;
	}
}

bool lane_has_room(const struct rdma_lane *l, uint64_t bytes)
{
	const struct lane_source *out = &l->out;
	uint64_t under_way = out->given + out->chain.bytes - out->placed;

	return out->posted + out->chain.count - out->done < out->depth &&
	       (under_way == 0 || under_way + bytes <= out->window);
}

struct ibv_send_wr *lane_stage(struct rdma_lane *l, enum ibv_wr_opcode opcode, unsigned int flags)
{
	struct ibv_send_wr *wr = &l->out.chain.wr[l->out.chain.count++];

	wr->opcode = opcode;
	wr->send_flags = flags;
	wr->num_sge = 0;
	wr->wr.rdma.remote_addr = 0;
	wr->wr.rdma.rkey = 0;
	return wr;
}

void lane_aim(struct ibv_send_wr *wr, uint64_t here, uint32_t length, uint32_t key, uint64_t there,
	      uint32_t remote_key)
{
	*wr->sg_list = (struct ibv_sge){here, length, key};
	wr->num_sge = 1;
	wr->wr.rdma.remote_addr = there;
	wr->wr.rdma.rkey = remote_key;
}

/*
 * Whether the request just counted must ask for a completion. Those behind the last one that does
 * are always so few, and of so few bytes, that one more is possible: who has to wait for room waits
 * for a completion that will come.
 */
static bool must_signal(const struct lane_source *out)
{
	return out->posted - out->signalled >= out->signal_every ||
	       out->given - out->given_signalled + out->longest > out->window;
}

static void count_requests(struct rdma_lane *l)
{
	struct lane_source *out = &l->out;
	unsigned int signals = 0;

	for (unsigned int i = 0; i < out->chain.count; i++) {
		struct ibv_send_wr *wr = &out->chain.wr[i];

		wr->wr_id = ++out->posted;
		if (wr->opcode == IBV_WR_RDMA_WRITE)
			out->given += wr->sg_list->length;
		out->given_at[out->posted % l->conn.send_depth] = out->given;
		if (must_signal(out))
			wr->send_flags |= IBV_SEND_SIGNALED;
		if ((wr->send_flags & IBV_SEND_SIGNALED) == 0)
			continue;
		out->signalled = out->posted;
		out->given_signalled = out->given;
		signals++;
	}
	counter_add(&l->lane.counters.requests, out->chain.count);
	counter_add(&l->lane.counters.signals, signals);
	counter_add(&l->lane.counters.submissions, 1);
	counter_add(&l->lane.counters.bytes, out->chain.bytes);
	counter_add(&l->lane.counters.wire_bytes, out->chain.bytes);
}

int lane_ring(struct rdma_lane *l)
{
	struct lane_chain *chain = &l->out.chain;
	struct ibv_send_wr *bad = NULL;
	struct ibv_send_wr *last;
	int error;

	if (chain->count == 0)
		return 0;
	count_requests(l);
	last = &chain->wr[chain->count - 1];
	last->next = NULL;
	error = ibv_post_send(l->conn.id->qp, chain->wr, &bad);
	last->next = chain->count < LANE_CHAIN ? last + 1 : NULL;
	chain->count = 0;
	chain->bytes = 0;
	if (error == 0)
		return 0;
	/* What is before the bad one is queued. */
	if (bad != NULL)
		l->out.posted = bad->wr_id - 1;
	return lane_broken(l, "requests cannot be posted", error);
}

/*
 * Adds to the chain's last write what follows it here and there: one long write is cheaper than
 * two.
 */
static bool extend(struct rdma_lane *l, uint64_t here, uint32_t length, uint32_t key,
		   uint64_t there, uint32_t remote_key)
{
	struct lane_chain *chain = &l->out.chain;
	struct ibv_send_wr *wr;

	/* Address 0 follows nothing, although the end of all addresses is the same number. */
	if (chain->count == 0 || there == 0)
		return false;
	wr = &chain->wr[chain->count - 1];
	if (wr->sg_list->length + length > l->out.longest || wr->sg_list->lkey != key ||
	    wr->wr.rdma.rkey != remote_key || wr->sg_list->addr + wr->sg_list->length != here ||
	    wr->wr.rdma.remote_addr + wr->sg_list->length != there)
		return false;
	wr->sg_list->length += length;
	return true;
}

static uint64_t at_most(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

/* Stages the beginning of a taken write: as much as one request can carry. */
static int stage_piece(struct rdma_lane *l, struct vmferry_write *w, uint64_t deadline)
{
	/*
	 * Regions are registered at their session addresses, so that is what names a place in them,
	 * here as there.
	 */
	uint64_t here = w->memory->address + w->offset;
	const struct lane_key *remote;
	uint32_t key;
	uint64_t end;
	uint64_t n;
	/* It changes nothing that the caller could see. */
	int ret = rdma_local_key((struct vmferry_memory *)w->memory, l->conn.rail, w->offset, &key,
				 &end);

	if (ret == 0)
		ret = lane_remote_key(l, w->address, deadline, &remote);
	if (ret == 0 && l->out.chain.count == LANE_CHAIN)
		ret = lane_ring(l);
	if (ret != 0)
		return ret;
	n = at_most(at_most(w->length, l->out.longest),
		    at_most(end - w->offset, lane_key_reach(remote, w->address)));
	if (!extend(l, here, (uint32_t)n, key, w->address, remote->key))
		lane_aim(lane_stage(l, IBV_WR_RDMA_WRITE, 0), here, (uint32_t)n, key, w->address,
			 remote->key);
	l->out.chain.bytes += n;
	w->offset += n;
	w->address += n;
	w->length -= n;
	return 0;
}

static bool has_room_for_piece(const struct rdma_lane *l, uint64_t length)
{
	return lane_has_room(l, at_most(length, l->out.longest));
}

/*
 * Stages the taken write: 1 when all of it is, 0 when the lane is full, -ETIMEDOUT without a key,
 * or the session's error.
 */
static int stage_rest(struct rdma_lane *l, uint64_t deadline)
{
	struct vmferry_write *rest = &l->out.rest;

	while (rest->length > 0) {
		int ret = 0;

		if (!has_room_for_piece(l, rest->length)) {
			ret = lane_ring(l);
			if (ret == 0)
				ret = lane_reap(l);
			if (ret < 0 || !has_room_for_piece(l, rest->length))
				return ret < 0 ? ret : 0;
		}
		ret = stage_piece(l, rest, deadline);
		if (ret < 0)
			return ret;
	}
	return 1;
}

/* As lane_await(), and counts as the lane's being full. */
static int await_room(struct rdma_lane *l, lane_condition met, uint64_t arg, uint64_t deadline)
{
	uint64_t begun;
	int ret;

	if (met(l, arg))
		return 0;
	begun = vmferry_now();
	ret = lane_await(l, met, arg, deadline);
	counter_add(&l->lane.counters.stall_ns, vmferry_now() - begun);
	return ret;
}

int lane_flush(struct rdma_lane *l, uint64_t deadline)
{
	for (;;) {
		int ret = stage_rest(l, deadline);
		int rung = lane_ring(l);

		if (ret < 0 || rung < 0)
			return ret < 0 ? ret : rung;
		if (ret > 0)
			return 0;
		ret = await_room(l, has_room_for_piece, l->out.rest.length, deadline);
		if (ret < 0)
			return ret;
	}
}

int rdma_lane_write(struct lane *lane, const struct vmferry_write *writes, unsigned int count,
		    uint64_t deadline)
{
	struct rdma_lane *l = rdma_lane_of(lane);
	unsigned int taken = 0;
	int ret = lane_flush(l, deadline);

	if (ret < 0)
		return ret == -ETIMEDOUT ? -EAGAIN : ret;
	do {
		l->out.rest = writes[taken++];
		ret = stage_rest(l, 0);
	} while (ret > 0 && taken < count);
	counter_add(&lane->counters.writes, taken);
	/* A write without its key is taken like one without room: the next call waits for it. */
	if (ret < 0 && ret != -ETIMEDOUT)
		return ret;
	ret = lane_ring(l);
	if (ret == 0)
		ret = lane_reap(l);
	return ret < 0 ? ret : (int)taken;
}

static bool may_fence(const struct rdma_lane *l, uint64_t unused)
{
	(void)unused;
	return l->out.unanswered_count < LANE_FENCES && lane_has_room(l, 0);
}

int rdma_lane_fence(struct lane *lane, uint32_t epoch, uint64_t deadline)
{
	struct rdma_lane *l = rdma_lane_of(lane);
	struct lane_source *out = &l->out;
	int ret;

	if (epoch < out->fenced)
		return -EINVAL;
	ret = lane_flush(l, deadline);
	if (ret == 0)
		ret = await_room(l, may_fence, 0, deadline);
	if (ret < 0)
		return ret;
	lane_stage(l, IBV_WR_RDMA_WRITE_WITH_IMM, IBV_SEND_SIGNALED)->imm_data = htonl(epoch);
	out->unanswered[(out->unanswered_first + out->unanswered_count++) % LANE_FENCES] =
		(struct lane_fence){epoch, out->given};
	out->fenced = (uint64_t)epoch + 1;
	return lane_ring(l);
}

/*
 * A write without bytes: the peer's device acknowledges it, its memory and its processors have no
 * part in that, and no key is looked at (IBTA C9-88). Not needed as long as a completion is still
 * to come.
 */
int rdma_lane_probe(struct lane *lane)
{
	struct rdma_lane *l = rdma_lane_of(lane);
	int ret = lane_reap(l);

	if (ret < 0)
		return ret;
	if (l->out.signalled > l->out.done || !lane_has_room(l, 0))
		return 0;
	lane_stage(l, IBV_WR_RDMA_WRITE, IBV_SEND_SIGNALED)->sg_list->length = 0;
	return lane_ring(l);
}
