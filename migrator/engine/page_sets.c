/* SPDX-License-Identifier: MIT */
#include "page_sets.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static void bits_free(uint64_t **bits, unsigned int count)
{
	for (unsigned int i = 0; bits != NULL && i < count; i++)
		free(bits[i]);
	free(bits);
}

static int bits_new(const struct dirty_map *map, uint64_t ***out)
{
	uint64_t **bits = calloc(map->region_count, sizeof(*bits));

	*out = bits;
	for (unsigned int i = 0; bits != NULL && i < map->region_count; i++) {
		bits[i] = calloc(map->regions[i].words, sizeof(uint64_t));
		if (bits[i] == NULL)
			return -ENOMEM;
	}
	return bits == NULL ? -ENOMEM : 0;
}

int page_sets_new(struct dirty_map *map, bool verify, struct page_sets **out)
{
	struct page_sets *sets = calloc(1, sizeof(*sets));
	int r;

	if (sets == NULL)
		return -ENOMEM;
	sets->map = map;
	r = bits_new(map, &sets->sent);
	r = r < 0 ? r : bits_new(map, &sets->younger);
	r = r < 0 ? r : bits_new(map, &sets->older);
	if (verify) {
		r = r < 0 ? r : bits_new(map, &sets->resent);
		r = r < 0 ? r : bits_new(map, &sets->handed);
	}
	if (r < 0)
		page_sets_free(&sets);
	*out = sets;
	return r;
}

void page_sets_free(struct page_sets **out)
{
	struct page_sets *sets = *out;

	if (sets == NULL)
		return;
	bits_free(sets->sent, sets->map->region_count);
	bits_free(sets->younger, sets->map->region_count);
	bits_free(sets->older, sets->map->region_count);
	bits_free(sets->resent, sets->map->region_count);
	bits_free(sets->handed, sets->map->region_count);
	free(sets);
	*out = NULL;
}

static void clear(const struct page_sets *sets, uint64_t **bits, unsigned int region)
{
	if (bits != NULL)
		memset(bits[region], 0, sets->map->regions[region].words * sizeof(uint64_t));
}

uint64_t page_sets_return_unplaced(struct page_sets *sets)
{
	uint64_t pages = 0;

	for (unsigned int i = 0; i < sets->map->region_count; i++) {
		struct dirty_region *region = &sets->map->regions[i];

		for (uint64_t w = 0; w < region->words; w++) {
			uint64_t unplaced = sets->younger[i][w] | sets->older[i][w];

			if (unplaced == 0)
				continue;
			dirty_map_publish(region, w, unplaced);
			page_sets_placed(sets, i, w);
			pages += (uint64_t)__builtin_popcountll(unplaced);
		}
		clear(sets, sets->resent, i);
		clear(sets, sets->handed, i);
	}
	return pages;
}

uint64_t page_sets_minimum(const struct page_sets *sets)
{
	uint64_t pages = 0;

	for (unsigned int i = 0; i < sets->map->region_count; i++)
		for (uint64_t w = 0; w < sets->map->regions[i].words; w++)
			pages += (uint64_t)__builtin_popcountll(sets->sent[i][w]);
	return pages * VMFERRY_PAGE_SIZE;
}
