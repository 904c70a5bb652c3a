/* SPDX-License-Identifier: MIT */
/* A lane that has nothing to do, and whether its path is there. */
#include <criterion/criterion.h>
#include <errno.h>

#include "../pair.h"
#include "fake/fake.h"

#define PATIENT_MS 20000

static struct pair pair;

static void teardown(void)
{
	pair_close(&pair);
	cr_expect_not(fake_leaks());
}

TestSuite(rdma_probe, .fini = teardown, .timeout = 120);

static uint64_t requests(unsigned int lane)
{
	struct vmferry_lane_stats stats;

	cr_assert_eq(vmferry_lane_stats(pair.source, lane, &stats), 0);
	return stats.requests;
}

Test(rdma_probe, path_is_there__asked_each_time)
{
	pair_open_rdma(&pair, 2);
	for (unsigned int i = 0; i < 100; i++) {
		cr_assert_eq(vmferry_lane_probe(pair.source, i % 2), 0);
		cr_assert(fake_quiet(PATIENT_MS));
	}
	cr_expect_eq(requests(0), 50);
	cr_expect_eq(requests(1), 50);
}

/* Neither fills the queue nor waits. */
Test(rdma_probe, answer_is_late__not_asked_again)
{
	pair_open_rdma(&pair, 1);
	fake_hold_wire(true);
	for (unsigned int i = 0; i < 5000; i++)
		cr_assert_eq(vmferry_lane_probe(pair.source, 0), 0);
	cr_expect_eq(requests(0), 1);
	fake_hold_wire(false);
	cr_assert(fake_quiet(PATIENT_MS));
	cr_assert_eq(vmferry_lane_probe(pair.source, 0), 0);
	cr_expect_eq(requests(0), 2);
}

/* The device gives up after half a second, see fake_script.c: the next question finds that out. */
Test(rdma_probe, path_dies_under_an_idle_lane__session_over_as_soon_as_the_device_says_so)
{
	log_keep();
	pair_open_rdma(&pair, 2);
	fake_cut_wire(true);
	cr_assert_eq(vmferry_lane_probe(pair.source, 1), 0);
	cr_assert(fake_quiet(PATIENT_MS));
	cr_expect_eq(vmferry_lane_probe(pair.source, 1), -ECONNRESET);
	fake_cut_wire(false);
	cr_expect(log_has("lane 1"));
}

Test(rdma_probe, probe_itself_fails__the_next_says_so)
{
	struct fake_match any = {0};

	pair_open_rdma(&pair, 1);
	fake_fail_wr(&any, 1, IBV_WC_RETRY_EXC_ERR);
	cr_assert_eq(vmferry_lane_probe(pair.source, 0), 0);
	cr_assert(fake_quiet(PATIENT_MS));
	cr_expect_eq(vmferry_lane_probe(pair.source, 0), -ECONNRESET);
}

Test(rdma_probe, not_at_the_source__einval)
{
	pair_open_rdma(&pair, 1);
	cr_expect_eq(vmferry_lane_probe(pair.destination, 0), -EINVAL);
	cr_expect_eq(vmferry_lane_probe(pair.source, 1), -ENOENT);
}

Test(rdma_probe, over_tcp__nothing)
{
	pair_open(&pair, 1);
	cr_expect_eq(vmferry_lane_probe(pair.source, 0), 0);
	cr_expect_eq(requests(0), 0);
}
