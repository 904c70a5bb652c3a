/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <sys/mman.h>
#include <unistd.h>

#include "migrator/engine/content.h"

#define PAGE VMFERRY_PAGE_SIZE

static struct vmferry_region region;

static void setup(void)
{
	region = (struct vmferry_region){.size = 256 * PAGE, .fd_offset = 16 * PAGE};
	region.fd = memfd_create("content", MFD_CLOEXEC);
	cr_assert_geq(region.fd, 0);
	cr_assert_eq(ftruncate(region.fd, 512 * PAGE), 0);
}

static void teardown(void)
{
	close(region.fd);
}

TestSuite(content, .init = setup, .fini = teardown);

static void fill(uint64_t page, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++)
		cr_assert_eq(pwrite(region.fd, "x", 1, (off_t)((page + i) * PAGE)), 1);
}

Test(content, empty__has_no_extent)
{
	struct content_extent e;

	cr_assert_eq(content_next(&region, 0, &e), 0);
}

Test(content, two_islands__are_found_relative_to_the_region)
{
	struct content_extent e;
	uint64_t bytes;

	fill(16 + 10, 3);
	fill(16 + 100, 1);
	cr_assert_eq(content_next(&region, 0, &e), 1);
	cr_assert_eq(e.offset, 10 * PAGE);
	cr_assert_eq(e.length, 3 * PAGE);
	cr_assert_eq(content_next(&region, e.offset + e.length, &e), 1);
	cr_assert_eq(e.offset, 100 * PAGE);
	cr_assert_eq(e.length, PAGE);
	cr_assert_eq(content_next(&region, e.offset + e.length, &e), 0);
	cr_assert_eq(content_bytes(&region, 1, &bytes), 0);
	cr_assert_eq(bytes, 4 * PAGE);
}

Test(content, outside_of_the_region__is_not_seen)
{
	struct content_extent e;

	fill(0, 16);
	fill(16 + 256, 4);
	cr_assert_eq(content_next(&region, 0, &e), 0);
}

Test(content, reaching_over_both_ends__is_clipped)
{
	struct content_extent e;

	fill(10, 300);
	cr_assert_eq(content_next(&region, 0, &e), 1);
	cr_assert_eq(e.offset, 0);
	cr_assert_eq(e.length, region.size);
}

Test(content, without_fd__is_one_extent)
{
	struct vmferry_region plain = {.size = 10 * PAGE, .fd = -1};
	struct content_extent e;

	cr_assert_eq(content_next(&plain, 0, &e), 1);
	cr_assert_eq(e.length, 10 * PAGE);
	cr_assert_eq(content_next(&plain, 10 * PAGE, &e), 0);
}
