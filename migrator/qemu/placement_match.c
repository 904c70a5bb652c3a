/* SPDX-License-Identifier: MIT */
/*
 * QEMU maps each block of RAM by itself: a mapping of the block's size, rounded up to the pages of
 * its file system, that no child process gets, and an inaccessible page behind it. So neighbouring
 * blocks never merge to one mapping.
 */
#include <stdio.h>
#include <string.h>

#include "placement_parts.h"

#define SMALL_BYTES (1U << 20)

static bool ends_with(const char *text, const char *end)
{
	const size_t length = strlen(text);

	return length >= strlen(end) && strcmp(text + length - strlen(end), end) == 0;
}

const char *placement_unplaceable(const struct placement_block *block)
{
	const char *name = block->name;

	if (strncmp(name, "/objects/", 9) != 0 && strchr(name, '/') != NULL)
		return name[0] == '/' ? "it is firmware" : "it belongs to a device";
	if (ends_with(name, ".bios") || ends_with(name, ".rom") || strstr(name, ".flash") != NULL)
		return "it is firmware";
	if (block->bytes < SMALL_BYTES)
		return "it is small";
	return NULL;
}

void placement_size_text(char text[PLACEMENT_SIZE_TEXT], uint64_t bytes)
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
	unsigned int unit = 0;

	while (bytes != 0 && bytes % 1024 == 0 && unit < 4) {
		bytes /= 1024;
		unit++;
	}
	snprintf(text, PLACEMENT_SIZE_TEXT, "%llu %s", (unsigned long long)bytes, units[unit]);
}

static uint64_t round_up(uint64_t bytes, uint64_t page_bytes)
{
	return (bytes + page_bytes - 1) / page_bytes * page_bytes;
}

/* Whether @next continues @mapping, as one block's memory does that the kernel has split. */
static bool adjoins(const struct process_mapping *mapping, const struct process_mapping *next)
{
	return !mapping->guarded && mapping->address + mapping->bytes == next->address &&
	       mapping->shared == next->shared && mapping->inode == next->inode &&
	       mapping->dev == next->dev;
}

const struct process_mapping *placement_at(const struct process_mapping *list, unsigned int count,
					   uint64_t address, uint64_t bytes)
{
	unsigned int first = 0;
	unsigned int last;

	while (first < count && (address < list[first].address ||
				 address - list[first].address >= list[first].bytes))
		first++;
	if (first == count)
		return NULL;
	for (last = first; last + 1 < count && adjoins(&list[last], &list[last + 1]);)
		last++;
	if (!list[first].dontfork || !list[last].guarded ||
	    list[last].address + list[last].bytes - address !=
		    round_up(bytes, list[first].page_bytes))
		return NULL;
	return &list[first];
}

/*
 * A file that QEMU made in the folder that mem-path names has its block's name in its own:
 * qemu_back_mem.NAME.XXXXXX, with each '/' of it replaced.
 */
static bool has_name(const struct process_mapping *mapping, const char *name)
{
	static const char start[] = "qemu_back_mem.";
	const char *slash = strrchr(mapping->path, '/');
	const char *file = slash == NULL ? mapping->path : slash + 1;

	if (strncmp(file, start, sizeof(start) - 1) != 0)
		return false;
	for (file += sizeof(start) - 1; *name != '\0'; file++, name++)
		if (*file != (*name == '/' ? '_' : *name))
			return false;
	return *file == '.' && strlen(file) == 7;
}

static bool may_be(const struct process_mapping *mapping, uint64_t bytes)
{
	return mapping->dontfork && mapping->guarded &&
	       mapping->bytes == round_up(bytes, mapping->page_bytes);
}

const struct process_mapping *placement_by_size(const struct process_mapping *list,
						unsigned int count,
						const struct placement_block *blocks,
						unsigned int blocks_count, unsigned int index,
						char reason[PLACEMENT_REASON_MAX])
{
	const struct placement_block *block = &blocks[index];
	const struct process_mapping *sized = NULL;
	const struct process_mapping *named = NULL;
	unsigned int mappings = 0;
	unsigned int equals = 0;
	unsigned int names = 0;
	char size[PLACEMENT_SIZE_TEXT];

	for (unsigned int i = 0; i < count; i++) {
		if (!may_be(&list[i], block->bytes))
			continue;
		sized = &list[i];
		mappings++;
		if (has_name(&list[i], block->name)) {
			named = &list[i];
			names++;
		}
	}
	for (unsigned int i = 0; i < blocks_count; i++)
		equals += blocks[i].bytes == block->bytes;
	if (names == 1)
		return named;
	if (mappings == 1 && equals == 1)
		return sized;
	placement_size_text(size, block->bytes);
	if (mappings == 0)
		snprintf(reason, PLACEMENT_REASON_MAX, "QEMU maps no memory of %s", size);
	else if (equals > 1)
		snprintf(reason, PLACEMENT_REASON_MAX, "%u blocks of %s: give --qmp", equals, size);
	else
		snprintf(reason, PLACEMENT_REASON_MAX, "QEMU maps %u times %s: give --qmp",
			 mappings, size);
	return NULL;
}
