/* SPDX-License-Identifier: MIT */
/*
 * Byte buffers: what was appended comes back, whatever the steps, and failures leave a blob as it
 * was.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include <vmferry/vmferry.h>

static struct vmferry_blob *blob;

static void setup(void)
{
	cr_assert_eq(vmferry_blob_new(&blob), 0);
}

static void teardown(void)
{
	vmferry_blob_free(&blob);
}

TestSuite(blob, .init = setup, .fini = teardown, .timeout = 20);

Test(blob, new__empty)
{
	cr_assert_eq(vmferry_blob_size(blob), 0);
}

Test(blob, free__sets_null_and_accepts_it)
{
	vmferry_blob_free(&blob);
	cr_assert_null(blob);
	vmferry_blob_free(&blob);
	cr_assert_null(blob);
}

Test(blob, append_nothing__stays_empty)
{
	cr_assert_eq(vmferry_blob_append(blob, NULL, 0), 0);
	cr_assert_eq(vmferry_blob_size(blob), 0);
}

/* Chunks of 1, 2, 3 ... bytes, so that every growth happens at some odd place. */
Test(blob, append_growing_chunks__keeps_every_byte)
{
	uint8_t chunk[400];
	size_t total = 0;
	const uint8_t *data;

	for (size_t n = 1; n <= sizeof(chunk); n++) {
		for (size_t i = 0; i < n; i++)
			chunk[i] = (uint8_t)((total + i) * 7);
		cr_assert_eq(vmferry_blob_append(blob, chunk, n), 0);
		total += n;
	}
	cr_assert_eq(vmferry_blob_size(blob), total);
	data = vmferry_blob_data(blob);
	for (size_t i = 0; i < total; i++)
		cr_assert_eq(data[i], (uint8_t)(i * 7), "byte %zu", i);
}

Test(blob, append_large__one_step)
{
	size_t size = (5u << 20) + 3;
	uint8_t *large = malloc(size);

	cr_assert_not_null(large);
	memset(large, 0x5a, size);
	cr_assert_eq(vmferry_blob_append(blob, "x", 1), 0);
	cr_assert_eq(vmferry_blob_append(blob, large, size), 0);
	cr_assert_eq(vmferry_blob_size(blob), size + 1);
	cr_assert_eq(memcmp((const char *)vmferry_blob_data(blob) + 1, large, size), 0);
	free(large);
}

Test(blob, clear__empty_and_its_memory_is_used_again)
{
	char before[100] = {1}, after[100] = {2};
	const void *data;

	cr_assert_eq(vmferry_blob_append(blob, before, sizeof(before)), 0);
	data = vmferry_blob_data(blob);
	vmferry_blob_clear(blob);
	cr_assert_eq(vmferry_blob_size(blob), 0);
	cr_assert_eq(vmferry_blob_append(blob, after, sizeof(after)), 0);
	cr_assert_eq(vmferry_blob_size(blob), sizeof(after));
	cr_assert_eq(vmferry_blob_data(blob), data);
	cr_assert_eq(memcmp(data, after, sizeof(after)), 0);
}

Test(blob, append_impossible_length__enomem_and_unchanged)
{
	cr_assert_eq(vmferry_blob_append(blob, "abc", 3), 0);
	cr_assert_eq(vmferry_blob_append(blob, "abc", SIZE_MAX), -ENOMEM);
	cr_assert_eq(vmferry_blob_append(blob, "abc", SIZE_MAX / 2), -ENOMEM);
	cr_assert_eq(vmferry_blob_size(blob), 3);
	cr_assert_eq(memcmp(vmferry_blob_data(blob), "abc", 3), 0);
}
