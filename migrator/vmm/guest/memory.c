/* SPDX-License-Identifier: MIT */
/*
 * The memory map of the loader, what the guest itself uses of it, and the version tables behind
 * the image.
 */
#include <stddef.h>

#include "machine.h"
#include "memory.h"
#include "multiboot.h"
#include "page.h"

#define MIB	     (1ull << 20)
#define GIB	     (1ull << 30)
#define GIBS_MAX     64u /* the page directories in boot.S */
#define GIBS_AT_BOOT 4u
#define EXTENTS_MAX  16

#define ENTRY_USER_WRITE 0x7ull
#define ENTRY_LARGE	 0x80ull

struct extent {
	uint64_t start, end; /* whole pages */
};

static struct extent extents[EXTENTS_MAX];
static unsigned int extent_count;
static uint64_t ram_bytes;
static uint64_t pages;
static uint32_t *versions, *inverted;

extern uint64_t page_pointers[512], page_directories[GIBS_MAX][512];
extern char guest_end[];

void memory_read_command_line(const struct multiboot_info *info, char *line, uint32_t size)
{
	const char *from = at_address(info->command_line);
	uint32_t i = 0;

	if (info->flags & MULTIBOOT_HAS_COMMAND_LINE)
		for (; i < size - 1 && from[i]; i++)
			line[i] = from[i];
	line[i] = '\0';
}

static void add_extent(uint64_t start, uint64_t end)
{
	if (end > GIBS_MAX * GIB)
		end = GIBS_MAX * GIB;
	if (end > start)
		ram_bytes += end - start;
	if (start < MIB)
		start = MIB;
	start = (start + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	end = end / PAGE_BYTES * PAGE_BYTES;
	if (start < end && extent_count < EXTENTS_MAX)
		extents[extent_count++] = (struct extent){start, end};
}

static void read_map(const struct multiboot_info *info)
{
	uint64_t at = info->map;
	uint64_t end = at + info->map_length;

	while (at + sizeof(struct multiboot_map_entry) <= end) {
		const struct multiboot_map_entry *entry = at_address(at);
		uint64_t length = entry->length;

		if (length > UINT64_MAX - entry->base)
			length = UINT64_MAX - entry->base;
		if (entry->type == MULTIBOOT_MAP_RAM)
			add_extent(entry->base, entry->base + length);
		at += sizeof(entry->size) + entry->size;
	}
}

static void map_gib(uint64_t gib)
{
	for (uint64_t i = 0; i < 512; i++)
		page_directories[gib][i] =
			(gib * GIB + i * 2 * MIB) | ENTRY_USER_WRITE | ENTRY_LARGE;
	page_pointers[gib] = (uint64_t)page_directories[gib] | ENTRY_USER_WRITE;
}

void memory_setup(const struct multiboot_info *info)
{
	uint64_t top = 0;

	if (info->flags & MULTIBOOT_HAS_MAP)
		read_map(info);
	else if (info->flags & MULTIBOOT_HAS_MEMORY)
		add_extent(MIB, MIB + info->memory_upper * 1024ull);
	for (unsigned int i = 0; i < extent_count; i++)
		if (extents[i].end > top)
			top = extents[i].end;
	for (uint64_t gib = GIBS_AT_BOOT; gib * GIB < top; gib++)
		map_gib(gib);
}

/* Nothing below @address is to be filled. */
static uint64_t reserve(uint64_t address)
{
	uint64_t left = 0;

	for (unsigned int i = 0; i < extent_count; i++) {
		if (extents[i].start < address)
			extents[i].start = address < extents[i].end ? address : extents[i].end;
		left += (extents[i].end - extents[i].start) / PAGE_BYTES;
	}
	return left;
}

/* The tables go into the extent that holds the image, which is the first one. */
void memory_choose(uint64_t fill_bytes)
{
	uint64_t image_end = (uint64_t)guest_end;
	uint64_t table_bytes;

	pages = reserve(image_end);
	if (fill_bytes / PAGE_BYTES < pages)
		pages = fill_bytes / PAGE_BYTES;
	table_bytes = (pages * sizeof(*versions) + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
	versions = at_address(image_end);
	inverted = at_address(image_end + table_bytes);
	if (extent_count == 0 || image_end + 2 * table_bytes >= extents[0].end)
		die("too little memory for the version tables");
	fill_bytes = reserve(image_end + 2 * table_bytes);
	if (fill_bytes < pages)
		pages = fill_bytes;
}

uint64_t memory_pages(void)
{
	return pages;
}

uint64_t memory_bytes(void)
{
	return ram_bytes;
}

uint64_t memory_gpa(uint64_t page)
{
	const struct extent *extent = extents;
	uint64_t count = (extent->end - extent->start) / PAGE_BYTES;

	while (page >= count) {
		page -= count;
		extent++;
		count = (extent->end - extent->start) / PAGE_BYTES;
	}
	return extent->start + page * PAGE_BYTES;
}

bool memory_version(uint64_t page, uint32_t *version, uint32_t *other)
{
	*version = versions[page];
	*other = ~inverted[page];
	return *version == *other;
}

void memory_set_version(uint64_t page, uint32_t version)
{
	versions[page] = version;
	inverted[page] = ~version;
}
