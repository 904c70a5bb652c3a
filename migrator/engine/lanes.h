/* SPDX-License-Identifier: MIT */
/*
 * The source's lane workers: one thread a lane, each sweeping its share of the dirty map and
 * writing what it takes.
 *
 * A page always travels on the same lane, chosen by its address, so that an older copy can never
 * overtake a newer one. Workers stream: while the harvester publishes, they sweep again and again.
 * Their life is
 *
 *   first pass -> fence 1, waited for -> sweeps, with a fence at each mark -> (lanes_finish) last
 *   sweep -> last fence
 *
 * Where little is left for the blackout, the last sweep and fence are the control thread's: waking
 * threads takes longer than that.
 *
 * OWNERSHIP  struct lane belongs to its worker but for the atomics, and to the control thread while
 *            the pool is taken; the pool's atomics are written by the control thread.
 */
#ifndef ENGINE_LANES_H
#define ENGINE_LANES_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/migration.h>

#include "migrator/dirty/map.h"
#include "pace.h"
#include "page_sets.h"

/*
 * Pages of one granule share a lane: large enough to merge neighbours, small enough to spread a hot
 * area.
 */
#define LANE_GRANULE (2ull << 20)
/* Ranges that go to the transport at once, and bytes. */
#define LANE_BATCH	 128u
#define LANE_BATCH_BYTES (2ull << 20)

struct lane_counts {
	_Atomic uint64_t bytes;		/* payload */
	_Atomic uint64_t pages;		/* sent, the same page counted each time */
	_Atomic uint64_t zero_pages;	/* found zero and never sent, so nothing was needed */
	_Atomic uint64_t first_bytes;	/* payload of the first pass */
	_Atomic uint64_t first_done_ns; /* when fence 1 was acknowledged, 0: not yet */
	_Atomic uint64_t seen;		/* generation after which a whole sweep found nothing */
	_Atomic uint64_t sweeps;	/* that sent something */
	_Atomic uint64_t cpu_ns;
	_Atomic uint64_t resent_pages; /* in @resent; worker only writes */
	_Atomic uint32_t marked;       /* the last fence behind which @resent began anew */
};

struct lane {
	struct lane_pool *pool;
	unsigned int index;
	pthread_t thread;
	bool started;
	bool record;	      /* note what is sent in the set of what was resent */
	bool idle;	      /* under the pool's lock: the worker sleeps, or is about to */
	uint64_t probed_ns;   /* when its path was asked last */
	uint64_t patience_ns; /* a destination that takes no bytes for this long hangs */
	struct vmferry_write batch[LANE_BATCH];
	unsigned int batch_count;
	uint64_t batch_bytes;
	uint64_t given; /* bytes given to the transport */
	/* bytes given and in the batch at the last look at what is placed, see page_sets.h */
	uint64_t taken_at;
	struct lane_counts counts;
};

struct lane_pool {
	struct vmferry_session *session;  /* borrowed */
	struct dirty_map *map;		  /* borrowed */
	struct vmferry_memory **memories; /* borrowed: one for each region */
	struct page_sets *sets; /* borrowed. A word lies in one granule: one worker has it */
	uint64_t look_bytes;	/* so many are given between two looks at what is placed */
	struct pace pace;
	bool verify;

	unsigned int lane_count;
	struct lane *lanes;

	/*
	 * Control thread's word to the workers. @lock and @work only put idle workers to sleep and
	 * wake them.
	 */
	_Atomic uint64_t generation;
	_Atomic uint32_t mark;	     /* fence that each worker is to set between two sweeps */
	_Atomic uint32_t last_fence; /* read by the workers after @finish */
	_Atomic bool finish;
	_Atomic bool stop;
	_Atomic int error;	      /* first error of any lane */
	_Atomic unsigned int running; /* workers that have not finished */
	bool taken;		      /* under @lock, written by the control thread */
	/* the last fences are set, the lanes the control thread's; this and @placed are its own */
	bool finished;
	bool placed; /* the destination has said that all has come */
	pthread_mutex_t lock;
	pthread_cond_t work;
	pthread_cond_t done;
};

/* @sets are the @map's; with those of --verify it records what is sent behind the first pass. */
int lanes_new(struct vmferry_session *session, struct dirty_map *map,
	      struct vmferry_memory **memories, struct page_sets *sets, uint64_t bandwidth,
	      struct lane_pool **pool);

/* Starts the workers: the first pass begins. */
int lanes_start(struct lane_pool *pool);

/* New bits were published: wakes idle workers. Any thread. */
void lanes_wake(struct lane_pool *pool);

/*
 * Before a blackout: takes the lanes from workers that are all idle, so that little can be sent
 * without waking them. False when one is at work, or the guest is so large that looking through its
 * map wants many.
 */
bool lanes_take(struct lane_pool *pool);

/*
 * The blackout has begun, and there may be more than a little: then the workers have their lanes
 * back and begin at once.
 */
void lanes_review(struct lane_pool *pool);

/*
 * No more bits will come: what is left is swept, then @fence. The bandwidth cap no longer holds. By
 * the calling thread, or by the workers if lanes_take() was false or there is more than a little:
 * then lanes_finished() waits for them. Control thread.
 */
int lanes_finish(struct lane_pool *pool, uint32_t fence, uint64_t deadline);

/*
 * --verify: each worker sets @fence and moves what it has recorded as sent into @handed. When
 * lanes_marked() says that all have, @handed is the control thread's until the next mark; it must
 * be all zero by then.
 */
void lanes_mark(struct lane_pool *pool, uint32_t fence);
bool lanes_marked(const struct lane_pool *pool, uint32_t fence);

/*
 * Waits until all have given their last fence to the transport. -ETIMEDOUT, or the first lane's
 * error.
 */
int lanes_finished(struct lane_pool *pool, uint64_t deadline);

/*
 * All is given to the transport and may fail yet, while the guest stands still: over RDMA that
 * shows to nobody but who uses the lane, and the destination, which waits, may never hear of it.
 * Looks, after lanes_finished(); lanes_error() tells what was seen. Control thread.
 */
void lanes_look_after(struct lane_pool *pool);

/*
 * All has come, or so the destination says: from here on it does with the lanes as it likes, and
 * nobody looks.
 */
void lanes_placed(struct lane_pool *pool);

/*
 * Ends the workers whatever they do, joins them, frees. Shut the session down first if lanes may be
 * stuck.
 */
void lanes_free(struct lane_pool **pool);

/* 0 or the first error of a lane. */
int lanes_error(const struct lane_pool *pool);

/* All lanes have the first pass behind them, placed. */
bool lanes_first_pass_done(const struct lane_pool *pool);

/* All lanes have swept once since the last lanes_wake() and found nothing. */
bool lanes_idle(const struct lane_pool *pool);

/* Sums over all lanes. */
struct lane_totals {
	uint64_t bytes;
	uint64_t pages;
	uint64_t zero_pages;
	uint64_t first_bytes;
	uint64_t first_done_ns; /* of the last lane */
	uint64_t sweeps;	/* of the busiest lane */
	uint64_t cpu_ns;
	uint64_t resent_pages;
};

void lanes_totals(const struct lane_pool *pool, struct lane_totals *totals);

#endif
