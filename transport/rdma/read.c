/* SPDX-License-Identifier: MIT */
/*
 * Reading the destination's memory. The source's memory is registered for nothing but being read,
 * so where the bytes go is registered once more for as long as they take.
 */
#include <errno.h>
#include <string.h>

#include "common/log.h"
#include "transport/rdma/lane.h"

/* Registered at a time. */
#define REGION_BYTES (64ull << 20)

/* Where the next request begins. */
struct reading {
	uint8_t *to;
	uint64_t address;
	uint64_t left;
	uint32_t key;
	uint64_t first; /* how many requests there were before */
};

static uint64_t at_most(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t under_way(const struct rdma_lane *l, uint64_t first)
{
	const struct lane_source *out = &l->out;

	return out->posted + out->chain.count - (out->done > first ? out->done : first);
}

/*
 * The device would put off more than it can have under way, and with them the fences behind them.
 */
static bool may_read(const struct rdma_lane *l, uint64_t first)
{
	return under_way(l, first) < l->conn.rail->limits.max_reads_out &&
	       l->out.chain.count < LANE_CHAIN && lane_has_room(l, 0);
}

/* A flushed read has completed too, and nothing was read: then the session's end is awaited. */
static bool all_read(const struct rdma_lane *l, uint64_t first)
{
	return under_way(l, first) == 0 && !l->out.flushed;
}

static int stage(struct rdma_lane *l, struct reading *r, uint64_t deadline)
{
	const struct lane_key *remote;
	uint64_t n;
	int ret = lane_remote_key(l, r->address, deadline, &remote);

	if (ret < 0)
		return ret;
	n = at_most(at_most(r->left, l->out.longest), lane_key_reach(remote, r->address));
	lane_aim(lane_stage(l, IBV_WR_RDMA_READ, IBV_SEND_SIGNALED), (uintptr_t)r->to, (uint32_t)n,
		 r->key, r->address, remote->key);
	r->to += n;
	r->address += n;
	r->left -= n;
	return 0;
}

static int read_all(struct rdma_lane *l, struct reading *r, uint64_t deadline)
{
	int ret = 0;

	while (ret == 0 && r->left > 0) {
		ret = lane_await(l, may_read, r->first, deadline);
		while (ret == 0 && r->left > 0 && may_read(l, r->first))
			ret = stage(l, r, deadline);
		if (ret == 0)
			ret = lane_ring(l);
	}
	return ret < 0 ? ret : lane_await(l, all_read, r->first, deadline);
}

/* Bytes may still come when nobody expects them: the lane cannot be used any more. */
static int abandon(struct rdma_lane *l, const struct reading *r, int error)
{
	l->out.chain.count = 0;
	if (under_way(l, r->first) == 0)
		return error;
	error = session_fail(l->lane.session, error,
			     "lane %u: what was read before 0x%llx does not come: %s",
			     l->lane.number, (unsigned long long)r->address, strerror(-error));
	rdma_connection_break(&l->conn);
	lane_drain(l);
	return error;
}

static int read_region(struct rdma_lane *l, uint8_t *to, uint64_t address, uint64_t length,
		       uint64_t deadline)
{
	struct ibv_mr *mr = ibv_reg_mr(l->conn.rail->pd, to, length, IBV_ACCESS_LOCAL_WRITE);
	struct reading r = {.to = to, .address = address, .left = length, .first = l->out.posted};
	int ret;

	if (mr == NULL) {
		ret = -errno;
		log_error("session %s: lane %u: 0x%llx bytes to read to cannot be registered: %s: "
			  "raise the limit of locked memory (ulimit -l)",
			  l->lane.session->name, l->lane.number, (unsigned long long)length,
			  strerror(-ret));
		return ret;
	}
	r.key = mr->lkey;
	ret = read_all(l, &r, deadline);
	if (ret < 0)
		ret = abandon(l, &r, ret);
	ibv_dereg_mr(mr);
	return ret;
}

int rdma_lane_read(struct lane *lane, uint8_t *to, uint64_t address, uint64_t length,
		   uint64_t deadline)
{
	struct rdma_lane *l = rdma_lane_of(lane);
	const struct rdma_limits *limits = &l->conn.rail->limits;
	int ret;

	if (limits->max_reads_out == 0) {
		log_error(
			"session %s: lane %u: device %s cannot read remote memory: use --transport "
			"tcp",
			lane->session->name, lane->number, l->conn.rail->name);
		return -EOPNOTSUPP;
	}
	ret = lane_flush(l, deadline);
	while (ret == 0 && length > 0) {
		uint64_t n = at_most(at_most(length, REGION_BYTES), limits->max_mr);

		ret = read_region(l, to, address, n, deadline);
		to += n;
		address += n;
		length -= n;
	}
	return ret;
}
