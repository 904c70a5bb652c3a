/* SPDX-License-Identifier: MIT */
/*
 * A table of page hashes of a VM's whole memory, filled by several threads; holes are known to be
 * zeroes and never read.
 */
#ifndef ENGINE_HASH_H
#define ENGINE_HASH_H

#include <stdatomic.h>
#include <stdint.h>

#include <vmferry/migration.h>

struct hash_table {
	const struct vmferry_region *regions; /* borrowed */
	unsigned int region_count;
	uint64_t *first; /* index of each region's first page in @of_page; one more at the end */
	uint64_t *of_page;
};

int hash_table_new(const struct vmferry_region *regions, unsigned int count,
		   struct hash_table **table);
void hash_table_free(struct hash_table **table);

static inline uint64_t hash_table_pages(const struct hash_table *t)
{
	return t->first[t->region_count];
}

/* Hashes everything. Ends early, and then the table is worthless, when *@stop becomes true. */
int hash_all(struct hash_table *table, const _Atomic bool *stop);

/*
 * Hashes again those pages of a region whose bits are set in @words. Reads the pages even in holes:
 * they were written. Several threads share large sets.
 */
void hash_again(struct hash_table *table, unsigned int region, const uint64_t *words,
		uint64_t word_count);

#endif
