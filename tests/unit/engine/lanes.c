/* SPDX-License-Identifier: MIT */
/*
 * Lane workers, and the last pages that go without them: who sends, that all of it is sent, and
 * that it is placed behind the last fence.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migrator/engine/lanes.h"
#include "migrator/engine/messages.h"
#include "unit/transport/pair.h"

#define LANES  2u
#define SIZE   (16ull << 20)
#define PAGES  (SIZE / VMFERRY_PAGE_SIZE)
#define AT     (1ull << 32)
#define LITTLE 100u
#define MUCH   1000u

static struct pair pair;
static struct vmferry_region region;
static struct vmferry_vm vm;
static struct dirty_map *map;
static struct vmferry_memory *local, *remote;
static struct page_sets *sets;
static struct lane_pool *pool;
static uint8_t *from, *to;
static uint32_t fence;

static void setup(void)
{
	pair_open(&pair, LANES);
	from = pages_new(SIZE, 0);
	to = pages_new(SIZE, 0);
	region = (struct vmferry_region){.base = from, .size = SIZE, .address = AT, .fd = -1};
	vm = (struct vmferry_vm){
		.size = sizeof(vm), .regions = &region, .region_count = 1, .vm_fd = -1};
	cr_assert_eq(dirty_map_new(&vm, &map), 0);
	cr_assert_eq(vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local), 0);
	cr_assert_eq(vmferry_register(pair.destination, to, SIZE, AT, VMFERRY_ACCESS_REMOTE_WRITE,
				      &remote),
		     0);
	cr_assert_eq(page_sets_new(map, false, &sets), 0);
	cr_assert_eq(lanes_new(pair.source, map, &local, sets, 0, &pool), 0);
	fence = FENCE_FIRST_PASS;
}

static void teardown(void)
{
	vmferry_session_shutdown(pair.source);
	lanes_free(&pool);
	page_sets_free(&sets);
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	pair_close(&pair);
	dirty_map_free(&map);
	pages_free(from, SIZE);
	pages_free(to, SIZE);
}

TestSuite(lanes, .init = setup, .fini = teardown, .timeout = 120);

static void write_pages(uint64_t first, uint64_t count, uint64_t seed)
{
	fill_random(from + first * VMFERRY_PAGE_SIZE, count * VMFERRY_PAGE_SIZE, seed);
	dirty_region_mark(&map->regions[0], first, count);
}

/* All that waiting for the workers can take, on a busy machine. */
static bool soon(bool (*is_so)(void))
{
	for (int i = 0; i < 10000 && !is_so(); i++)
		usleep(1000);
	return is_so();
}

static bool taken(void)
{
	return lanes_take(pool);
}

static bool idle(void)
{
	return lanes_idle(pool);
}

static void begin(void)
{
	write_pages(0, PAGES / 2, 1);
	cr_assert_eq(lanes_start(pool), 0);
	cr_assert(soon(idle));
}

/* Whoever does it, all is placed once the last fence has come. */
static void finish(void)
{
	cr_assert_eq(lanes_finish(pool, ++fence, PATIENT), 0);
	cr_assert_eq(lanes_finished(pool, PATIENT), 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, fence, PATIENT), 0);
	cr_assert_eq(memcmp(from, to, SIZE), 0);
	cr_assert_eq(dirty_map_count(map), 0);
}

Test(lanes, little_left__sent_by_who_took_them)
{
	begin();
	cr_assert(soon(taken));
	write_pages(PAGES / 4, LITTLE / 2, 2);
	write_pages(PAGES - LITTLE / 2, LITTLE / 2, 3);
	lanes_wake(pool);
	lanes_review(pool);
	finish();
	cr_expect(pool->taken);
}

Test(lanes, nothing_left__only_the_fence)
{
	begin();
	cr_assert(soon(taken));
	finish();
	cr_expect(pool->taken);
}

/*
 * While they are taken nobody else may sweep: what was published stays until it is finished or
 * given back.
 */
Test(lanes, taken__workers_stay_asleep)
{
	begin();
	cr_assert(soon(taken));
	write_pages(0, LITTLE, 4);
	lanes_wake(pool);
	usleep(300000);
	cr_expect_eq(dirty_map_count(map), LITTLE);
	finish();
}

Test(lanes, much_left_at_the_review__workers_send_at_once)
{
	begin();
	cr_assert(soon(taken));
	write_pages(0, MUCH, 5);
	lanes_wake(pool);
	lanes_review(pool);
	cr_assert(soon(idle));
	cr_expect_eq(dirty_map_count(map), 0);
	finish();
	cr_expect_not(pool->taken);
}

