/* SPDX-License-Identifier: MIT */
/*
 * What of a region holds anything: a memfd's data between its holes. Reading a hole of shared
 * memory through its mapping would make it resident, so whoever reads whole regions walks them with
 * this.
 */
#ifndef ENGINE_CONTENT_H
#define ENGINE_CONTENT_H

#include <stdbool.h>
#include <stdint.h>

#include <vmferry/migration.h>

struct content_extent {
	uint64_t offset; /* in the region, whole pages */
	uint64_t length;
};

/*
 * The next extent at or behind @offset: 1 and @extent, 0 when there is none, or a negative errno. A
 * region without fd is one extent.
 */
int content_next(const struct vmferry_region *region, uint64_t offset,
		 struct content_extent *extent);

/* Bytes in all extents of all regions. */
int content_bytes(const struct vmferry_region *regions, unsigned int count, uint64_t *bytes);

#endif
