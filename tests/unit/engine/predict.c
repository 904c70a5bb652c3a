/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>

#include "migrator/engine/predict.h"

static const struct predict_parts parts = {
	.pause_ns = 1000,
	.save_ns = 2000,
	.load_ns = 400,
	.resume_ns = 80,
	.rtt_ns = 200,
	.harvest_ns = 50,
	.bandwidth = 1000000000,
};

Test(predict, bandwidth_unknown__is_zero)
{
	struct predict_parts p = parts;
	struct predict_work w = {.dirty_bytes = 4096};

	p.bandwidth = 0;
	cr_assert_eq(predict_blackout(&p, &w), 0);
}

Test(predict, nothing_dirty__is_the_fixed_costs)
{
	struct predict_work w = {0};

	cr_assert_eq(predict_blackout(&parts, &w), 1000 + 50 + 2000 + 400 + 300 + 80);
}

Test(predict, pages_longer_than_saving__count_instead_of_it)
{
	struct predict_work w = {.dirty_bytes = 4000, .in_flight = 1000};

	cr_assert_eq(predict_blackout(&parts, &w), 1000 + 50 + 5000 + 400 + 300 + 80);
}

Test(predict, verify__adds_hashing_of_what_came_since)
{
	struct predict_parts p = parts;
	struct predict_work w = {.dirty_bytes = 1000, .resent_bytes = 3000};

	p.hash_rate = 2000000000;
	cr_assert_eq(predict_blackout(&p, &w), 1000 + 50 + 2000 + 2000 + 400 + 300 + 80);
}

Test(predict, terabytes__do_not_overflow)
{
	struct predict_work w = {.dirty_bytes = 1ull << 44};
	uint64_t predicted = predict_blackout(&parts, &w);

	cr_assert_gt(predicted, 17000ull * 1000000000);
	cr_assert_lt(predicted, 18000ull * 1000000000);
}
