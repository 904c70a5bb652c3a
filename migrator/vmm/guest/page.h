/* SPDX-License-Identifier: MIT */
/*
 * The content of a filled page: a function of its address and version, so that whoever knows both
 * can tell a right page from one that is lost, stale, torn or another's. Pure functions, no
 * knowledge of the machine.
 */
#ifndef GUEST_PAGE_H
#define GUEST_PAGE_H

#include <stdbool.h>
#include <stdint.h>

#define PAGE_BYTES 4096u
#define PAGE_WORDS 512u
#define LINE_WORDS 8u
#define LINE_BYTES 64u
#define PAGE_LINES 64u

/*
 * Line 0's words; the rest of it is filler. A page is written whole at version `body`; each later
 * version up to `version` has rewritten line 0 and one other line, whose number follows from the
 * version. So the two say what every line must hold.
 */
enum page_word {
	PAGE_MAGIC,
	PAGE_GPA,
	PAGE_VERSIONS, /* version in the upper half, body in the lower */
	PAGE_CHECK,
	PAGE_FILLER,
};

enum page_state {
	PAGE_RIGHT,
	PAGE_LOST,    /* all zero, and should not be */
	PAGE_FOREIGN, /* another page's content, or nobody's */
	PAGE_TORN,    /* parts of different versions, or damaged */
	PAGE_STALE,   /* right, but of an older version */
	PAGE_NEWER,   /* right, but newer than the version table says: the table is stale */
};

struct page_verdict {
	enum page_state state;
	uint64_t found_gpa;	/* from the header, if it is whole */
	uint32_t found_version; /* likewise */
	uint32_t offset;	/* first wrong byte's line, if torn */
};

/*
 * A page whole, at version @version; a right page's header and one line from version @version - 1;
 * a page of zeros.
 */
void page_write(uint64_t *page, uint64_t gpa, uint32_t version);
void page_touch(uint64_t *page, uint64_t gpa, uint32_t version);
void page_clear(uint64_t *page);

/*
 * Whether all of @page is right; whether its header, and the line that version @version + 1 would
 * rewrite, are.
 */
bool page_right(const uint64_t *page, uint64_t gpa, uint32_t version);
bool page_right_touch(const uint64_t *page, uint64_t gpa, uint32_t version);
bool page_is_clear(const uint64_t *page);

/*
 * What is wrong with a page that should hold version @version, or zeros since then if @clear.
 * Slow.
 */
void page_judge(const uint64_t *page, uint64_t gpa, uint32_t version, bool clear,
		struct page_verdict *verdict);

#endif
