/* SPDX-License-Identifier: MIT */
/*
 * Page content: a counter from a seed of (address, version), scrambled word by word by a
 * multiplication, which one core makes faster than memory takes it.
 */
#include "page.h"

#define MAGIC	   0x746e656772726566ull
#define STEP	   0x9e3779b97f4a7c15ull
#define MULTIPLIER 0xd6e8feb86659fd93ull

/* Line 0 is the header; versions walk over the others. */
#define BODY_LINES (PAGE_LINES - 1)

static uint64_t scramble(uint64_t x)
{
	return (x ^ (x >> 32)) * MULTIPLIER;
}

static uint64_t seed(uint64_t gpa, uint32_t version)
{
	return scramble(scramble(gpa + STEP) ^ ((uint64_t)version << 32 | version));
}

static uint64_t checksum(uint64_t gpa, uint32_t version, uint32_t body)
{
	return scramble(seed(gpa, version) + scramble(STEP + body));
}

static uint32_t page_version(const uint64_t *page)
{
	return (uint32_t)(page[PAGE_VERSIONS] >> 32);
}

static uint32_t page_body(const uint64_t *page)
{
	return (uint32_t)page[PAGE_VERSIONS];
}

static uint32_t line_of(uint32_t version)
{
	return 1 + version % BODY_LINES;
}

/* The last version in (body, version] that rewrote @line, else body. */
static uint32_t line_version(uint32_t line, uint32_t version, uint32_t body)
{
	uint32_t ago = (line_of(version) + BODY_LINES - line) % BODY_LINES;

	return version - body > ago ? version - ago : body;
}

static void put_words(uint64_t *page, uint32_t from, uint32_t to, uint64_t s)
{
	uint64_t x = s + from * STEP;

	for (uint32_t i = from; i < to; i++, x += STEP)
		page[i] = scramble(x);
}

static bool words_match(const uint64_t *page, uint32_t from, uint32_t to, uint64_t s)
{
	uint64_t x = s + from * STEP;
	uint64_t difference = 0;

	for (uint32_t i = from; i < to; i++, x += STEP)
		difference |= page[i] ^ scramble(x);
	return difference == 0;
}

static bool line_matches(const uint64_t *page, uint32_t line, uint64_t gpa, uint32_t version)
{
	return words_match(page, line * LINE_WORDS, (line + 1) * LINE_WORDS, seed(gpa, version));
}

static void put_header(uint64_t *page, uint64_t gpa, uint32_t version, uint32_t body)
{
	page[PAGE_MAGIC] = MAGIC;
	page[PAGE_GPA] = gpa;
	page[PAGE_VERSIONS] = (uint64_t)version << 32 | body;
	page[PAGE_CHECK] = checksum(gpa, version, body);
	put_words(page, PAGE_FILLER, LINE_WORDS, seed(gpa, version));
}

/* Whether line 0 is whole, whatever page and version it speaks of. */
static bool header_whole(const uint64_t *page)
{
	return page[PAGE_MAGIC] == MAGIC && page_body(page) <= page_version(page) &&
	       page[PAGE_CHECK] == checksum(page[PAGE_GPA], page_version(page), page_body(page)) &&
	       words_match(page, PAGE_FILLER, LINE_WORDS, seed(page[PAGE_GPA], page_version(page)));
}

static bool header_right(const uint64_t *page, uint64_t gpa, uint32_t version)
{
	return page[PAGE_GPA] == gpa && page_version(page) == version && header_whole(page);
}

void page_write(uint64_t *page, uint64_t gpa, uint32_t version)
{
	put_header(page, gpa, version, version);
	put_words(page, LINE_WORDS, PAGE_WORDS, seed(gpa, version));
}

void page_touch(uint64_t *page, uint64_t gpa, uint32_t version)
{
	uint32_t line = line_of(version);

	put_header(page, gpa, version, page_body(page));
	put_words(page, line * LINE_WORDS, (line + 1) * LINE_WORDS, seed(gpa, version));
}

void page_clear(uint64_t *page)
{
	for (uint32_t i = 0; i < PAGE_WORDS; i++)
		page[i] = 0;
}

bool page_right(const uint64_t *page, uint64_t gpa, uint32_t version)
{
	bool right = true;

	if (!header_right(page, gpa, version))
		return false;
	if (page_body(page) == version)
		return words_match(page, LINE_WORDS, PAGE_WORDS, seed(gpa, version));
	for (uint32_t line = 1; line < PAGE_LINES; line++)
		right &=
			line_matches(page, line, gpa, line_version(line, version, page_body(page)));
	return right;
}

bool page_right_touch(const uint64_t *page, uint64_t gpa, uint32_t version)
{
	uint32_t line = line_of(version + 1);

	return header_right(page, gpa, version) &&
	       line_matches(page, line, gpa, line_version(line, version, page_body(page)));
}

bool page_is_clear(const uint64_t *page)
{
	uint64_t any = 0;

	for (uint32_t i = 0; i < PAGE_WORDS; i++)
		any |= page[i];
	return any == 0;
}

static uint32_t first_wrong_line(const uint64_t *page)
{
	for (uint32_t line = 1; line < PAGE_LINES; line++)
		if (!line_matches(page, line, page[PAGE_GPA],
				  line_version(line, page_version(page), page_body(page))))
			return line;
	return 0;
}

static enum page_state state_by_header(const uint64_t *page, uint64_t gpa, uint32_t version,
				       bool clear, struct page_verdict *verdict)
{
	uint32_t line;

	if (!header_whole(page))
		return page[PAGE_MAGIC] == MAGIC && page[PAGE_GPA] == gpa ? PAGE_TORN
									  : PAGE_FOREIGN;
	verdict->found_gpa = page[PAGE_GPA];
	verdict->found_version = page_version(page);
	if (page[PAGE_GPA] != gpa)
		return PAGE_FOREIGN;
	line = first_wrong_line(page);
	verdict->offset = line * LINE_BYTES;
	if (line != 0)
		return PAGE_TORN;
	if (page_version(page) == version)
		return clear ? PAGE_STALE : PAGE_RIGHT;
	return page_version(page) < version ? PAGE_STALE : PAGE_NEWER;
}

void page_judge(const uint64_t *page, uint64_t gpa, uint32_t version, bool clear,
		struct page_verdict *verdict)
{
	*verdict = (struct page_verdict){.state = PAGE_RIGHT};
	if (page_is_clear(page))
		verdict->state = clear ? PAGE_RIGHT : PAGE_LOST;
	else
		verdict->state = state_by_header(page, gpa, version, clear, verdict);
}
