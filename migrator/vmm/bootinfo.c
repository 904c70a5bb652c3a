/* SPDX-License-Identifier: MIT */
/*
 * The multiboot information: one block with the structure, the memory map, the module table and all
 * strings, in this order.
 */
#include <assert.h>
#include <string.h>

#include "bootinfo.h"

#define INFO_MEMORY	 0x1u
#define INFO_COMMANDLINE 0x4u
#define INFO_MODULES	 0x8u
#define INFO_MMAP	 0x40u
#define INFO_LOADER_NAME 0x200u

#define RANGE_AVAILABLE 1u
#define RANGE_RESERVED	2u
#define RANGES_MAX	5u

#define BIOS_START 0xf0000ull
#define HIGH_START 0x100000000ull
#define APIC_START 0xfec00000ull /* IOAPIC, LAPIC and what KVM keeps below 4 GiB */

static const char loader_name[] = "vmferry";

struct info {
	uint32_t flags;
	uint32_t mem_lower;
	uint32_t mem_upper;
	uint32_t boot_device;
	uint32_t cmdline;
	uint32_t mods_count;
	uint32_t mods_addr;
	uint32_t syms[4];
	uint32_t mmap_length;
	uint32_t mmap_addr;
	uint32_t drives_length;
	uint32_t drives_addr;
	uint32_t config_table;
	uint32_t boot_loader_name;
	uint32_t apm_table;
	uint32_t vbe[4];
};
static_assert(offsetof(struct info, mmap_length) == 44, "multiboot information");
static_assert(offsetof(struct info, boot_loader_name) == 64, "multiboot information");

struct __attribute__((packed)) range {
	uint32_t size; /* of what follows */
	uint64_t start;
	uint64_t length;
	uint32_t type;
};
static_assert(sizeof(struct range) == 24, "multiboot memory map");

struct module {
	uint32_t start;
	uint32_t end;
	uint32_t string;
	uint32_t reserved;
};
static_assert(sizeof(struct module) == 16, "multiboot module");

static unsigned int memory_map(const struct loader_memory *memory, struct range *ranges)
{
	const struct range map[RANGES_MAX] = {
		{20, 0, LOADER_BASE_END, RANGE_AVAILABLE},
		{20, BIOS_START, LOADER_EXTENDED - BIOS_START, RANGE_RESERVED},
		{20, LOADER_EXTENDED, memory->low_size - LOADER_EXTENDED, RANGE_AVAILABLE},
		{20, APIC_START, HIGH_START - APIC_START, RANGE_RESERVED},
		{20, HIGH_START, memory->high_size, RANGE_AVAILABLE},
	};

	memcpy(ranges, map, sizeof(map));
	return memory->high_size ? RANGES_MAX : RANGES_MAX - 1;
}

uint64_t bootinfo_size(const struct loader_image *image)
{
	uint64_t size = sizeof(struct info) + RANGES_MAX * sizeof(struct range) +
			image->module_count * sizeof(struct module) + sizeof(loader_name) +
			strlen(image->command_line) + 1;

	for (unsigned int i = 0; i < image->module_count; i++)
		size += strlen(image->modules[i].string) + 1;
	return size;
}

/* Copies and returns the guest's address of the copy; *@at moves on. */
static uint32_t put(const struct loader_memory *memory, uint32_t *at, const void *data, size_t size)
{
	uint32_t where = *at;

	memcpy(memory->low + where, data, size);
	*at += (uint32_t)size;
	return where;
}

static uint32_t put_string(const struct loader_memory *memory, uint32_t *at, const char *string)
{
	return put(memory, at, string, strlen(string) + 1);
}

static void put_modules(const struct loader_memory *memory, const struct loader_image *image,
			const uint32_t *addresses, uint32_t table, uint32_t *at)
{
	for (unsigned int i = 0; i < image->module_count; i++) {
		struct module m = {
			.start = addresses[i],
			.end = addresses[i] + (uint32_t)image->modules[i].size,
		};
		uint32_t slot = table + i * (uint32_t)sizeof(m);

		m.string = put_string(memory, at, image->modules[i].string);
		put(memory, &slot, &m, sizeof(m));
	}
}

void bootinfo_write(const struct loader_memory *memory, const struct loader_image *image,
		    const uint32_t *modules, uint32_t at)
{
	struct range ranges[RANGES_MAX];
	unsigned int count = memory_map(memory, ranges);
	uint32_t next = at + (uint32_t)sizeof(struct info);
	struct info info = {
		.flags = INFO_MEMORY | INFO_COMMANDLINE | INFO_MODULES | INFO_MMAP |
			 INFO_LOADER_NAME,
		.mem_lower = LOADER_BASE_END / 1024,
		.mem_upper = (uint32_t)((memory->low_size - LOADER_EXTENDED) / 1024),
		.mods_count = image->module_count,
		.mmap_length = count * (uint32_t)sizeof(struct range),
	};

	info.mmap_addr = put(memory, &next, ranges, count * sizeof(struct range));
	info.mods_addr = next;
	next += image->module_count * (uint32_t)sizeof(struct module);
	put_modules(memory, image, modules, info.mods_addr, &next);
	info.cmdline = put_string(memory, &next, image->command_line);
	info.boot_loader_name = put_string(memory, &next, loader_name);
	put(memory, &at, &info, sizeof(info));
}
