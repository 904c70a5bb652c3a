/* SPDX-License-Identifier: MIT */
/*
 * The multiboot information that a guest finds through EBX, and the PC's memory map that it
 * describes.
 */
#ifndef VMM_BOOTINFO_H
#define VMM_BOOTINFO_H

#include "loader.h"

#define LOADER_INFO 0x10000ull /* the boot information, if the image leaves it free */
#define LOADER_BASE_END \
	0x9fc00ull /* conventional memory ends where a PC has its extended BIOS data */
#define LOADER_EXTENDED	   0x100000ull /* memory goes on at 1 MiB */
#define LOADER_MODULES_MAX 64u

#define LOADER_PAGE 4096ull

static inline uint64_t loader_page_up(uint64_t address)
{
	return (address + LOADER_PAGE - 1) & ~(LOADER_PAGE - 1);
}

/* Bytes that bootinfo_write() needs. */
uint64_t bootinfo_size(const struct loader_image *image);

/* Writes it at @at; @modules are the modules' addresses. The caller has checked that it fits. */
void bootinfo_write(const struct loader_memory *memory, const struct loader_image *image,
		    const uint32_t *modules, uint32_t at);

#endif
