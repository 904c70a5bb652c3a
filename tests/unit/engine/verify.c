/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "migrator/engine/verify.h"

static const struct vmferry_region regions[2] = {
	{.address = 0, .size = 100 * VMFERRY_PAGE_SIZE, .fd = -1},
	{.address = 1ull << 32, .size = 50 * VMFERRY_PAGE_SIZE, .fd = -1},
};
static struct hash_table *here, *there;

static void setup(void)
{
	cr_assert_eq(hash_table_new(regions, 2, &here), 0);
	cr_assert_eq(hash_table_new(regions, 2, &there), 0);
}

static void teardown(void)
{
	hash_table_free(&here);
	hash_table_free(&there);
}

TestSuite(verify, .init = setup, .fini = teardown);

static int take(uint64_t first, uint32_t count, uint64_t *received)
{
	static const uint64_t values[200] = {11, 22, 33};
	struct vmferry_blob *blob = NULL;
	struct vmferry_message m = {.type = MESSAGE_HASHES};
	int r;

	cr_assert_eq(vmferry_blob_new(&blob), 0);
	cr_assert_eq(words_pack(0, first, values, count, blob), 0);
	m.length = vmferry_blob_size(blob);
	m.data = (void *)vmferry_blob_data(blob);
	r = verify_take_hashes(&m, there, received);
	vmferry_blob_free(&blob);
	return r;
}

Test(verify, compare__counts_each_differing_page)
{
	cr_assert_eq(verify_compare(here, there), 0);
	there->of_page[0] = 1;
	there->of_page[149] = 1;
	cr_assert_eq(verify_compare(here, there), 2);
}

Test(verify, hashes_in_order__fill_the_table)
{
	uint64_t received = 0;

	cr_assert_eq(take(0, 100, &received), 0);
	cr_assert_eq(take(100, 50, &received), 0);
	cr_assert_eq(received, 150);
	cr_assert_eq(there->of_page[1], 22);
	cr_assert_eq(there->of_page[102], 33);
}

Test(verify, hashes_out_of_order_or_too_many__are_refused)
{
	uint64_t received = 0;

	cr_assert_eq(take(1, 10, &received), -EPROTO);
	cr_assert_eq(take(0, 151, &received), -EPROTO);
	cr_assert_eq(take(0, 150, &received), 0);
	cr_assert_eq(take(150, 1, &received), -EPROTO);
	cr_assert_eq(take(UINT64_MAX, 1, &received), -EPROTO);
}
