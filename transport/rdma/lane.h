/* SPDX-License-Identifier: MIT */
/*
 * A lane over RDMA. At the source the thread that uses the lane posts writes in chains, one
 * doorbell each, and takes in what has completed; a write that the queue has no room for is kept,
 * and whoever uses the lane next goes on with it. At the destination fences are all that ever comes
 * in.
 *
 * CREDITS  A place in the send queue is free again only when a completion at or behind it was
 *          polled, whatever the device has done. So places are counted here and the queue never
 *          runs full, and often enough a request asks for a completion that no wait is for
 *          something that would not come.
 * FENCES   A fence is a WRITE_WITH_IMM without bytes, answered by a SEND_WITH_IMM without bytes;
 *          both carry the epoch. Each takes a receive of the other side, and at most LANE_FENCES
 *          are unanswered: so a receive is always there.
 */
#ifndef RDMA_LANE_H
#define RDMA_LANE_H

#include <stdatomic.h>
#include <stdbool.h>

#include "transport/rdma/rdma.h"

#define LANE_CHAIN  64 /* requests for which one doorbell is rung at most */
#define LANE_SIGNAL 64 /* at least every so manieth request asks for a completion */
#define LANE_FENCES 8
/* Pages that lie scattered are a request each: 2 MiB of them under way. */
#define LANE_SEND_DEPTH	  512
#define LANE_ANSWER_RECVS 16 /* source */
#define LANE_FENCE_RECVS  32 /* destination */
#define LANE_ANSWER_DEPTH 16 /* destination's send queue */

/* A key of the destination, and from where on how far it is good. */
struct lane_key {
	uint64_t start;
	uint64_t length; /* 0: none */
	uint32_t key;
};

/*
 * Dirty pages come from all over a guest's memory, and the destination's keys are under a lock that
 * all lanes would take for each. So a lane remembers as many as a guest has chunks, until any key
 * becomes invalid: then it forgets all.
 */
#define LANE_KEYS 256

struct lane_keys {
	uint64_t generation;
	/* the longest reach that was seen: addresses so far apart have slots of their own */
	unsigned int shift;
	struct lane_key slots[LANE_KEYS];
};

/*
 * Requests that no doorbell has been rung for. Only addresses, lengths, keys and flags change from
 * chain to chain.
 */
struct lane_chain {
	struct ibv_send_wr wr[LANE_CHAIN];
	struct ibv_sge sge[LANE_CHAIN];
	unsigned int count;
	uint64_t bytes; /* of writes */
};

struct lane_fence {
	uint32_t epoch;
	uint64_t given; /* what lane_source.given was before it */
};

/*
 * Source: the lane's thread alone. Requests are counted from 0; a completion's wr_id is the count
 * of requests up to its own.
 */
struct lane_source {
	struct lane_chain chain;
	struct lane_keys keys;
	struct vmferry_write
		rest; /* the part of a taken write that is in no request yet; length 0: none */
	struct ibv_comp_channel *channel; /* of this lane alone */

	uint64_t posted;
	uint64_t done;	    /* completed, flushed ones too */
	bool flushed;	    /* some of @done were not carried out */
	uint64_t signalled; /* the last request that asked for a completion + 1 */
	uint64_t given;	    /* bytes of all writes that were posted */
	uint64_t placed;
	uint64_t given_signalled; /* what @given was at @signalled */
	uint64_t *given_at;	  /* [wr_id % depth]: what @given was behind that request */
	uint32_t depth;		  /* places for requests */
	uint32_t signal_every;
	uint32_t longest; /* bytes of one write */
	uint64_t window;

	uint64_t fenced;  /* last epoch given + 1 */
	uint64_t reached; /* last epoch that came back + 1 */
	struct lane_fence unanswered[LANE_FENCES];
	unsigned int unanswered_first;
	unsigned int unanswered_count;
};

/* Destination: under the session's poll_lock. */
struct lane_arrivals {
	uint64_t posted; /* answers */
	uint64_t done;
	uint32_t depth;
	uint32_t signal_every;
	bool owed; /* the last fence is not answered: the queue was full */
};

struct rdma_lane {
	struct lane lane; /* first */
	struct rdma_session *rdma;
	struct rdma_connection conn;
	unsigned int receives; /* that are posted */
	int wake;	       /* readable once the lane is shut down */
	struct lane_source out;
	struct lane_arrivals in;
};

static inline struct rdma_lane *rdma_lane_of(struct lane *lane)
{
	return (struct rdma_lane *)(void *)lane;
}

/* Which of the destination's rails the lane leads to. */
static inline unsigned int lane_rail(const struct rdma_session *session, unsigned int number)
{
	return number % session->addresses.rail_count;
}

/*
 * The device has failed this lane: ends the session, unless it was revoked, when connections may
 * refuse what they like.
 */
int lane_broken(struct rdma_lane *l, const char *what, int error);

/* Posts receives without room for bytes until @count are there. Ends the session if it cannot. */
int lane_repost(struct rdma_lane *l, unsigned int count);

/* What a wait is for. */
typedef bool (*lane_condition)(const struct rdma_lane *l, uint64_t arg);

/* ---- lane_keys.c ----------------------------------------------------------------------------- */

/*
 * The destination's key for @address: -ETIMEDOUT when there is none by @deadline, which may be 0,
 * or the session's error. Before it waits, the doorbell is rung for what is staged.
 */
int lane_remote_key(struct rdma_lane *l, uint64_t address, uint64_t deadline,
		    const struct lane_key **key);

/* How far @key is good from @at on, where it is good. */
static inline uint64_t lane_key_reach(const struct lane_key *key, uint64_t at)
{
	return key->length - (at - key->start);
}

/* ---- post.c ---------------------------------------------------------------------------------- */

/* Makes the chain's unchanging parts. */
void lane_chain_init(struct lane_chain *chain);

/*
 * Whether the queue has a place for one request more, and @bytes more of writes may be under way.
 */
bool lane_has_room(const struct rdma_lane *l, uint64_t bytes);

/*
 * The chain's next request, without bytes; the caller has looked for room in chain and queue.
 * @flags: of ibv_send_flags.
 */
struct ibv_send_wr *lane_stage(struct rdma_lane *l, enum ibv_wr_opcode opcode, unsigned int flags);

/* Gives a request that was just staged its bytes here and there. */
void lane_aim(struct ibv_send_wr *wr, uint64_t here, uint32_t length, uint32_t key, uint64_t there,
	      uint32_t remote_key);

/* Rings the doorbell for the chain, if there is anything in it. */
int lane_ring(struct rdma_lane *l);

/* Sends what was taken: 0, -ETIMEDOUT, or the session's error. */
int lane_flush(struct rdma_lane *l, uint64_t deadline);

/* ---- complete.c ------------------------------------------------------------------------------ */

/* Source: takes in completions and answers: how many there were, or the session's error. */
int lane_reap(struct rdma_lane *l);

/*
 * Source: waits until @met says so: 0, -ETIMEDOUT, or the session's error. Nothing may be staged.
 */
int lane_await(struct rdma_lane *l, lane_condition met, uint64_t arg, uint64_t deadline);

/*
 * The connection is broken: takes in what is flushed until nothing is under way, or a second has
 * passed. Then the device touches none of the memory that requests were for.
 */
void lane_drain(struct rdma_lane *l);

#endif
