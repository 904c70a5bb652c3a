/* SPDX-License-Identifier: MIT */
/*
 * Which memory the guest fills: pages are numbered from 0 over all of it, in the order of their
 * addresses. And the version tables, which say what each of them must hold.
 */
#ifndef GUEST_MEMORY_H
#define GUEST_MEMORY_H

#include <stdbool.h>
#include <stdint.h>

#define VERSION_CLEAR (1u << 31) /* the page has been all zero since this version */

/*
 * Ring 0: reads the memory map, maps what lies above 4 GiB. Copies @size - 1 bytes of the command
 * line first.
 */
struct multiboot_info;
void memory_read_command_line(const struct multiboot_info *info, char *line, uint32_t size);
void memory_setup(const struct multiboot_info *info);

/* Chooses how much is filled, at most what there is, and places the tables. */
void memory_choose(uint64_t fill_bytes);

/* Pages to fill; bytes of RAM that the map has in all. */
uint64_t memory_pages(void);
uint64_t memory_bytes(void);

uint64_t memory_gpa(uint64_t page);

/*
 * Two copies, the second inverted, far apart: a lost or stale page of the tables shows. False if
 * they disagree; then *version and *other are what they say.
 */
bool memory_version(uint64_t page, uint32_t *version, uint32_t *other);
void memory_set_version(uint64_t page, uint32_t version);

#endif
