/* SPDX-License-Identifier: MIT */
/*
 * Steps at a steady rate by a clock that may stand still or jump either way, as a TSC does over a
 * migration: what was missed is made up for within a short window only, so there is never a burst,
 * and never a long silence.
 */
#ifndef GUEST_PACE_H
#define GUEST_PACE_H

#include <stdbool.h>
#include <stdint.h>

struct pace {
	uint64_t interval; /* ticks between two steps; 0: no steps ever */
	uint64_t window;   /* ticks that may be made up for; longer than what the caller sleeps */
	uint64_t next;
};

/* @rate steps a second for all of @sharers together. */
static inline struct pace pace_new(uint64_t hz, uint64_t rate, uint64_t sharers, uint64_t window)
{
	return (struct pace){.interval = rate ? hz * sharers / rate : 0, .window = window};
}

/* Whether a step is due; if so, it counts as taken. */
static inline bool pace_due(struct pace *pace, uint64_t now)
{
	uint64_t late = now - pace->next;
	uint64_t farthest = pace->window + pace->interval;

	if (!pace->interval)
		return false;
	if (late >> 63) {
		if (pace->next - now > farthest)
			pace->next = now + pace->interval;
		return false;
	}
	if (late > farthest)
		pace->next = now - pace->window;
	pace->next += pace->interval;
	return true;
}

#endif
