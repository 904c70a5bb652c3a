/* SPDX-License-Identifier: MIT */
/* The parts of placement_find(), each testable without a QEMU. */
#ifndef QEMU_PLACEMENT_PARTS_H
#define QEMU_PLACEMENT_PARTS_H

#include "placement.h"
#include "process.h"

/* ---- placement_match.c: where a block is among the mappings of the process ---- */

/* Why a block of this name and size is never placed; NULL: it may be. */
const char *placement_unplaceable(const struct placement_block *block);

/*
 * The first mapping of the block at @address: it and those right behind it are the block, up to the
 * inaccessible page behind it. NULL: there is no such.
 */
const struct process_mapping *placement_at(const struct process_mapping *list, unsigned int count,
					   uint64_t address, uint64_t bytes);

/*
 * The mapping of block @index of @blocks, by its size, or by its file's name. NULL: there is none,
 * or more than one; @reason says so.
 */
const struct process_mapping *placement_by_size(const struct process_mapping *list,
						unsigned int count,
						const struct placement_block *blocks,
						unsigned int blocks_count, unsigned int index,
						char reason[PLACEMENT_REASON_MAX]);

/* "1 GiB", "1152 KiB". */
#define PLACEMENT_SIZE_TEXT 32
void placement_size_text(char text[PLACEMENT_SIZE_TEXT], uint64_t bytes);

/* ---- placement_ask.c: where QEMU says that its blocks are ---- */

/* Fills in @addresses, 0 where QEMU does not tell, and never fails: then all are 0. */
void placement_ask(struct qmp *qmp, const struct placement_block *blocks, unsigned int count,
		   uint64_t *addresses);

/* Of the text of "info ramblock", which has addresses since QEMU 8.0. 0: it does not tell. */
uint64_t placement_ramblock_address(const char *text, const char *name);

/* A guest-physical address of the block and its offset in it, of the text of "info mtree -f". */
bool placement_mtree_find(const char *text, const char *name, uint64_t *gpa, uint64_t *offset);

/* Of the text of "gpa2hva". 0: it does not tell, or not of the block @name. */
uint64_t placement_gpa2hva_address(const char *text, const char *name);

/* ---- placement_map.c ---- */

/*
 * Opens the file of @mapping and maps the block at @host_address into this process, or does not and
 * says why in its reason. @map false: only opens, for placement_extents().
 */
void placement_map(const struct process_mapping *mapping, bool map, struct placement *placement);

#endif
