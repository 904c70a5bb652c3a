/* SPDX-License-Identifier: MIT */
/* What a lane says is placed, and when. */
#include <criterion/criterion.h>

#include "../pair.h"
#include "fake/fake.h"
#include "transport/rdma/rdma.h"

#define PAGE	4096ull
#define PAGES	4
#define ADDRESS (1ull << 32)

static struct pair pair;
static uint8_t *from, *to;
static struct vmferry_memory *local, *remote;

static void setup(void)
{
	log_keep();
	pair_open_rdma(&pair, 1);
	from = pages_new(PAGES * PAGE, 1);
	to = pages_new(PAGES * PAGE, 0);
	cr_assert_eq(
		vmferry_register(pair.source, from, PAGES * PAGE, 0, VMFERRY_ACCESS_LOCAL, &local),
		0);
	cr_assert_eq(vmferry_register(pair.destination, to, PAGES * PAGE, ADDRESS,
				      VMFERRY_ACCESS_REMOTE_WRITE, &remote),
		     0);
}

static void teardown(void)
{
	fake_hold_acks(0);
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	pair_close(&pair);
	pages_free(from, PAGES * PAGE);
	pages_free(to, PAGES * PAGE);
	cr_expect_not(fake_leaks());
}

TestSuite(placed, .init = setup, .fini = teardown, .timeout = 120);

static void write_page(uint64_t page)
{
	struct vmferry_write w = {local, page * PAGE, ADDRESS + page * PAGE, PAGE};

	write_all(pair.source, 0, &w, 1);
}

static void fence(uint32_t epoch)
{
	cr_assert_eq(vmferry_lane_fence(pair.source, 0, epoch, PATIENT), 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, epoch, PATIENT), 0);
	cr_assert_eq(vmferry_lane_fence_wait(pair.source, 0, epoch, PATIENT), 0);
}

static uint64_t placed(void)
{
	struct vmferry_lane_stats stats;

	cr_assert_eq(vmferry_lane_stats(pair.source, 0, &stats), 0);
	return stats.placed_bytes;
}

/*
 * The answer says so, also when it comes before the acknowledgement of the fence itself: nothing
 * orders these two.
 */
Test(placed, fence_answered__all_before_it)
{
	write_page(0);
	fence(1);
	fake_hold_acks(rdma_lane_connection(pair.source->lanes[0])->id->qp->qp_num);
	write_page(1);
	fence(2);
	cr_expect_eq(placed(), 2 * PAGE);
	/* What is behind the fence is not. */
	write_page(2);
	cr_expect_eq(placed(), 2 * PAGE);
	fake_hold_acks(0);
	fence(3);
	cr_expect_eq(placed(), 3 * PAGE);
}
