/* SPDX-License-Identifier: MIT */
#include "placement.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "log.h"
#include "placement_parts.h"
#include "process.h"
#include "qmp.h"

#define MAPPINGS_MAX 8192U
#define THP	     "/sys/kernel/mm/transparent_hugepage/"

static const char *const kinds[] = {
	[PLACEMENT_FORWARD] = "forward",
	[PLACEMENT_PROCESS] = "process",
	[PLACEMENT_MAPPED] = "mapped",
};

const char *placement_kind_name(enum placement_kind kind)
{
	return kinds[kind];
}

/* Whether the kernel's setting @name lets memory that asks for huge pages have them. */
static bool has_huge_pages(const char *name)
{
	FILE *file = fopen(name, "re");
	char line[128] = "";

	if (file == NULL)
		return false;
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	fclose(file);
	return line[0] != '\0' && strstr(line, "[never]") == NULL && strstr(line, "[deny]") == NULL;
}

static bool is_memfd(const struct process_mapping *mapping)
{
	return strncmp(mapping->path, "/memfd:", 7) == 0;
}

/*
 * QEMU asks for huge pages for all of its RAM. A tmpfs has an option of its own at its mount, which
 * this does not look up.
 */
static bool gets_huge_pages(const struct process_mapping *mapping)
{
	if (mapping->hugetlb)
		return true;
	if (mapping->inode == 0)
		return has_huge_pages(THP "enabled");
	return is_memfd(mapping) && has_huge_pages(THP "shmem_enabled");
}

static void forward(struct placement *placement, const char *reason)
{
	placement->kind = PLACEMENT_FORWARD;
	snprintf(placement->reason, sizeof(placement->reason), "%s", reason);
}

static void settle_process(struct placement *placement, enum placement_wish wish)
{
	if (wish == PLACEMENT_WISH_MAPPED) {
		placement->kind = PLACEMENT_FORWARD;
		return;
	}
	placement->kind = PLACEMENT_PROCESS;
	if (wish == PLACEMENT_WISH_PROCESS)
		snprintf(placement->reason, sizeof(placement->reason), "as wished");
}

/* @mapping is where the block begins, at @address. */
static void place(const struct process_mapping *mapping, uint64_t address, enum placement_wish wish,
		  struct placement *placement)
{
	struct placement_extent first;
	unsigned int extents;

	placement->reason[0] = '\0';
	placement->host_address = address;
	placement->page_bytes = mapping->page_bytes;
	placement->shared = mapping->shared;
	placement->hugetlb = mapping->hugetlb;
	placement->anonymous = mapping->inode == 0;
	placement->hugepages = gets_huge_pages(mapping);
	placement->small_pages = !placement->hugepages && is_memfd(mapping);
	if (mapping->shared)
		placement_map(mapping, wish != PLACEMENT_WISH_PROCESS, placement);
	else
		snprintf(placement->reason, sizeof(placement->reason),
			 "private memory: share=on with a memfd or file backend makes it mapped");
	if (placement->kind != PLACEMENT_MAPPED)
		settle_process(placement, wish);
	placement->pristine =
		placement_extents(placement, &first, 1, &extents) == 0 && extents == 0;
}

struct search {
	struct process_mapping *mappings;
	unsigned int mappings_count;
	const struct placement_block *blocks;
	unsigned int blocks_count;
	uint64_t *addresses; /* as QEMU tells them, 0 where it does not */
};

static void find_block(const struct search *search, unsigned int index, enum placement_wish wish,
		       struct placement *placement)
{
	const struct placement_block *block = &search->blocks[index];
	const uint64_t address = search->addresses[index];
	const char *reason = placement_unplaceable(block);
	const struct process_mapping *mapping;

	if (reason != NULL) {
		forward(placement, reason);
	} else if (address != 0) {
		mapping = placement_at(search->mappings, search->mappings_count, address,
				       block->bytes);
		if (mapping != NULL)
			place(mapping, address, wish, placement);
		else
			forward(placement, "it is not where QMP says; is --qmp another QEMU's?");
	} else {
		mapping =
			placement_by_size(search->mappings, search->mappings_count, search->blocks,
					  search->blocks_count, index, placement->reason);
		if (mapping != NULL)
			place(mapping, mapping->address, wish, placement);
	}
}

static int find_all(const struct qemu_process *process, struct qmp *qmp, enum placement_wish wish,
		    struct search *search, struct placement *out)
{
	const int count = process_mappings(process->pid, search->mappings, MAPPINGS_MAX);

	if (count < 0)
		return count;
	search->mappings_count = (unsigned int)count;
	if (qmp != NULL)
		placement_ask(qmp, search->blocks, search->blocks_count, search->addresses);
	for (unsigned int i = 0; i < search->blocks_count; i++)
		find_block(search, i, wish, &out[i]);
	return qemu_process_alive(process) ? 0 : -ESRCH;
}

static void log_placements(const struct placement *placements, unsigned int count)
{
	char size[PLACEMENT_SIZE_TEXT];

	for (unsigned int i = 0; i < count; i++) {
		const struct placement *placement = &placements[i];

		placement_size_text(size, placement->bytes);
		qemu_debug("block %s (%s): %s%s%s", placement->name, size,
			   placement_kind_name(placement->kind),
			   placement->reason[0] == '\0' ? "" : ": ", placement->reason);
	}
}

int placement_find(const struct qemu_process *process, struct qmp *qmp, enum placement_wish wish,
		   const struct placement_block *blocks, unsigned int count, struct placement *out)
{
	struct search search = {.blocks = blocks, .blocks_count = count};
	int status = 0;

	for (unsigned int i = 0; i < count; i++) {
		out[i] = (struct placement){
			.bytes = blocks[i].bytes, .pid = process->pid, .file = -1};
		snprintf(out[i].name, sizeof(out[i].name), "%s", blocks[i].name);
		forward(&out[i], wish == PLACEMENT_WISH_FORWARD
					 ? "as wished"
					 : "QEMU's memory is not accessible: run as its user, or "
					   "with CAP_SYS_PTRACE");
	}
	if (wish == PLACEMENT_WISH_FORWARD || !process->accessible)
		return 0;
	search.mappings = calloc(MAPPINGS_MAX, sizeof(*search.mappings));
	search.addresses = calloc(count + 1, sizeof(*search.addresses));
	if (search.mappings == NULL || search.addresses == NULL)
		status = -ENOMEM;
	else
		status = find_all(process, qmp, wish, &search, out);
	if (status < 0)
		placement_release(out, count);
	else
		log_placements(out, count);
	free(search.mappings);
	free(search.addresses);
	return status;
}