Test(lanes, much_left_at_the_end__workers_send_it)
{
	begin();
	cr_assert(soon(taken));
	lanes_review(pool);
	write_pages(0, MUCH, 6);
	finish();
	cr_expect_not(pool->taken);
}

Test(lanes, not_taken__workers_send_the_rest)
{
	begin();
	write_pages(0, LITTLE, 7);
	finish();
	cr_expect_not(pool->taken);
}

Test(lanes, worker_in_its_first_pass__not_taken)
{
	write_pages(0, PAGES, 8);
	/* At this rate it takes seconds. */
	pace_init(&pool->pace, SIZE / 4);
	cr_assert_eq(lanes_start(pool), 0);
	cr_expect_not(lanes_take(pool));
}

static bool all_asleep(struct lane_pool *lanes)
{
	bool asleep = lanes_idle(lanes);

	pthread_mutex_lock(&lanes->lock);
	for (unsigned int i = 0; i < lanes->lane_count; i++)
		asleep = asleep && lanes->lanes[i].idle;
	pthread_mutex_unlock(&lanes->lock);
	return asleep;
}

/* 32 GiB of address space, none of it touched. */
Test(lanes, large_guest__not_taken)
{
	struct vmferry_region large = {.size = 32ull << 30, .address = AT, .fd = -1};
	struct vmferry_vm guest = {
		.size = sizeof(guest), .regions = &large, .region_count = 1, .vm_fd = -1};
	struct page_sets *wide_sets;
	struct lane_pool *lanes;
	struct dirty_map *wide;

	large.base = mmap(NULL, large.size, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);
	cr_assert_neq(large.base, MAP_FAILED);
	cr_assert_eq(dirty_map_new(&guest, &wide), 0);
	cr_assert_eq(page_sets_new(wide, false, &wide_sets), 0);
	cr_assert_eq(lanes_new(pair.source, wide, &local, wide_sets, 0, &lanes), 0);
	cr_assert_eq(lanes_start(lanes), 0);
	/* From then on only its size speaks against it. */
	for (int ms = 0; ms < 20000 && !all_asleep(lanes); ms++)
		usleep(1000);
	cr_assert(all_asleep(lanes));
	cr_expect_not(lanes_take(lanes));
	lanes_free(&lanes);
	page_sets_free(&wide_sets);
	dirty_map_free(&wide);
	munmap(large.base, large.size);
}

Test(lanes, session_is_over_at_the_end__error)
{
	begin();
	cr_assert(soon(taken));
	vmferry_session_shutdown(pair.source);
	write_pages(0, LITTLE, 9);
	cr_expect_lt(lanes_finish(pool, ++fence, PATIENT), 0);
}

Test(lanes, freed_while_taken__workers_end)
{
	begin();
	cr_assert(soon(taken));
	write_pages(0, LITTLE, 10);
	vmferry_session_shutdown(pair.source);
	lanes_free(&pool);
	cr_expect_null(pool);
}

/* A connection is lost: what becomes of the pages. */
Test(lanes, all_is_placed__nothing_is_dirty_again)
{
	begin();
	vmferry_session_shutdown(pair.source);
	lanes_free(&pool);
	cr_expect_eq(page_sets_return_unplaced(sets), 0);
	cr_expect_eq(dirty_map_count(map), 0);
}

Test(lanes, pages_were_taken_and_cannot_be_sent__dirty_again)
{
	uint64_t unplaced;

	begin();
	cr_assert(soon(taken));
	vmferry_session_shutdown(pair.source);
	write_pages(7, LITTLE, 11);
	cr_expect_lt(lanes_finish(pool, ++fence, PATIENT), 0);
	lanes_free(&pool);
	unplaced = page_sets_return_unplaced(sets);
	cr_expect_gt(unplaced, 0);
	/* Each of them, whether a lane had taken it or not, and no other. */
	cr_expect_eq(dirty_map_count(map), LITTLE);
	for (uint64_t page = 7; page < 7 + LITTLE; page++)
		cr_expect_eq(map->regions[0].bits[page / 64] >> page % 64 & 1, 1, "page %lu",
			     (unsigned long)page);
}

/* Given, and on its way for all that is known: the destination has not said that it is placed. */
Test(lanes, pages_were_sent_and_nobody_said_they_came__dirty_again)
{
	begin();
	cr_assert(soon(taken));
	write_pages(0, LITTLE, 12);
	cr_assert_eq(lanes_finish(pool, ++fence, PATIENT), 0);
	vmferry_session_shutdown(pair.source);
	lanes_free(&pool);
	cr_expect_eq(page_sets_return_unplaced(sets), LITTLE);
	cr_expect_eq(dirty_map_count(map), LITTLE);
}
