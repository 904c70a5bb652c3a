/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <pthread.h>

#include "migrator/engine/pace.h"

#define SECOND 1000000000ull

Test(pace, no_cap__never_waits)
{
	struct pace p;

	pace_init(&p, 0);
	for (int i = 0; i < 1000; i++)
		cr_assert_eq(pace_reserve(&p, 1ull << 40, 5), 0);
}

Test(pace, cap__spreads_bytes_over_time)
{
	uint64_t now = 100 * SECOND, when = 0;
	struct pace p;

	pace_init(&p, 1000000);
	for (int i = 0; i < 100; i++)
		when = pace_reserve(&p, 10000, now);
	/* One megabyte at one megabyte a second, but for the allowed burst and the first piece. */
	cr_assert_gt(when, now + SECOND * 97 / 100);
	cr_assert_lt(when, now + SECOND);
}

Test(pace, lull__is_not_saved_up)
{
	struct pace p;

	pace_init(&p, 1000000);
	pace_reserve(&p, 1000, 1 * SECOND);
	pace_reserve(&p, 1000000, 100 * SECOND);
	cr_assert_gt(pace_reserve(&p, 1000, 100 * SECOND), 100 * SECOND + SECOND * 99 / 100);
}

struct taker {
	struct pace *pace;
	uint64_t last;
};

static void *take(void *arg)
{
	struct taker *t = arg;

	for (int i = 0; i < 10000; i++) {
		uint64_t when = pace_reserve(t->pace, 1000, SECOND);

		if (when > t->last)
			t->last = when;
	}
	return NULL;
}

Test(pace, several_lanes__share_one_budget, .timeout = 20)
{
	struct pace p;
	struct taker takers[4];
	pthread_t threads[4];
	uint64_t last = 0;

	pace_init(&p, 1000000);
	for (int i = 0; i < 4; i++) {
		takers[i] = (struct taker){&p, 0};
		cr_assert_eq(pthread_create(&threads[i], NULL, take, &takers[i]), 0);
	}
	for (int i = 0; i < 4; i++) {
		pthread_join(threads[i], NULL);
		last = takers[i].last > last ? takers[i].last : last;
	}
	/* 40 MB at 1 MB/s: no reservation was lost between the threads. */
	cr_assert_gt(last, SECOND + 39 * SECOND);
	cr_assert_lt(last, SECOND + 41 * SECOND);
}
