/* SPDX-License-Identifier: MIT */
/*
 * Keeps harvesting the dirty tracker while the guest runs, in a thread of its own, and tells the
 * lanes.
 *
 * OWNERSHIP  The tracker belongs to whoever holds @lock: the harvester's thread, a vCPU thread
 *            whose ring is full, or the control thread for the last harvest.
 */
#ifndef ENGINE_HARVESTER_H
#define ENGINE_HARVESTER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "lanes.h"
#include "migrator/dirty/tracker.h"

struct harvester {
	pthread_mutex_t lock;
	pthread_cond_t end;	 /* wakes the thread out of its pause between harvests */
	struct tracker *tracker; /* NULL when nothing is tracked */
	struct lane_pool *lanes; /* NULL: nobody to wake */
	bool stop;
	bool running;
	pthread_t thread;

	/* Written under @lock, read by anyone. */
	_Atomic uint64_t pages; /* entries found so far */
	_Atomic uint64_t harvests;
	_Atomic uint64_t harvest_ns; /* smoothed cost of one */
	_Atomic uint64_t dirty_rate; /* bytes a second, smoothed */
	_Atomic uint64_t cpu_ns;     /* of the thread, when it has ended */
	_Atomic int error;	     /* of the first harvest that failed */
	uint64_t window_start;
	uint64_t window_pages;
};

void harvester_init(struct harvester *h);
void harvester_destroy(struct harvester *h);

/*
 * Starts tracking, and the thread. The tracker stays the caller's; it must not be touched until
 * harvester_end().
 */
int harvester_start(struct harvester *h, struct tracker *tracker, struct lane_pool *lanes);

/* Who is woken from now on; NULL: nobody. What is found goes into the map in any case. */
void harvester_set_lanes(struct harvester *h, struct lane_pool *lanes);

/* One harvest now, in the calling thread. Any thread; 0 when nothing is tracked. */
int harvester_now(struct harvester *h);

/* Ends the thread if it runs and the tracking. */
void harvester_end(struct harvester *h);

#endif
