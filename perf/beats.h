/* SPDX-License-Identifier: MIT */
/*
 * A guest seen from outside: a thread that reads the bytes of the heartbeat and status ports of two
 * machines and stamps them by CLOCK_MONOTONIC as they come.
 */
#ifndef PERF_BEATS_H
#define PERF_BEATS_H

#include <stdbool.h>
#include <stdint.h>

enum { BEATS_SOURCE, BEATS_DESTINATION, BEATS_SIDES };

struct beats_side {
	int beat_fd;
	int status_fd;
};

/* Starts the thread, which lives as long as the program. */
void beats_start(const struct beats_side sides[BEATS_SIDES]);

struct beats_view {
	bool ready;		      /* the guest said so, on either side */
	uint64_t faults;	      /* on both */
	uint64_t scrubs[BEATS_SIDES]; /* passes over its memory that the guest has ended */
	uint64_t count[BEATS_SIDES];
	uint64_t first_ns[BEATS_SIDES];
	uint64_t last_ns[BEATS_SIDES];
	uint64_t max_gap_ns
		[BEATS_SIDES]; /* between two beats of the same side, since beats_forget_gaps() */
};

void beats_look(struct beats_view *view);
void beats_forget_gaps(void);

#endif
