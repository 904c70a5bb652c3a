/* SPDX-License-Identifier: MIT */
/*
 * A lane's way through its share of the dirty map: takes bits, gathers their pages into writes,
 * gives these to the transport. By whoever the lane belongs to.
 */
#ifndef ENGINE_SWEEP_H
#define ENGINE_SWEEP_H

#include "lanes.h"

typedef int (*lane_visit)(struct lane *lane, unsigned int region, uint64_t word);

/* All words of the map that are this lane's. -ECANCELED when the pool is to stop. */
int lane_walk(struct lane *lane, lane_visit visit);

/*
 * Sends everything that is dirty in this lane's granules; @sent tells whether there was anything.
 */
int lane_sweep(struct lane *lane, bool *sent);

/* A fence behind all that this lane was given was answered. */
void lane_all_placed(struct lane *lane);

static inline void lane_count(_Atomic uint64_t *counter, uint64_t n)
{
	/* relaxed, one writer: a plain store would do but for readers of other threads. */
	uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

static inline bool lanes_must_stop(const struct lane_pool *pool)
{
	return atomic_load_explicit(&pool->stop, memory_order_acquire);
}

#endif
