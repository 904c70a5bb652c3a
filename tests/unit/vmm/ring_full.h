/* SPDX-License-Identifier: MIT */
/*
 * A stand-in for vmferry_source_ring_full(): the VMM is tested without an engine. "Source" is a
 * ring_double, whose tracker is harvested as the engine's harvester would.
 */
#ifndef TEST_VMM_RING_FULL_H
#define TEST_VMM_RING_FULL_H

#include <pthread.h>
#include <stdatomic.h>

#include "migrator/dirty/tracker.h"

struct ring_double {
	pthread_mutex_t lock;
	struct tracker *tracker;
	atomic_uint calls;
	atomic_uint inside;
	unsigned int delay_us; /* how long a call takes at least */
};

#endif
