/* SPDX-License-Identifier: MIT */
/*
 * Synthetic multiboot images, whose every field a test can spoil, and a small memory to load them
 * into.
 */
#ifndef TEST_VMM_IMAGE_H
#define TEST_VMM_IMAGE_H

#include <elf.h>
#include <stdlib.h>
#include <string.h>

#include "migrator/vmm/loader.h"

#define MB_MAGIC     0x1badb002u
#define MB_ADDRESSES 0x10000u

#define IMAGE_BASE 0x100000u
#define LOW_BYTES  (4u << 20)

struct mb_header {
	uint32_t magic;
	uint32_t flags;
	uint32_t checksum;
	uint32_t header_addr;
	uint32_t load_addr;
	uint32_t load_end_addr;
	uint32_t bss_end_addr;
	uint32_t entry_addr;
};

/* Header first, then payload; everything is loaded at IMAGE_BASE. */
struct flat_image {
	struct mb_header header;
	uint8_t payload[64];
};

static inline void seal(struct mb_header *h)
{
	h->checksum = 0u - h->magic - h->flags;
}

static inline struct flat_image flat_image(void)
{
	struct flat_image i = {
		.header =
			{
				.magic = MB_MAGIC,
				.flags = MB_ADDRESSES,
				.header_addr = IMAGE_BASE,
				.load_addr = IMAGE_BASE,
				.load_end_addr = IMAGE_BASE + sizeof(struct flat_image),
				.bss_end_addr = IMAGE_BASE + 4096,
				.entry_addr = IMAGE_BASE + sizeof(struct mb_header),
			},
	};

	seal(&i.header);
	memset(i.payload, 0x5a, sizeof(i.payload));
	return i;
}

/* Two segments: the first has the header, the second some data and bss. */
struct elf_image {
	Elf32_Ehdr elf;
	Elf32_Phdr segment[2];
	uint32_t magic;
	uint32_t flags;
	uint32_t checksum;
	uint8_t text[52];
	uint8_t data[32];
};

static inline struct elf_image elf_image(void)
{
	struct elf_image i = {
		.elf =
			{
				.e_ident = {ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32,
					    ELFDATA2LSB, EV_CURRENT},
				.e_type = ET_EXEC,
				.e_machine = EM_386,
				.e_version = EV_CURRENT,
				.e_entry = 0xc0100000u + 12,
				.e_phoff = offsetof(struct elf_image, segment),
				.e_ehsize = sizeof(Elf32_Ehdr),
				.e_phentsize = sizeof(Elf32_Phdr),
				.e_phnum = 2,
			},
		.segment =
			{
				{
					.p_type = PT_LOAD,
					.p_offset = offsetof(struct elf_image, magic),
					.p_vaddr = 0xc0100000u,
					.p_paddr = IMAGE_BASE,
					.p_filesz = 64,
					.p_memsz = 64,
				},
				{
					.p_type = PT_LOAD,
					.p_offset = offsetof(struct elf_image, data),
					.p_vaddr = 0xc0200000u,
					.p_paddr = IMAGE_BASE + 0x100000u,
					.p_filesz = 32,
					.p_memsz = 8192,
				},
			},
		.magic = MB_MAGIC,
		.checksum = 0u - MB_MAGIC,
	};

	memset(i.text, 0x11, sizeof(i.text));
	memset(i.data, 0x22, sizeof(i.data));
	return i;
}

/* Loads into fresh memory that is full of 0xee; the caller frees memory->low. */
static inline int load_into(struct loader_memory *memory, const void *data, size_t size,
			    const struct loader_module *modules, unsigned int module_count,
			    struct loader_entry *entry)
{
	struct loader_image image = {
		.name = "synthetic",
		.data = data,
		.size = size,
		.command_line = "alpha beta=1",
		.modules = modules,
		.module_count = module_count,
	};

	*memory = (struct loader_memory){.low = malloc(LOW_BYTES), .low_size = LOW_BYTES};
	memset(memory->low, 0xee, LOW_BYTES);
	return loader_load(memory, &image, entry);
}

/* The same, when only the result matters. */
static inline int load_result(const void *data, size_t size)
{
	struct loader_memory memory;
	struct loader_entry entry;
	int err = load_into(&memory, data, size, NULL, 0, &entry);

	free(memory.low);
	return err;
}

#endif
