/* SPDX-License-Identifier: MIT */
/* The content of pages: right ones pass, each kind of damage is told from the others. */
#include <criterion/criterion.h>
#include <string.h>

#include "guest/page.h"

#define GPA 0x123456000ull

TestSuite(page, .timeout = 20);

static enum page_state judge(const uint64_t *page, uint32_t version, bool clear)
{
	struct page_verdict verdict;

	page_judge(page, GPA, version, clear, &verdict);
	return verdict.state;
}

Test(page, written__right_for_its_version_only)
{
	uint64_t page[PAGE_WORDS];

	page_write(page, GPA, 7);
	cr_assert(page_right(page, GPA, 7));
	cr_assert(page_right_touch(page, GPA, 7));
	cr_assert_not(page_right(page, GPA, 8));
	cr_assert_not(page_right(page, GPA + PAGE_BYTES, 7));
	cr_assert_eq(judge(page, 7, false), PAGE_RIGHT);
	cr_assert_eq(judge(page, 8, false), PAGE_STALE);
	cr_assert_eq(judge(page, 6, false), PAGE_NEWER);
	cr_assert_eq(judge(page, 7, true), PAGE_STALE);
}

Test(page, touched_often__right_at_each_step)
{
	uint64_t page[PAGE_WORDS];

	page_write(page, GPA, 1);
	for (uint32_t version = 2; version < 3 * PAGE_LINES; version++) {
		cr_assert(page_right_touch(page, GPA, version - 1));
		page_touch(page, GPA, version);
		cr_assert(page_right(page, GPA, version), "version %u", version);
	}
}

Test(page, touched__changes_header_and_one_line)
{
	uint64_t before[PAGE_WORDS], after[PAGE_WORDS];
	unsigned int changed = 0;

	page_write(before, GPA, 40);
	memcpy(after, before, sizeof(after));
	page_touch(after, GPA, 41);
	for (size_t line = 0; line < PAGE_LINES; line++)
		changed += memcmp(&before[line * LINE_WORDS], &after[line * LINE_WORDS],
				  LINE_BYTES) != 0;
	cr_assert_eq(changed, 2);
}

Test(page, any_line_of_older_version__torn)
{
	uint64_t old[PAGE_WORDS], page[PAGE_WORDS];

	page_write(old, GPA, 3);
	for (size_t line = 0; line < PAGE_LINES; line++) {
		struct page_verdict verdict;

		page_write(page, GPA, 4);
		memcpy(&page[line * LINE_WORDS], &old[line * LINE_WORDS], LINE_BYTES);
		cr_assert_not(page_right(page, GPA, 4));
		page_judge(page, GPA, 4, false, &verdict);
		cr_assert_eq(verdict.state, PAGE_TORN, "line %zu", line);
		/* With an older header every other line looks wrong. */
		cr_assert_eq(verdict.offset, (line ? line : 1) * LINE_BYTES);
	}
}

Test(page, any_flipped_bit__not_right)
{
	uint64_t page[PAGE_WORDS];

	page_write(page, GPA, 5);
	for (uint32_t bit = 0; bit < PAGE_BYTES * 8; bit += 13) {
		page[bit / 64] ^= 1ull << bit % 64;
		cr_assert_not(page_right(page, GPA, 5), "bit %u", bit);
		page[bit / 64] ^= 1ull << bit % 64;
	}
	cr_assert(page_right(page, GPA, 5));
}

Test(page, lost_line_of_touched_page__torn)
{
	uint64_t page[PAGE_WORDS], before[PAGE_WORDS];

	page_write(page, GPA, 1);
	page_touch(page, GPA, 2);
	memcpy(before, page, sizeof(before));
	page_touch(page, GPA, 3);
	/* The new header over the old body. */
	memcpy(page + LINE_WORDS, before + LINE_WORDS, sizeof(page) - LINE_BYTES);
	cr_assert_eq(judge(page, 3, false), PAGE_TORN);
}

Test(page, zeros__lost_unless_expected)
{
	uint64_t page[PAGE_WORDS];

	page_write(page, GPA, 1);
	cr_assert_not(page_is_clear(page));
	page_clear(page);
	cr_assert(page_is_clear(page));
	cr_assert_eq(judge(page, 2, true), PAGE_RIGHT);
	cr_assert_eq(judge(page, 2, false), PAGE_LOST);
	page[PAGE_WORDS - 1] = 1;
	cr_assert_not(page_is_clear(page));
	cr_assert_eq(judge(page, 2, true), PAGE_FOREIGN);
}

Test(page, other_pages_content__foreign_and_named)
{
	uint64_t page[PAGE_WORDS];
	struct page_verdict verdict;

	page_write(page, GPA + PAGE_BYTES, 9);
	page_judge(page, GPA, 9, false, &verdict);
	cr_assert_eq(verdict.state, PAGE_FOREIGN);
	cr_assert_eq(verdict.found_gpa, GPA + PAGE_BYTES);
	cr_assert_eq(verdict.found_version, 9);
}
