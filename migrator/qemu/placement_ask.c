/* SPDX-License-Identifier: MIT */
/*
 * QEMU has no QMP command for a block's address. Its human monitor tells it: since 8.0 in a column
 * of "info ramblock"; before, "info mtree -f" has a guest-physical address of the block, and
 * "gpa2hva" translates that.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmferry/vmferry.h>

#include "placement_parts.h"
#include "qmp.h"

#define ASK_NS	       5000000000U
#define LINE_MAX_BYTES 64
#define NAME_SCAN      "%255s"

/* The line behind this one; NULL: there is none. */
static const char *next_line(const char *line)
{
	const char *end = strchr(line, '\n');

	return end == NULL || end[1] == '\0' ? NULL : end + 1;
}

uint64_t placement_ramblock_address(const char *text, const char *name)
{
	char found[PLACEMENT_NAME_MAX];
	uint64_t address;

	if (strstr(text, " HVA") == NULL)
		return 0;
	for (const char *line = next_line(text); line != NULL; line = next_line(line))
		if (sscanf(line, " " NAME_SCAN " %*s %*s %*x %*x %*x %" SCNx64, found, &address) ==
			    2 &&
		    strcmp(found, name) == 0)
			return address;
	return 0;
}

/* Whether the text goes on with @name, and then with a space or the end of the line. */
static bool names(const char *text, const char *name)
{
	const size_t length = strlen(name);

	return strncmp(text, name, length) == 0 && strchr(" \r\n", text[length]) != NULL;
}

/*
 * " START-END (prio N, ram): NAME[ @OFFSET]": the block's memory at the guest-physical address
 * START.
 */
static bool parse_range(const char *line, const char *name, uint64_t *gpa, uint64_t *offset)
{
	int read = 0;

	if (sscanf(line, " %" SCNx64 "-%*x (prio %*d, ram): %n", gpa, &read) != 1 || read == 0 ||
	    !names(line + read, name))
		return false;
	if (sscanf(line + read + strlen(name), " @%" SCNx64, offset) != 1)
		*offset = 0;
	return true;
}

/*
 * A view belongs to one address space or to several, listed above it. Only "memory" is what gpa2hva
 * knows.
 */
bool placement_mtree_find(const char *text, const char *name, uint64_t *gpa, uint64_t *offset)
{
	bool memory = false;

	for (const char *line = text; line != NULL; line = next_line(line)) {
		if (strncmp(line, "FlatView", 8) == 0)
			memory = false;
		else if (strncmp(line, " AS \"memory\"", 12) == 0)
			memory = true;
		else if (memory && parse_range(line, name, gpa, offset))
			return true;
	}
	return false;
}

uint64_t placement_gpa2hva_address(const char *text, const char *name)
{
	char found[PLACEMENT_NAME_MAX];
	uint64_t address;

	if (sscanf(text, "Host virtual address for %*s (%255[^)]) is %" SCNx64, found, &address) !=
		    2 ||
	    strcmp(found, name) != 0)
		return 0;
	return address;
}

static uint64_t translate(struct qmp *qmp, const char *tree, const char *name, uint64_t deadline)
{
	char line[LINE_MAX_BYTES];
	uint64_t address;
	uint64_t offset;
	uint64_t gpa;
	char *text;

	if (!placement_mtree_find(tree, name, &gpa, &offset))
		return 0;
	snprintf(line, sizeof(line), "gpa2hva 0x%" PRIx64, gpa);
	if (qmp_hmp(qmp, line, deadline, &text) < 0)
		return 0;
	address = placement_gpa2hva_address(text, name);
	free(text);
	return address > offset ? address - offset : 0;
}

/* Whether there is anything left to ask for. */
static bool missing(const struct placement_block *blocks, unsigned int count,
		    const uint64_t *addresses)
{
	for (unsigned int i = 0; i < count; i++)
		if (addresses[i] == 0 && placement_unplaceable(&blocks[i]) == NULL)
			return true;
	return false;
}

void placement_ask(struct qmp *qmp, const struct placement_block *blocks, unsigned int count,
		   uint64_t *addresses)
{
	const uint64_t deadline = vmferry_now() + ASK_NS;
	char *text;

	memset(addresses, 0, count * sizeof(*addresses));
	if (qmp_hmp(qmp, "info ramblock", deadline, &text) < 0)
		return;
	for (unsigned int i = 0; i < count; i++)
		addresses[i] = placement_ramblock_address(text, blocks[i].name);
	free(text);
	if (!missing(blocks, count, addresses) ||
	    qmp_hmp(qmp, "info mtree -f", deadline, &text) < 0)
		return;
	for (unsigned int i = 0; i < count; i++)
		if (addresses[i] == 0 && placement_unplaceable(&blocks[i]) == NULL)
			addresses[i] = translate(qmp, text, blocks[i].name, deadline);
	free(text);
}
