/* SPDX-License-Identifier: MIT */
/*
 * What QEMU sent in real migrations, see record. All that the guest did there was to count: it
 * wrote the same number to 32 pages, one after the other, then the next number.
 */
#ifndef TEST_QEMU_GOLDEN_H
#define TEST_QEMU_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define GOLDEN_CHANNELS	  2
#define GOLDEN_PAGES	  32
#define GOLDEN_PAGES_AT	  0x10000ull /* in the guest's first block */
#define GOLDEN_PAGE_SIZE  4096u
#define GOLDEN_COUNTER_AT 16 /* in a page that has nothing else */

struct golden {
	const char *name;
	const char *machine;
	const char *ram;     /* the guest's first block */
	const char *reason;  /* why it passes; NULL: it is offloaded */
	unsigned int blocks; /* that it tells */
	bool return_path, switchover_start, ignore_shared;
	bool multifd, compressed; /* compression of multifd */
	bool flushes;
	uint32_t also; /* records that must be there besides the usual ones */
};

extern const struct golden goldens[];
extern const size_t golden_count;

/* A file of a golden stream: "main", "channel0" or "channel1". To be freed by the caller. */
uint8_t *golden_read(const struct golden *g, const char *file, size_t *length);

/* The counters of the guest's pages as they come. */
struct golden_memory {
	uint32_t counter[GOLDEN_PAGES];
	unsigned int times[GOLDEN_PAGES];
};

/* Asserts that the page can be what the guest had at @offset of @block. */
void golden_expect_page(const struct golden *g, struct golden_memory *m, const char *block,
			uint64_t offset, const uint8_t *page);

/* Asserts that the memory is that of a guest which was stopped between two of its writes. */
void golden_expect_stopped(const struct golden *g, const struct golden_memory *m);

#endif
