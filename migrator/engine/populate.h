/* SPDX-License-Identifier: MIT */
/*
 * Makes the destination's memory present before pages arrive in it: threads of its own touch the
 * extents in which the source holds content, in the order in which they will come, while lanes are
 * already receiving. What they have not reached yet the receiver faults in by itself. The threads
 * work near the node that the memory is bound to, if it is to one.
 */
#ifndef ENGINE_POPULATE_H
#define ENGINE_POPULATE_H

#include <stdint.h>

#include <vmferry/migration.h>

#include "content.h"

struct populate;

/* An extent in host memory. */
struct populate_range {
	void *base;
	uint64_t length;
};

/* Copies @ranges. */
int populate_start(const struct populate_range *ranges, unsigned int count,
		   struct populate **populate);

/*
 * Ends early if it has not finished, and joins. What is not populated is faulted in by whoever
 * touches it first.
 */
void populate_stop(struct populate *populate);

/* The same, and frees. Accepts a pointer to NULL. */
void populate_finish(struct populate **populate);

/* Waits until everything is populated: 0, or -ETIMEDOUT and it goes on. */
int populate_wait(struct populate *populate, uint64_t deadline);

/* Nanoseconds from start until the last thread was through; 0 while they work. */
uint64_t populate_ns(const struct populate *populate);

#endif
