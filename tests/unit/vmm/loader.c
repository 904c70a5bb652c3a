/* SPDX-License-Identifier: MIT */
/* The loader against images that are right, and wrong in one thing at a time. */
#include <criterion/criterion.h>
#include <criterion/new/assert.h>
#include <errno.h>

#include "image.h"
#include "quiet.h"

TestSuite(loader, .init = quiet, .timeout = 300);

static void spoiled_flat(const struct flat_image *image, const char *reason)
{
	cr_assert_eq(load_result(image, sizeof(*image)), -ENOEXEC, "%s", reason);
	cr_assert_neq(said(reason), false, "no '%s' in '%s'", reason, last_line());
}

static void spoiled_elf(const struct elf_image *image, const char *reason)
{
	cr_assert_eq(load_result(image, sizeof(*image)), -ENOEXEC, "%s", reason);
	cr_assert_neq(said(reason), false, "no '%s' in '%s'", reason, last_line());
}

Test(loader, elf32__segments_at_physical_addresses_and_bss_zeroed)
{
	struct elf_image image = elf_image();
	struct loader_memory memory;
	struct loader_entry entry;

	cr_assert_eq(load_into(&memory, &image, sizeof(image), NULL, 0, &entry), 0);
	cr_assert_arr_eq(memory.low + IMAGE_BASE, &image.magic, 64);
	cr_assert_arr_eq(memory.low + IMAGE_BASE + 0x100000, image.data, sizeof(image.data));
	for (unsigned int i = 32; i < 8192; i++)
		cr_assert_eq(memory.low[IMAGE_BASE + 0x100000 + i], 0);
	cr_assert_eq(memory.low[IMAGE_BASE + 0x100000 + 8192], 0xee);
	cr_assert_eq(entry.eip, IMAGE_BASE + 12, "the entry is translated to physical");
	free(memory.low);
}

Test(loader, address_fields__one_range_and_bss)
{
	struct flat_image image = flat_image();
	struct loader_memory memory;
	struct loader_entry entry;

	cr_assert_eq(load_into(&memory, &image, sizeof(image), NULL, 0, &entry), 0);
	cr_assert_arr_eq(memory.low + IMAGE_BASE, &image, sizeof(image));
	cr_assert_eq(memory.low[IMAGE_BASE + sizeof(image)], 0);
	cr_assert_eq(memory.low[IMAGE_BASE + 4095], 0);
	cr_assert_eq(memory.low[IMAGE_BASE + 4096], 0xee);
	cr_assert_eq(entry.eip, IMAGE_BASE + sizeof(struct mb_header));
	free(memory.low);
}

Test(loader, address_fields_with_zero_ends__whole_file_no_bss)
{
	struct flat_image image = flat_image();
	struct loader_memory memory;
	struct loader_entry entry;

	image.header.load_end_addr = 0;
	image.header.bss_end_addr = 0;
	cr_assert_eq(load_into(&memory, &image, sizeof(image), NULL, 0, &entry), 0);
	cr_assert_eq(memory.low[IMAGE_BASE + sizeof(image) - 1], 0x5a);
	cr_assert_eq(memory.low[IMAGE_BASE + sizeof(image)], 0xee);
	free(memory.low);
}

Test(loader, truncated_anywhere__refused)
{
	struct flat_image flat = flat_image();
	struct elf_image elf = elf_image();

	/* A copy of just these bytes, so that a sanitizer sees a read behind them. */
	for (size_t n = 0; n < sizeof(flat); n++) {
		void *cut = memcpy(malloc(n + 1), &flat, n);

		cut = realloc(cut, n ? n : 1);
		cr_assert_eq(load_result(cut, n), -ENOEXEC, "flat, %zu bytes", n);
		free(cut);
	}
	for (size_t n = 0; n < sizeof(elf); n++) {
		void *cut = memcpy(malloc(n + 1), &elf, n);

		cut = realloc(cut, n ? n : 1);
		cr_assert_eq(load_result(cut, n), -ENOEXEC, "elf, %zu bytes", n);
		free(cut);
	}
}

Test(loader, every_byte_spoiled__never_outside_memory)
{
	struct elf_image elf = elf_image();
	struct flat_image flat = flat_image();

	/* Whether it loads does not matter here: a sanitizer watches. */
	for (size_t i = 0; i < sizeof(elf); i++) {
		struct elf_image bad = elf;

		((uint8_t *)&bad)[i] ^= 0xff;
		load_result(&bad, sizeof(bad));
	}
	for (size_t i = 0; i < sizeof(flat); i++) {
		struct flat_image bad = flat;

		((uint8_t *)&bad)[i] ^= 0xff;
		load_result(&bad, sizeof(bad));
	}
}

