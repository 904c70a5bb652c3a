/* SPDX-License-Identifier: MIT */
/* Modules and the boot information, read back as a guest would. */
#include <criterion/criterion.h>
#include <errno.h>

#include "image.h"
#include "quiet.h"

TestSuite(bootinfo, .init = quiet, .timeout = 300);

static uint32_t word(const struct loader_memory *m, uint32_t at)
{
	uint32_t v;

	cr_assert_lt(at, LOW_BYTES - 4);
	memcpy(&v, m->low + at, sizeof(v));
	return v;
}

static const char *text(const struct loader_memory *m, uint32_t at)
{
	cr_assert_lt(at, LOW_BYTES);
	cr_assert(memchr(m->low + at, 0, LOW_BYTES - at));
	return (const char *)m->low + at;
}

Test(bootinfo, plain_image__says_memory_command_line_and_map)
{
	struct flat_image image = flat_image();
	struct loader_memory m;
	struct loader_entry e;
	uint64_t start, length;
	uint32_t map;

	cr_assert_eq(load_into(&m, &image, sizeof(image), NULL, 0, &e), 0);
	cr_assert_eq(word(&m, e.ebx) & 0x24d, 0x24d);
	cr_assert_eq(word(&m, e.ebx + 4), 639);
	cr_assert_eq(word(&m, e.ebx + 8), LOW_BYTES / 1024 - 1024);
	cr_assert_str_eq(text(&m, word(&m, e.ebx + 16)), "alpha beta=1");
	cr_assert_eq(word(&m, e.ebx + 20), 0);
	cr_assert_eq(word(&m, e.ebx + 44) % 24, 0);
	cr_assert_str_eq(text(&m, word(&m, e.ebx + 64)), "vmferry");
	map = word(&m, e.ebx + 48) + 2 * 24;
	cr_assert_eq(word(&m, map), 20);
	memcpy(&start, m.low + map + 4, 8);
	memcpy(&length, m.low + map + 12, 8);
	cr_assert_eq(start, 0x100000);
	cr_assert_eq(start + length, LOW_BYTES);
	cr_assert_eq(word(&m, map + 20), 1);
	free(m.low);
}

Test(bootinfo, modules__page_aligned_behind_the_image_with_their_strings)
{
	struct flat_image image = flat_image();
	struct loader_module modules[2] = {
		{.string = "one.bin a b", .data = "first", .size = 5},
		{.string = "two.bin", .data = "second!", .size = 7},
	};
	struct loader_memory m;
	struct loader_entry e;
	uint32_t table;

	cr_assert_eq(load_into(&m, &image, sizeof(image), modules, 2, &e), 0);
	cr_assert_eq(word(&m, e.ebx + 20), 2);
	table = word(&m, e.ebx + 24);
	for (uint32_t i = 0; i < 2; i++) {
		uint32_t start = word(&m, table + 16 * i);
		uint32_t end = word(&m, table + 16 * i + 4);

		cr_assert_eq(start % 4096, 0);
		cr_assert_geq(start, IMAGE_BASE + 4096, "behind the bss");
		cr_assert_eq(end - start, modules[i].size);
		cr_assert_arr_eq(m.low + start, modules[i].data, modules[i].size);
		cr_assert_str_eq(text(&m, word(&m, table + 16 * i + 8)), modules[i].string);
	}
	free(m.low);
}

Test(bootinfo, module_too_large__refused)
{
	struct flat_image image = flat_image();
	struct loader_module module = {
		.string = "big", .data = calloc(1, LOW_BYTES), .size = LOW_BYTES};
	struct loader_memory m;
	struct loader_entry e;

	cr_assert_eq(load_into(&m, &image, sizeof(image), &module, 1, &e), -ENOEXEC);
	cr_assert_neq(said("does not fit"), false);
	free((void *)module.data);
	free(m.low);
}

Test(bootinfo, image_in_low_memory__information_goes_behind)
{
	struct flat_image image = flat_image();
	struct loader_memory m;
	struct loader_entry e;

	image.header.header_addr = 0x10000;
	image.header.load_addr = 0x10000;
	image.header.load_end_addr = 0x10000 + sizeof(image);
	image.header.bss_end_addr = 0x20000;
	image.header.entry_addr = 0x10020;
	cr_assert_eq(load_into(&m, &image, sizeof(image), NULL, 0, &e), 0);
	cr_assert_geq(e.ebx, 0x100000);
	cr_assert_arr_eq(m.low + 0x10000, &image, sizeof(image));
	free(m.low);
}
