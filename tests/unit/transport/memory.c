/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "pair.h"
#include "transport/memory.h"

#define PAGE 4096ull

static struct pair pair;
static uint8_t *base;

static void setup(void)
{
	pair_open(&pair, VMFERRY_LANES_NONE);
	base = pages_new(8 * PAGE, 0);
}

static void teardown(void)
{
	pair_close(&pair);
	pages_free(base, 8 * PAGE);
}

TestSuite(memory, .init = setup, .fini = teardown, .timeout = 120);

static int add(uint64_t offset, uint64_t size, uint64_t address, struct vmferry_memory **m)
{
	return vmferry_register(pair.destination, base + offset, size, address,
				VMFERRY_ACCESS_REMOTE_WRITE, m);
}

Test(memory, bad_range__einval)
{
	struct vmferry_memory *m = NULL;

	cr_expect_eq(add(1, PAGE, 0, &m), -EINVAL);
	cr_expect_eq(add(0, PAGE + 1, 0, &m), -EINVAL);
	cr_expect_eq(add(0, PAGE, 8, &m), -EINVAL);
	cr_expect_eq(add(0, 0, 0, &m), -EINVAL);
	cr_expect_eq(add(0, 2 * PAGE, 0 - PAGE, &m), -EINVAL);
	cr_expect_eq(add(0, 0 - PAGE, 0, &m), -EINVAL);
	cr_expect_eq(vmferry_register(pair.destination, base, PAGE, 0, 8, &m), -EINVAL);
	cr_expect_eq(vmferry_register(pair.destination, NULL, PAGE, 0, 0, &m), -EINVAL);
	cr_expect_null(m);
}

Test(memory, overlap__eexist)
{
	struct vmferry_memory *middle = NULL;
	struct vmferry_memory *before = NULL;
	struct vmferry_memory *behind = NULL;
	struct vmferry_memory *other = NULL;

	cr_assert_eq(add(0, 2 * PAGE, 4 * PAGE, &middle), 0);
	cr_expect_eq(add(0, PAGE, 4 * PAGE, &other), -EEXIST);
	cr_expect_eq(add(0, PAGE, 5 * PAGE, &other), -EEXIST);
	cr_expect_eq(add(0, 2 * PAGE, 3 * PAGE, &other), -EEXIST);
	cr_expect_eq(add(0, 4 * PAGE, 3 * PAGE, &other), -EEXIST);
	cr_expect_eq(add(0, PAGE, 3 * PAGE, &before), 0);
	cr_expect_eq(add(0, PAGE, 6 * PAGE, &behind), 0);
	vmferry_deregister(&middle);
	cr_expect_null(middle);
	cr_expect_eq(add(0, 2 * PAGE, 4 * PAGE, &middle), 0);
	vmferry_deregister(&middle);
	vmferry_deregister(&before);
	vmferry_deregister(&behind);
	vmferry_deregister(&behind);
}

static bool is_filled(const uint8_t *pages, uint64_t size, uint8_t value)
{
	for (uint64_t i = 0; i < size; i++)
		if (pages[i] != value)
			return false;
	return true;
}

/* Private memory and a file's: each is given back in its own way. */
Test(memory, discarded__reads_as_zeroes_and_the_rest_stays)
{
	uint8_t *shared =
		mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint8_t *kinds[] = {base, shared};

	cr_assert_neq(shared, MAP_FAILED);
	for (unsigned int i = 0; i < 2; i++) {
		struct vmferry_memory *m;

		memset(kinds[i], 7, 4 * PAGE);
		cr_assert_eq(vmferry_register(pair.destination, kinds[i], 4 * PAGE, PAGE, 0, &m),
			     0);
		cr_expect_eq(vmferry_discard(m, PAGE, 2 * PAGE), 0);
		cr_expect(is_filled(kinds[i], PAGE, 7));
		cr_expect(is_filled(kinds[i] + PAGE, 2 * PAGE, 0));
		cr_expect(is_filled(kinds[i] + 3 * PAGE, PAGE, 7));
		vmferry_deregister(&m);
	}
	munmap(shared, 4 * PAGE);
}

Test(memory, discard_of_no_whole_pages_in_it__einval)
{
	struct vmferry_memory *m;

	memset(base, 7, 4 * PAGE);
	cr_assert_eq(add(0, 4 * PAGE, PAGE, &m), 0);
	cr_expect_eq(vmferry_discard(m, 0, 0), -EINVAL);
	cr_expect_eq(vmferry_discard(m, 1, PAGE), -EINVAL);
	cr_expect_eq(vmferry_discard(m, 0, PAGE + 1), -EINVAL);
	cr_expect_eq(vmferry_discard(m, 4 * PAGE, PAGE), -EINVAL);
	cr_expect_eq(vmferry_discard(m, PAGE, 0 - PAGE), -EINVAL);
	cr_expect(is_filled(base, 4 * PAGE, 7));
	vmferry_deregister(&m);
}

Test(memory, resolve__only_what_lies_in_one_registration, .init = NULL, .fini = NULL)
{
	struct vmferry_memory low = {.base = (uint8_t *)0x10000,
				     .size = 2 * PAGE,
				     .address = 4 * PAGE,
				     .access = VMFERRY_ACCESS_REMOTE_WRITE};
	struct vmferry_memory next = {.base = (uint8_t *)0x20000,
				      .size = PAGE,
				      .address = 6 * PAGE,
				      .access = VMFERRY_ACCESS_REMOTE_WRITE};
	struct vmferry_memory top = {.base = (uint8_t *)0x30000,
				     .size = PAGE,
				     .address = 0 - PAGE,
				     .access = VMFERRY_ACCESS_REMOTE_READ};
	const unsigned int w = VMFERRY_ACCESS_REMOTE_WRITE;
	const unsigned int r = VMFERRY_ACCESS_REMOTE_READ;
	struct memory_table t;

	cr_assert_eq(memory_table_init(&t), 0);
	cr_assert_eq(memory_table_add(&t, &top), 0);
	cr_assert_eq(memory_table_add(&t, &low), 0);
	cr_assert_eq(memory_table_add(&t, &next), 0);
	cr_expect_eq(memory_table_resolve(&t, 4 * PAGE, 2 * PAGE, w), (uint8_t *)0x10000);
	cr_expect_eq(memory_table_resolve(&t, 6 * PAGE - 1, 1, w), (uint8_t *)0x11fff);
	cr_expect_eq(memory_table_resolve(&t, 6 * PAGE, 1, w), (uint8_t *)0x20000);
	cr_expect_null(memory_table_resolve(&t, 6 * PAGE - 1, 2, w));
	cr_expect_null(memory_table_resolve(&t, 4 * PAGE - 1, 1, w));
	cr_expect_null(memory_table_resolve(&t, 7 * PAGE, 1, w));
	cr_expect_null(memory_table_resolve(&t, 4 * PAGE, UINT64_MAX, w));
	cr_expect_null(memory_table_resolve(&t, 4 * PAGE, 1, r));
	cr_expect_eq(memory_table_resolve(&t, UINT64_MAX, 1, r), (uint8_t *)0x30fff);
	cr_expect_null(memory_table_resolve(&t, UINT64_MAX, 2, r));
	cr_expect_null(memory_table_resolve(&t, UINT64_MAX, 1, w));
	memory_table_destroy(&t);
}
