/* SPDX-License-Identifier: MIT */
/*
 * Rewrites pages in random order at a settable rate, and checks every page all the time: each
 * before it is rewritten, and all of them in turn. The versions that the pages must have are kept
 * apart from them, so that an older copy of a page is found too.
 */
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

#include "work.h"

#define PAGE	    4096ul
#define BURST_PAGES 64
/* Every so many versions a page is all zero: memory that held something becomes zero again. */
#define ZERO_VERSION 8

struct memory {
	unsigned char *pages;
	uint32_t *versions;
	uint64_t count;
};

static bool is_zero(const void *page)
{
	const uint64_t *words = page;

	for (size_t i = 0; i < PAGE / sizeof(*words); i++)
		if (words[i] != 0)
			return false;
	return true;
}

static void write_page(struct memory *m, uint64_t index)
{
	unsigned char *page = m->pages + index * PAGE;
	uint32_t version = ++m->versions[index];

	if (version % ZERO_VERSION == 0)
		__builtin_memset(page, 0, PAGE);
	else
		fill(page, PAGE, seed_of(index, version));
	counters.writes++;
}

static void check_page(struct memory *m, uint64_t index)
{
	unsigned char *page = m->pages + index * PAGE;
	uint32_t version = m->versions[index];
	size_t at = PAGE;

	counters.checks++;
	if (version % ZERO_VERSION == 0
		    ? is_zero(page)
		    : (at = find_difference(page, PAGE, seed_of(index, version))) == PAGE)
		return;
	report_error("memory: page %llu differs from its version %u at offset %zu%s",
		     (unsigned long long)index, version, at % PAGE,
		     is_zero(page) ? ", it is all zero" : "");
	/* Told once: the next difference of this page is another fault. */
	write_page(m, index);
}

static void set_up(struct memory *m)
{
	m->count = option("work_memory", 96) * 256;
	m->pages = mmap(NULL, m->count * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);
	m->versions = calloc(m->count, sizeof(*m->versions));
	if (m->pages == MAP_FAILED || m->versions == NULL)
		die("memory: no room for %llu pages", (unsigned long long)m->count);
	for (uint64_t i = 0; i < m->count; i++)
		write_page(m, i);
}

void *memory_work(void *arg)
{
	int64_t burst_ns = BURST_PAGES * PAGE * NS_PER_S / ((int64_t)option("work_rate", 20) << 20);
	int64_t next = clock_ns(CLOCK_MONOTONIC);
	uint64_t random = 1, turn = 0;
	struct memory m;

	set_up(&m);
	for (;;) {
		for (int i = 0; i < BURST_PAGES; i++) {
			random = random * 6364136223846793005ull + 1442695040888963407ull;
			check_page(&m, (random >> 33) % m.count);
			write_page(&m, (random >> 33) % m.count);
			check_page(&m, turn);
			turn = (turn + 1) % m.count;
			if (turn == 0)
				counters.passes++;
		}
		next += burst_ns;
		/* A processor that cannot keep up does not owe what it has missed. */
		if (next < clock_ns(CLOCK_MONOTONIC))
			next = clock_ns(CLOCK_MONOTONIC);
		else
			sleep_ns(next - clock_ns(CLOCK_MONOTONIC));
	}
	return arg;
}
