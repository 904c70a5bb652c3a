/* SPDX-License-Identifier: MIT */
#include "pace.h"

#include "common/clock.h"

/*
 * What was not used this long ago is forfeit, so that a lull is not followed by a burst above the
 * cap.
 */
#define PACE_BURST_NS (5 * NS_PER_MS)

void pace_init(struct pace *p, uint64_t rate)
{
	p->rate = rate;
	atomic_init(&p->next_ns, 0);
}

uint64_t pace_reserve(struct pace *p, uint64_t bytes, uint64_t now)
{
	uint64_t cost, start, old;

	if (p->rate == 0)
		return 0;
	cost = (uint64_t)((double)bytes * (double)NS_PER_S / (double)p->rate);
	/* relaxed: the budget orders nothing but itself. */
	old = atomic_load_explicit(&p->next_ns, memory_order_relaxed);
	do {
		start = old + PACE_BURST_NS < now ? now - PACE_BURST_NS : old;
	} while (!atomic_compare_exchange_weak_explicit(
		&p->next_ns, &old, start + cost, memory_order_relaxed, memory_order_relaxed));
	return start > now ? start : 0;
}
