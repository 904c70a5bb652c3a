/* SPDX-License-Identifier: MIT */
/*
 * What a multiboot (version 1) loader leaves behind, as far as the guest reads it.
 */
#ifndef GUEST_MULTIBOOT_H
#define GUEST_MULTIBOOT_H

#include <stdint.h>

#define MULTIBOOT_LOADER_MAGIC 0x2badb002

#define MULTIBOOT_HAS_MEMORY	   (1u << 0)
#define MULTIBOOT_HAS_COMMAND_LINE (1u << 2)
#define MULTIBOOT_HAS_MAP	   (1u << 6)

#define MULTIBOOT_MAP_RAM 1

struct multiboot_info {
	uint32_t flags;
	uint32_t memory_lower, memory_upper; /* KiB */
	uint32_t boot_device;
	uint32_t command_line;
	uint32_t module_count, modules;
	uint32_t symbols[4];
	uint32_t map_length, map;
};

struct multiboot_map_entry {
	uint32_t size; /* of what follows */
	uint64_t base, length;
	uint32_t type;
} __attribute__((packed));

#endif
