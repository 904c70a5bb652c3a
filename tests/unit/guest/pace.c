/* SPDX-License-Identifier: MIT */
/*
 * Pacing by a clock that may jump: the rate holds, and neither bursts nor silences follow a jump.
 */
#include <criterion/criterion.h>

#include "guest/pace.h"

#define HZ	 1000000u
#define RATE	 1000u
#define WINDOW	 (HZ / 250)
#define CATCH_UP 4.0 /* steps in a window */
#define START	 (1ull << 40)

TestSuite(pace, .timeout = 20);

/*
 * Steps taken while the clock goes from @from to @to, looked at every @every ticks until nothing
 * is due.
 */
static double steps(struct pace *pace, uint64_t from, uint64_t to, uint64_t every)
{
	double count = 0;

	for (uint64_t now = from; now < to; now += every)
		while (pace_due(pace, now))
			count++;
	return count;
}

static struct pace started(void)
{
	struct pace pace = pace_new(HZ, RATE, 1, WINDOW);

	while (pace_due(&pace, START))
		;
	return pace;
}

Test(pace, looked_at_always_or_each_tick__rate_holds)
{
	struct pace pace = started();

	cr_assert_float_eq(steps(&pace, START, START + HZ, 10), RATE, 6.0);
	cr_assert_float_eq(steps(&pace, START + HZ, START + 2ull * HZ, HZ / 500), RATE, 6.0);
}

Test(pace, shared__each_takes_its_part)
{
	struct pace pace = pace_new(HZ, RATE, 4, WINDOW);

	cr_assert_float_eq(steps(&pace, START, START + HZ, 10), RATE / 4.0, 6.0);
}

Test(pace, rate_zero__never)
{
	struct pace pace = pace_new(HZ, 0, 1, WINDOW);

	cr_assert_eq(steps(&pace, START, START + HZ, 1000), 0);
}

Test(pace, clock_jumps_ahead__window_made_up_only)
{
	struct pace pace = started();
	uint64_t later = START + 1000ull * HZ;

	cr_assert_leq(steps(&pace, later, later + 1, 1), CATCH_UP + 2.0);
	cr_assert_float_eq(steps(&pace, later, later + HZ, 10), RATE, 6.0);
}

Test(pace, clock_jumps_back__goes_on_at_once)
{
	struct pace pace = started();
	uint64_t earlier = START - 1000ull * HZ;

	cr_assert_float_eq(steps(&pace, earlier, earlier + HZ, 10), RATE, 6.0);
}

Test(pace, clock_jumps_to_zero__goes_on_at_once)
{
	struct pace pace = started();

	cr_assert_float_eq(steps(&pace, 0, HZ, 10), RATE, 6.0);
}
