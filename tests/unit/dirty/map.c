/* SPDX-License-Identifier: MIT */
/*
 * The dirty map: regions that it accepts, ranges that are marked, bits that are published and
 * taken.
 */
#include <criterion/criterion.h>
#include <errno.h>

#include "migrator/dirty/map.h"

#define PAGE	   ((uint64_t)VMFERRY_PAGE_SIZE)
#define LOW_PAGES  200u
#define HIGH_PAGES 64u
#define LOW_AT	   0u
#define HIGH_AT	   (1ull << 32)

TestSuite(map_new, .timeout = 300);
TestSuite(map_mark, .timeout = 300);
TestSuite(map_take, .timeout = 300);

/* Two regions that touch, and one above a hole. */
static const struct vmferry_region some_regions[] = {
	{.address = LOW_PAGES * PAGE, .size = 70 * PAGE, .slot = 1},
	{.address = LOW_AT, .size = LOW_PAGES * PAGE, .slot = 0},
	{.address = HIGH_AT, .size = HIGH_PAGES * PAGE, .slot = 2},
};

static struct dirty_map *make(void)
{
	struct vmferry_vm vm = {.regions = some_regions, .region_count = 3};
	struct dirty_map *map = NULL;

	cr_assert_eq(dirty_map_new(&vm, &map), 0);
	return map;
}

static bool is_set(const struct dirty_region *r, uint64_t page)
{
	return (atomic_load(&r->bits[page / 64]) >> (page % 64)) & 1;
}

static int try_regions(const struct vmferry_region *regions, unsigned int count)
{
	struct vmferry_vm vm = {.regions = regions, .region_count = count};
	struct dirty_map *map = NULL;
	int rc = dirty_map_new(&vm, &map);

	cr_assert_eq(map != NULL, rc == 0);
	dirty_map_free(&map);
	return rc;
}

Test(map_new, sound_regions__empty_map)
{
	struct dirty_map *map = make();

	cr_assert_eq(map->region_count, 3);
	cr_assert_eq(map->regions[0].words, 2);
	cr_assert_eq(map->regions[1].words, 4);
	cr_assert_eq(map->regions[2].words, 1);
	cr_assert_eq(dirty_map_count(map), 0);
	dirty_map_free(&map);
	cr_assert_null(map);
	dirty_map_free(&map);
}

Test(map_new, unsound_regions__refused)
{
	struct vmferry_region odd_size = {.address = 0, .size = PAGE + 1};
	struct vmferry_region odd_address = {.address = 7, .size = PAGE};
	struct vmferry_region empty = {.address = PAGE, .size = 0};
	struct vmferry_region wraps = {.address = 0ull - PAGE, .size = 2 * PAGE};
	struct vmferry_region overlapping[] = {{.address = 0, .size = 2 * PAGE},
					       {.address = PAGE, .size = PAGE}};
	struct vmferry_region many[VMFERRY_REGIONS_MAX + 1];

	for (unsigned int i = 0; i <= VMFERRY_REGIONS_MAX; i++)
		many[i] = (struct vmferry_region){.address = i * PAGE, .size = PAGE};
	cr_assert_eq(try_regions(&odd_size, 1), -EINVAL);
	cr_assert_eq(try_regions(&odd_address, 1), -EINVAL);
	cr_assert_eq(try_regions(&empty, 1), -EINVAL);
	cr_assert_eq(try_regions(&wraps, 1), -EINVAL);
	cr_assert_eq(try_regions(overlapping, 2), -EINVAL);
	cr_assert_eq(try_regions(many, 0), -EINVAL);
	cr_assert_eq(try_regions(many, VMFERRY_REGIONS_MAX + 1), -EINVAL);
	cr_assert_eq(try_regions(many, VMFERRY_REGIONS_MAX), 0);
}

