/* SPDX-License-Identifier: MIT */
/*
 * The dirty map's cold half: making it from a VM's regions, marking ranges of addresses, counting.
 * What runs for each word of a harvest or of a lane's pass is inline in map.h.
 */
#include "map.h"

#include <errno.h>
#include <stdlib.h>

#include "common/log.h"

static int check_region(const struct vmferry_region *r, unsigned int index)
{
	uint64_t end;

	if (r->size == 0 || r->size % VMFERRY_PAGE_SIZE != 0 ||
	    r->address % VMFERRY_PAGE_SIZE != 0) {
		log_error(
			"region %u: 0x%llx bytes at 0x%llx: not whole pages: give address and size "
			"as multiples of %u",
			index, (unsigned long long)r->size, (unsigned long long)r->address,
			VMFERRY_PAGE_SIZE);
		return -EINVAL;
	}
	if (__builtin_add_overflow(r->address, r->size, &end)) {
		log_error(
			"region %u: 0x%llx bytes at 0x%llx: wraps around: give a range below 2^64",
			index, (unsigned long long)r->size, (unsigned long long)r->address);
		return -EINVAL;
	}
	return 0;
}

static bool overlap(const struct vmferry_region *a, const struct vmferry_region *b)
{
	return a->address < b->address + b->size && b->address < a->address + a->size;
}

static int check_regions(const struct vmferry_vm *vm)
{
	if (vm->region_count == 0 || vm->region_count > VMFERRY_REGIONS_MAX) {
		log_error(
			"dirty map: %u regions: must be 1 to %u: describe the guest's memory with "
			"fewer, larger ones",
			vm->region_count, VMFERRY_REGIONS_MAX);
		return -EINVAL;
	}
	for (unsigned int i = 0; i < vm->region_count; i++) {
		int rc = check_region(&vm->regions[i], i);

		if (rc < 0)
			return rc;
		for (unsigned int j = 0; j < i; j++) {
			if (!overlap(&vm->regions[i], &vm->regions[j]))
				continue;
			log_error("region %u: overlaps region %u: one page would have two bits: "
				  "give each address once",
				  i, j);
			return -EINVAL;
		}
	}
	return 0;
}

static int region_init(struct dirty_region *r, const struct vmferry_region *region)
{
	r->region = *region;
	r->pages = region->size / VMFERRY_PAGE_SIZE;
	r->words = (r->pages + MAP_WORD_PAGES - 1) / MAP_WORD_PAGES;
	r->bits = calloc(r->words, sizeof(*r->bits));
	if (r->bits == NULL) {
		log_error("dirty map: %llu words for a region: out of memory: free some",
			  (unsigned long long)r->words);
		return -ENOMEM;
	}
	return 0;
}

int dirty_map_new(const struct vmferry_vm *vm, struct dirty_map **map)
{
	struct dirty_map *m;
	int rc = check_regions(vm);

	if (rc < 0)
		return rc;
	m = calloc(1, sizeof(*m));
	if (m == NULL)
		return -ENOMEM;
	m->regions = calloc(vm->region_count, sizeof(*m->regions));
	if (m->regions == NULL) {
		rc = -ENOMEM;
		goto err_free;
	}
	m->region_count = vm->region_count;
	for (unsigned int i = 0; i < vm->region_count; i++) {
		rc = region_init(&m->regions[i], &vm->regions[i]);
		if (rc < 0)
			goto err_free;
	}
	*map = m;
	return 0;

err_free:
	dirty_map_free(&m);
	return rc;
}

void dirty_map_free(struct dirty_map **map)
{
	struct dirty_map *m = *map;

	*map = NULL;
	if (m == NULL)
		return;
	for (unsigned int i = 0; i < m->region_count; i++)
		free(m->regions[i].bits);
	free(m->regions);
	free(m);
}

static struct dirty_region *find(struct dirty_map *map, uint64_t address)
{
	for (unsigned int i = 0; i < map->region_count; i++) {
		struct dirty_region *r = &map->regions[i];

		if (address - r->region.address < r->region.size)
			return r;
	}
	return NULL;
}

/* The first address behind @r, or @end if that comes earlier. */
static uint64_t piece_end(const struct dirty_region *r, uint64_t end)
{
	uint64_t region_end = r->region.address + r->region.size;

	return region_end < end ? region_end : end;
}

static int check_range(struct dirty_map *map, uint64_t address, uint64_t end)
{
	while (address < end) {
		const struct dirty_region *r = find(map, address);

		if (r == NULL)
			return -ERANGE;
		address = piece_end(r, end);
	}
	return 0;
}

static void mark_piece(struct dirty_region *r, uint64_t address, uint64_t end)
{
	uint64_t first = (address - r->region.address) / VMFERRY_PAGE_SIZE;
	uint64_t last = (end - 1 - r->region.address) / VMFERRY_PAGE_SIZE;

	dirty_region_mark(r, first, last - first + 1);
}

int dirty_map_mark(struct dirty_map *map, uint64_t address, uint64_t length)
{
	uint64_t end;

	/* Checked as a whole first: a call that fails marks nothing. */
	if (__builtin_add_overflow(address, length, &end) || check_range(map, address, end) < 0) {
		log_error(
			"dirty map: mark 0x%llx bytes at 0x%llx: not in the guest's regions: mark "
			"only memory that was given as a region",
			(unsigned long long)length, (unsigned long long)address);
		return -ERANGE;
	}
	while (address < end) {
		struct dirty_region *r = find(map, address);
		uint64_t stop = piece_end(r, end);

		mark_piece(r, address, stop);
		address = stop;
	}
	return 0;
}

void dirty_region_mark(struct dirty_region *r, uint64_t first, uint64_t count)
{
	if (first >= r->pages)
		return;
	if (count > r->pages - first)
		count = r->pages - first;
	while (count > 0) {
		uint64_t shift = first % MAP_WORD_PAGES;
		uint64_t room = MAP_WORD_PAGES - shift;
		uint64_t n = count < room ? count : room;

		dirty_map_publish(r, first / MAP_WORD_PAGES,
				  (~0ull >> (MAP_WORD_PAGES - n)) << shift);
		first += n;
		count -= n;
	}
}

uint64_t dirty_map_count(const struct dirty_map *map)
{
	uint64_t count = 0;

	for (unsigned int i = 0; i < map->region_count; i++) {
		const struct dirty_region *r = &map->regions[i];

		for (uint64_t w = 0; w < r->words; w++)
			count += (uint64_t)__builtin_popcountll(
				atomic_load_explicit(&r->bits[w], memory_order_relaxed));
	}
	return count;
}
