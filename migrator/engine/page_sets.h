/* SPDX-License-Identifier: MIT */
/*
 * What the source remembers of the guest's pages besides which are dirty: a bit for each page, in
 * words like the dirty map's.
 *
 * The sets outlive a connection: when it is lost, whatever had been given to its lanes and is not
 * known to be placed is dirty again, see page_sets_return_unplaced().
 *
 * OWNERSHIP  A word belongs to whoever sweeps it, as the lanes do (sweep.h), and is the control
 *            thread's while no worker runs. @handed is the control thread's from when all lanes
 *            have marked until it asks for the next mark.
 */
#ifndef ENGINE_PAGE_SETS_H
#define ENGINE_PAGE_SETS_H

#include <stdbool.h>
#include <stdint.h>

#include "migrator/dirty/map.h"

struct page_sets {
	struct dirty_map *map; /* borrowed */
	uint64_t **sent;       /* was sent once, by whatever connection */
	/*
	 * Given to a lane of this connection and not known to be placed: @younger since the lane's
	 * last look, @older before that. When the destination has placed as much as had been given
	 * by then, @older is forgotten and @younger takes its place.
	 */
	uint64_t **younger;
	uint64_t **older;
	/* --verify, else NULL: sent since the last mark, and what that was as of the last mark. */
	uint64_t **resent;
	uint64_t **handed;
};

int page_sets_new(struct dirty_map *map, bool verify, struct page_sets **sets);

/* Accepts a pointer to NULL. */
void page_sets_free(struct page_sets **sets);

/* Everything in this word was placed that had been given to the lane. */
static inline void page_sets_placed(struct page_sets *sets, unsigned int region, uint64_t word)
{
	sets->younger[region][word] = 0;
	sets->older[region][word] = 0;
}

/* Everything in this word was placed that was older than the last look. */
static inline void page_sets_age(struct page_sets *sets, unsigned int region, uint64_t word)
{
	sets->older[region][word] = sets->younger[region][word];
	sets->younger[region][word] = 0;
}

/*
 * The connection is lost and the destination has confirmed that nothing more comes by it: what is
 * not known to be placed is dirty again, and nothing counts as sent since a mark. How many pages
 * that were.
 */
uint64_t page_sets_return_unplaced(struct page_sets *sets);

/* Bytes of the pages that were sent, each counted once. */
uint64_t page_sets_minimum(const struct page_sets *sets);

#endif
