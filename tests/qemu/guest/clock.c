/* SPDX-License-Identifier: MIT */
/*
 * Watches the clocks every millisecond. They stand still while the machine is stopped, so a look
 * at them sees a gap only for as long as this thread, or the whole emulated machine on a busy
 * host, was not scheduled. A destination that does not restore the clock is off by the difference
 * of two machines' ages: backwards, or by more than the bound.
 */
#include <time.h>

#include "work.h"

#define PERIOD_NS NS_PER_MS
/* How long reading both clocks may take for their difference to count. */
#define READ_NS NS_PER_MS

struct look {
	int64_t mono, real;
};

/* Reads both clocks close together: a thread that loses its processor in between tries again. */
static struct look look_at_clocks(void)
{
	struct look now;

	do {
		now.mono = clock_ns(CLOCK_MONOTONIC);
		now.real = clock_ns(CLOCK_REALTIME);
	} while (clock_ns(CLOCK_MONOTONIC) - now.mono > READ_NS);
	return now;
}

static void compare(struct look old, struct look now, int64_t gap_max)
{
	int64_t mono = now.mono - old.mono;
	int64_t real = now.real - old.real;

	if (mono < 0 || real < 0)
		report_error("clock: back by %lld ns, real time by %lld ns", (long long)-mono,
			     (long long)-real);
	else if (mono > gap_max)
		report_error("clock: a jump of %lld ns", (long long)mono);
	/* Nobody sets the real-time clock here: it advances with the monotonic one. */
	if (real - mono > 2 * READ_NS || mono - real > 2 * READ_NS)
		report_error("clock: monotonic time went %lld ns, real time %lld ns",
			     (long long)mono, (long long)real);
	if (mono > 0 && (uint64_t)mono / 1000 > counters.gap_us)
		counters.gap_us = (uint64_t)mono / 1000;
}

void *clock_work(void *arg)
{
	int64_t gap_max = (int64_t)option("work_gap_ms", 30000) * NS_PER_MS;
	struct look old = look_at_clocks();
	struct look now;

	for (;; old = now) {
		sleep_ns(PERIOD_NS);
		now = look_at_clocks();
		compare(old, now, gap_max);
		counters.ticks++;
	}
	return arg;
}