Test(loader, header__missing_or_wrong__refused)
{
	struct flat_image image = flat_image();

	image.header.checksum++;
	spoiled_flat(&image, "no multiboot header");
	image = flat_image();
	image.header.magic = 0;
	spoiled_flat(&image, "no multiboot header");
	image = flat_image();
	image.header.flags |= 0x8;
	seal(&image.header);
	spoiled_flat(&image, "flags 0x8");
}

Test(loader, header_past_8k__refused)
{
	struct flat_image image = flat_image();
	uint8_t *data = calloc(1, 8192 + sizeof(image));

	memcpy(data + 8192, &image, sizeof(image));
	cr_assert_eq(load_result(data, 8192 + sizeof(image)), -ENOEXEC);
	/* Far in, but whole. */
	image.header.load_addr = IMAGE_BASE;
	image.header.header_addr = IMAGE_BASE + 8192 - sizeof(image.header);
	image.header.load_end_addr = 0;
	image.header.bss_end_addr = 0;
	memcpy(data + 8192 - sizeof(image.header), &image, sizeof(image));
	cr_assert_eq(load_result(data, 8192 + sizeof(image)), 0);
	free(data);
}

Test(loader, video_flag__loads_with_a_warning)
{
	struct flat_image image = flat_image();

	image.header.flags |= 0x4;
	seal(&image.header);
	cr_assert_eq(load_result(&image, sizeof(image)), 0);
	cr_assert_neq(said("video"), false);
}

Test(loader, address_fields__that_lie__refused)
{
	struct flat_image image = flat_image();

	image.header.load_addr = IMAGE_BASE + 4096;
	spoiled_flat(&image, "does not fit its header");
	image = flat_image();
	image.header.load_addr = IMAGE_BASE - 4096;
	spoiled_flat(&image, "does not fit its header");
	image = flat_image();
	image.header.load_end_addr = 0xfffffff0u;
	spoiled_flat(&image, "past the end of the file");
	image = flat_image();
	image.header.bss_end_addr = IMAGE_BASE + 4;
	spoiled_flat(&image, "before its data");
	image = flat_image();
	image.header.bss_end_addr = 0xffffffffu;
	spoiled_flat(&image, "it needs memory at");
	image = flat_image();
	image.header.entry_addr = 0x50;
	spoiled_flat(&image, "entry point");
}

Test(loader, memory__outside_or_not_promised__refused)
{
	struct elf_image image = elf_image();

	image.segment[1].p_paddr = LOW_BYTES - 4096;
	spoiled_elf(&image, "it needs memory at");
	image = elf_image();
	image.segment[1].p_paddr = 0xfffff000u;
	spoiled_elf(&image, "it needs memory at");
	image = elf_image();
	image.segment[1].p_paddr = 0xb8000u;
	spoiled_elf(&image, "no memory is promised");
	image = elf_image();
	image.segment[1].p_paddr = IMAGE_BASE + 32;
	spoiled_elf(&image, "overlap");
}

Test(loader, elf__of_another_kind__refused_with_the_remedy)
{
	struct elf_image image = elf_image();

	image.elf.e_ident[EI_CLASS] = ELFCLASS64;
	spoiled_elf(&image, "elf32-i386");
	image = elf_image();
	image.elf.e_machine = EM_ARM;
	spoiled_elf(&image, "not for the i386");
	image = elf_image();
	image.elf.e_type = ET_DYN;
	spoiled_elf(&image, "not an executable");
	image = elf_image();
	image.elf.e_phoff = 0xffffffffu;
	spoiled_elf(&image, "outside the file");
	image = elf_image();
	image.elf.e_phnum = 0xffff;
	spoiled_elf(&image, "outside the file");
	image = elf_image();
	image.elf.e_ident[0] = 0;
	spoiled_elf(&image, "neither ELF");
}

Test(loader, segment__that_lies__refused)
{
	struct elf_image image = elf_image();

	image.segment[0].p_filesz = 65;
	spoiled_elf(&image, "more bytes in the file");
	image = elf_image();
	image.segment[1].p_offset = 0xffffff00u;
	spoiled_elf(&image, "lies outside the file");
	image = elf_image();
	image.elf.e_entry = 0x12345678;
	spoiled_elf(&image, "entry point");
}
