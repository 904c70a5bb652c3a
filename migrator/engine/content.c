/* SPDX-License-Identifier: MIT */
#include "content.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

static uint64_t page_down(uint64_t v)
{
	return v & ~(uint64_t)(VMFERRY_PAGE_SIZE - 1);
}

static int seek_failed(const struct vmferry_region *region, const char *what)
{
	int r = -errno;

	log_error("region 0x%llx: lseek %s on its fd failed: %s: give a memfd or fd -1",
		  (unsigned long long)region->address, what, strerror(-r));
	return r;
}

int content_next(const struct vmferry_region *region, uint64_t offset,
		 struct content_extent *extent)
{
	off_t limit = (off_t)(region->fd_offset + region->size);
	off_t data, hole;

	if (offset >= region->size)
		return 0;
	if (region->fd < 0) {
		*extent = (struct content_extent){offset, region->size - offset};
		return 1;
	}
	data = lseek(region->fd, (off_t)(region->fd_offset + offset), SEEK_DATA);
	if (data < 0 && errno == ENXIO)
		return 0;
	if (data < 0)
		return seek_failed(region, "SEEK_DATA");
	if (data >= limit)
		return 0;
	hole = lseek(region->fd, data, SEEK_HOLE);
	if (hole < 0)
		return seek_failed(region, "SEEK_HOLE");
	if (data < (off_t)(region->fd_offset + offset) || hole <= data) {
		log_error("region 0x%llx: no progress in searching its fd for data: give that "
			  "of its memory, or -1",
			  (unsigned long long)region->address);
		return -EINVAL;
	}
	if (hole > limit)
		hole = limit;
	extent->offset = page_down((uint64_t)data - region->fd_offset);
	extent->length = (uint64_t)hole - region->fd_offset - extent->offset;
	return 1;
}

int content_bytes(const struct vmferry_region *regions, unsigned int count, uint64_t *bytes)
{
	struct content_extent e = {0};
	uint64_t sum = 0;
	int r;

	for (unsigned int i = 0; i < count; i++) {
		uint64_t offset = 0;

		while ((r = content_next(&regions[i], offset, &e)) > 0) {
			sum += e.length;
			offset = e.offset + e.length;
		}
		if (r < 0)
			return r;
	}
	*bytes = sum;
	return 0;
}