/* Every first page and every length against a model that is too simple to be wrong. */
Test(map_mark, all_page_ranges_of_a_region__exactly_those)
{
	struct dirty_map *map = make();
	struct dirty_region *r = &map->regions[1];

	for (uint64_t first = 0; first < LOW_PAGES; first += 3) {
		for (uint64_t count = 0; first + count <= LOW_PAGES + 2; count++) {
			uint64_t end = first + count < LOW_PAGES ? first + count : LOW_PAGES;

			dirty_region_mark(r, first, count);
			cr_assert_eq(dirty_map_count(map), end - first);
			for (uint64_t p = first; p < end; p++)
				cr_assert(is_set(r, p));
			for (uint64_t w = 0; w < r->words; w++)
				dirty_map_take(r, w, ~0ull);
		}
	}
	dirty_map_free(&map);
}

Test(map_mark, pages_beyond_the_end__clipped)
{
	struct dirty_map *map = make();
	struct dirty_region *r = &map->regions[0];

	dirty_region_mark(r, 70, 1);
	dirty_region_mark(r, UINT64_MAX, UINT64_MAX);
	cr_assert_eq(dirty_map_count(map), 0);
	dirty_region_mark(r, 69, UINT64_MAX);
	cr_assert_eq(dirty_map_count(map), 1);
	dirty_region_mark(r, 0, UINT64_MAX);
	cr_assert_eq(dirty_map_count(map), 70);
	cr_assert_eq(atomic_load(&r->bits[1]), 0x3f);
	dirty_map_free(&map);
}

Test(map_mark, bytes__every_page_that_they_touch)
{
	struct dirty_map *map = make();

	cr_assert_eq(dirty_map_mark(map, HIGH_AT + PAGE - 1, 2), 0);
	cr_assert_eq(atomic_load(&map->regions[2].bits[0]), 0x3);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT + 5 * PAGE, 1), 0);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT + 8 * PAGE - 1, 1), 0);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT + 63 * PAGE, PAGE), 0);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT + 9 * PAGE, 0), 0);
	cr_assert_eq(atomic_load(&map->regions[2].bits[0]), 1ull << 63 | 0xa3);
	dirty_map_free(&map);
}

Test(map_mark, range_over_regions_that_touch__both)
{
	struct dirty_map *map = make();

	cr_assert_eq(dirty_map_mark(map, (LOW_PAGES - 1) * PAGE, 2 * PAGE), 0);
	cr_assert(is_set(&map->regions[1], LOW_PAGES - 1));
	cr_assert(is_set(&map->regions[0], 0));
	cr_assert_eq(dirty_map_count(map), 2);
	dirty_map_free(&map);
}

Test(map_mark, range_outside__refused_and_nothing_marked)
{
	struct dirty_map *map = make();
	uint64_t end = (LOW_PAGES + 70) * PAGE;

	cr_assert_eq(dirty_map_mark(map, end, 1), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, end - 1, 2), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, 0, end + 1), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT - 1, 2), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT, HIGH_PAGES * PAGE + 1), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, HIGH_AT, UINT64_MAX), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, UINT64_MAX, 2), -ERANGE);
	cr_assert_eq(dirty_map_mark(map, UINT64_MAX, UINT64_MAX), -ERANGE);
	cr_assert_eq(dirty_map_count(map), 0);
	cr_assert_eq(dirty_map_mark(map, 0, end), 0);
	cr_assert_eq(dirty_map_count(map), LOW_PAGES + 70);
	dirty_map_free(&map);
}

Test(map_take, some_bits__only_those_and_only_once)
{
	struct dirty_map *map = make();
	struct dirty_region *r = &map->regions[2];

	dirty_map_publish(r, 0, 0xff00);
	dirty_map_publish(r, 0, 0x0ff0);
	cr_assert_eq(dirty_map_take(r, 0, 0xf), 0);
	cr_assert_eq(dirty_map_take(r, 0, 0xff), 0xf0);
	cr_assert_eq(dirty_map_take(r, 0, 0xff), 0);
	cr_assert_eq(dirty_map_take(r, 0, ~0ull), 0xff00);
	cr_assert_eq(dirty_map_count(map), 0);
	dirty_map_free(&map);
}
