/* SPDX-License-Identifier: MIT */
/*
 * The dirty map: one atomic bit for each guest page, by region. Trackers only set bits, lanes only
 * take them.
 *
 * ORDER  A tracker publishes with release after the page is protected again; a lane takes with
 *        acquire before it reads the page. So a write that a lane's read misses happens after the
 *        protection, and is tracked again.
 */
#ifndef DIRTY_MAP_H
#define DIRTY_MAP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmferry/migration.h>

#define MAP_WORD_PAGES 64u

struct dirty_region {
	struct vmferry_region region; /* read only */
	uint64_t pages;
	uint64_t words;
	_Atomic uint64_t *bits; /* bits beyond @pages are never set */
};

struct dirty_map {
	unsigned int region_count;
	struct dirty_region *regions;
};

int dirty_map_new(const struct vmferry_vm *vm, struct dirty_map **map);
void dirty_map_free(struct dirty_map **map);

/* Sets bits of one word. @word and @mask must be within the region. Any thread. */
static inline void dirty_map_publish(struct dirty_region *r, uint64_t word, uint64_t mask)
{
	/* release: what made the page trackable again happens before anyone sees the bit. */
	atomic_fetch_or_explicit(&r->bits[word], mask, memory_order_release);
}

/* Takes the bits of one word that are in @mask: the caller must now send these pages. */
static inline uint64_t dirty_map_take(struct dirty_region *r, uint64_t word, uint64_t mask)
{
	if ((atomic_load_explicit(&r->bits[word], memory_order_relaxed) & mask) == 0)
		return 0;
	/* acquire: pairs with publish; the pages are read only after the bits are ours. */
	return atomic_fetch_and_explicit(&r->bits[word], ~mask, memory_order_acquire) & mask;
}

/*
 * Sets every page that touches [address, address + length). -ERANGE unless the range lies in the
 * regions.
 */
int dirty_map_mark(struct dirty_map *map, uint64_t address, uint64_t length);

/* Sets pages @first to @first + @count - 1 of a region; clipped to its end. */
void dirty_region_mark(struct dirty_region *r, uint64_t first, uint64_t count);

/* How many bits are set; exact only while nobody sets or takes. */
uint64_t dirty_map_count(const struct dirty_map *map);

#endif
