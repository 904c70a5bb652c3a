/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "migrator/engine/hash.h"

#define PAGE  VMFERRY_PAGE_SIZE
#define PAGES 3000u

static struct vmferry_region regions[2];
static struct hash_table *table;

static void make(struct vmferry_region *r, uint64_t address)
{
	r->fd = memfd_create("hash", MFD_CLOEXEC);
	r->size = PAGES * PAGE;
	r->address = address;
	cr_assert_eq(ftruncate(r->fd, (off_t)r->size), 0);
	r->base = mmap(NULL, r->size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	cr_assert_neq(r->base, MAP_FAILED);
}

static uint8_t *page(unsigned int region, uint64_t n)
{
	return (uint8_t *)regions[region].base + n * PAGE;
}

static void setup(void)
{
	make(&regions[0], 0);
	make(&regions[1], 1ull << 32);
	cr_assert_eq(hash_table_new(regions, 2, &table), 0);
}

static void teardown(void)
{
	hash_table_free(&table);
	for (int i = 0; i < 2; i++) {
		munmap(regions[i].base, regions[i].size);
		close(regions[i].fd);
	}
}

TestSuite(hash, .init = setup, .fini = teardown, .timeout = 30);

Test(hash, all__is_the_hash_of_each_page_and_leaves_holes_alone)
{
	static const uint8_t zero[PAGE];
	struct stat st;

	for (uint64_t p = 0; p < 2500; p++)
		memset(page(1, p), (int)(p % 255) + 1, PAGE);
	cr_assert_eq(hash_all(table, NULL), 0);
	for (uint64_t p = 0; p < PAGES; p++) {
		cr_assert_eq(table->of_page[p], XXH3_64bits(zero, PAGE));
		if (p < 2500)
			cr_assert_eq(table->of_page[PAGES + p], XXH3_64bits(page(1, p), PAGE));
	}
	cr_assert_eq(fstat(regions[0].fd, &st), 0);
	cr_assert_eq(st.st_blocks, 0);
}

Test(hash, again__changes_only_the_pages_named)
{
	uint64_t words[(PAGES + 63) / 64] = {0};
	uint64_t before;

	cr_assert_eq(hash_all(table, NULL), 0);
	before = table->of_page[PAGES + 5];
	memset(page(1, 5), 1, PAGE);
	memset(page(1, 2999), 2, PAGE);
	words[2999 / 64] |= 1ull << (2999 % 64);
	hash_again(table, 1, words, (PAGES + 63) / 64);
	cr_assert_eq(table->of_page[PAGES + 5], before);
	cr_assert_eq(table->of_page[PAGES + 2999], XXH3_64bits(page(1, 2999), PAGE));
	words[0] = ~0ull;
	words[10] = ~0ull;
	words[20] = ~0ull;
	words[30] = ~0ull;
	words[40] = ~0ull;
	hash_again(table, 1, words, (PAGES + 63) / 64);
	cr_assert_eq(table->of_page[PAGES + 5], XXH3_64bits(page(1, 5), PAGE));
}

Test(hash, stopped__says_so)
{
	_Atomic bool stop = true;

	memset(page(0, 0), 1, 2000 * PAGE);
	cr_assert_eq(hash_all(table, &stop), -ECANCELED);
}
