/* SPDX-License-Identifier: MIT */
/* The clock and the forms of a deadline. */
#include <criterion/criterion.h>
#include <limits.h>
#include <poll.h>

#include "common/clock.h"

TestSuite(clock, .timeout = 20);

Test(clock, now__monotonic_nanoseconds)
{
	struct timespec before, after;
	uint64_t now;

	clock_gettime(CLOCK_MONOTONIC, &before);
	now = vmferry_now();
	clock_gettime(CLOCK_MONOTONIC, &after);
	cr_assert_geq(now, (uint64_t)before.tv_sec * NS_PER_S + (uint64_t)before.tv_nsec);
	cr_assert_leq(now, (uint64_t)after.tv_sec * NS_PER_S + (uint64_t)after.tv_nsec);
}

Test(clock, passed_deadline__does_not_wait)
{
	cr_assert_eq(deadline_poll_ms(0), 0);
	cr_assert_eq(deadline_poll_ms(vmferry_now()), 0);
}

Test(clock, deadline_ahead__milliseconds_above_zero)
{
	int ms = deadline_poll_ms(vmferry_now() + NS_PER_S);

	/* 0 would make poll(2) return at once and its caller spin; late readings only lower it. */
	cr_assert(ms >= 1 && ms <= 1000, "%d", ms);
}

Test(clock, far_deadline__largest_int)
{
	cr_assert_eq(deadline_poll_ms(UINT64_MAX), INT_MAX);
}

Test(clock, poll_with_deadline__does_not_end_before_it)
{
	uint64_t deadline = vmferry_now() + 2500 * NS_PER_US;

	cr_assert_eq(poll(NULL, 0, deadline_poll_ms(deadline)), 0);
	cr_assert_geq(vmferry_now(), deadline);
}

Test(clock, timespec__seconds_and_rest)
{
	struct timespec ts = deadline_timespec(7 * NS_PER_S + 123456789);

	cr_assert_eq(ts.tv_sec, 7);
	cr_assert_eq(ts.tv_nsec, 123456789);
}

Test(clock, timespec_of_the_largest_deadline__valid)
{
	struct timespec ts = deadline_timespec(UINT64_MAX);

	cr_assert_gt(ts.tv_sec, 0);
	cr_assert(ts.tv_nsec >= 0 && ts.tv_nsec < (long)NS_PER_S);
}
