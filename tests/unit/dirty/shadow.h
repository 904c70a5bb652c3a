/* SPDX-License-Identifier: MIT */
/*
 * A copy of a machine's memory that follows it by the dirty map alone, in a thread of its own: what
 * a destination is.
 */
#ifndef TEST_SHADOW_H
#define TEST_SHADOW_H

#include "machine.h"
#include "migrator/dirty/map.h"

struct shadow {
	struct dirty_map *map; /* the test's */
	uint8_t *copy[MACHINE_REGIONS];
	pthread_t thread;
	atomic_bool done;
	uint64_t copied; /* pages */
};

void shadow_make(struct shadow *s, const struct machine *m, struct dirty_map *map);
void shadow_free(struct shadow *s);

/* Takes all bits once and copies their pages. */
void shadow_sweep(struct shadow *s);

/* Sweeps in a thread, until shadow_finish() has done it one last time. */
void shadow_follow(struct shadow *s);
void shadow_finish(struct shadow *s);

/* Compares every byte. The number of pages that differ. */
unsigned int shadow_differs(const struct shadow *s, const struct machine *m);

#endif
