/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "migrator/qemu/stream.h"

#define PC72  "pc-i440fx-7.2"
#define PC80  "pc-i440fx-8.0"
#define PC81  "pc-i440fx-8.1"
#define PC82  "pc-i440fx-8.2"
#define PC90  "pc-i440fx-9.0"
#define PC92  "pc-i440fx-9.2"
#define PC100 "pc-i440fx-10.0"
#define USUAL .ram = "pc.ram", .blocks = 6

const struct golden goldens[] = {
	{.name = "7.2-pc-7.2", .machine = PC72, USUAL},
	{.name = "7.2-pc-7.2-return-path", .machine = PC72, USUAL, .return_path = true},
	{.name = "7.2-pc-7.2-xbzrle", .machine = PC72, USUAL, .also = STREAM_FLAG_XBZRLE},
	{.name = "7.2-pc-7.2-compress", .machine = PC72, USUAL, .also = STREAM_FLAG_COMPRESS},
	{.name = "7.2-pc-7.2-postcopy",
	 .machine = PC72,
	 .ram = "pc.ram",
	 .reason = "postcopy-ram",
	 .blocks = 0,
	 .return_path = true},
	{.name = "7.2-pc-7.2-bitmaps",
	 .machine = PC72,
	 .ram = "pc.ram",
	 .reason = "section 'dirty-bitmap'",
	 .blocks = 6},
	{.name = "7.2-pc-7.2-shared",
	 .machine = PC72,
	 .ram = "m",
	 .blocks = 6,
	 .ignore_shared = true},
	{.name = "7.2-pc-7.2-uuid", .machine = PC72, USUAL},
	{.name = "7.2-pc-7.2-multifd", .machine = PC72, USUAL, .multifd = true},
	{.name = "7.2-pc-7.2-multifd-zlib",
	 .machine = PC72,
	 USUAL,
	 .multifd = true,
	 .compressed = true},
	{.name = "7.2-pc-7.2-multifd-zstd",
	 .machine = PC72,
	 USUAL,
	 .multifd = true,
	 .compressed = true},
	{.name = "7.2-q35-7.2", .machine = "pc-q35-7.2", USUAL},
	{.name = "10.0-pc-7.2", .machine = PC72, USUAL},
	{.name = "10.0-pc-8.0", .machine = PC80, USUAL},
	{.name = "10.0-pc-8.0-multifd", .machine = PC80, USUAL, .multifd = true},
	{.name = "10.0-pc-8.1-multifd", .machine = PC81, USUAL, .multifd = true, .flushes = true},
	{.name = "10.0-pc-8.2", .machine = PC82, USUAL},
	{.name = "10.0-pc-8.2-multifd", .machine = PC82, USUAL, .multifd = true, .flushes = true},
	{.name = "10.0-pc-9.0-multifd", .machine = PC90, USUAL, .multifd = true, .flushes = true},
	{.name = "10.0-pc-9.2", .machine = PC92, USUAL},
	{.name = "10.0-pc-10.0", .machine = PC100, USUAL, .switchover_start = true},
	{.name = "10.0-pc-10.0-return-path",
	 .machine = PC100,
	 USUAL,
	 .return_path = true,
	 .switchover_start = true},
	{.name = "10.0-pc-10.0-xbzrle",
	 .machine = PC100,
	 USUAL,
	 .switchover_start = true,
	 .also = STREAM_FLAG_XBZRLE},
	{.name = "10.0-pc-10.0-postcopy",
	 .machine = PC100,
	 .ram = "pc.ram",
	 .reason = "postcopy-ram",
	 .blocks = 0,
	 .return_path = true},
	{.name = "10.0-pc-10.0-bitmaps",
	 .machine = PC100,
	 .ram = "pc.ram",
	 .reason = "section 'dirty-bitmap'",
	 .blocks = 6},
	{.name = "10.0-pc-10.0-multifd",
	 .machine = PC100,
	 USUAL,
	 .return_path = true,
	 .switchover_start = true,
	 .multifd = true,
	 .flushes = true},
	{.name = "10.0-pc-10.0-multifd-zlib",
	 .machine = PC100,
	 USUAL,
	 .switchover_start = true,
	 .multifd = true,
	 .compressed = true,
	 .flushes = true},
	{.name = "10.0-pc-10.0-multifd-zstd",
	 .machine = PC100,
	 USUAL,
	 .switchover_start = true,
	 .multifd = true,
	 .compressed = true,
	 .flushes = true},
	{.name = "10.0-pc-10.0-virtio-mem",
	 .machine = PC100,
	 .ram = "m",
	 .reason = "section '0000:00:02.0/virtio-mem-device-early'",
	 .blocks = 7},
	{.name = "10.0-pc-10.0-numa",
	 .machine = PC100,
	 .ram = "left",
	 .blocks = 7,
	 .switchover_start = true},
	{.name = "10.0-pc-10.0-mapped-ram",
	 .machine = PC100,
	 .ram = "pc.ram",
	 .reason = "capability 'mapped-ram'",
	 .blocks = 0},
	{.name = "10.0-q35-10.0", .machine = "pc-q35-10.0", USUAL, .switchover_start = true},
};
const size_t golden_count = sizeof(goldens) / sizeof(goldens[0]);

uint8_t *golden_read(const struct golden *g, const char *file, size_t *length)
{
	char path[4096];
	uint8_t *data;
	long bytes;
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s/%s", STREAMS, g->name, file);
	f = fopen(path, "rb");
	cr_assert_not_null(f, "%s", path);
	cr_assert(fseek(f, 0, SEEK_END) == 0 && (bytes = ftell(f)) >= 0);
	rewind(f);
	*length = (size_t)bytes;
	data = malloc(*length + 1);
	cr_assert_not_null(data);
	cr_assert_eq(fread(data, 1, *length, f), *length);
	fclose(f);
	return data;
}

void golden_expect_page(const struct golden *g, struct golden_memory *m, const char *block,
			uint64_t offset, const uint8_t *page)
{
	uint64_t number = (offset - GOLDEN_PAGES_AT) / GOLDEN_PAGE_SIZE;
	uint32_t counter;

	if (strcmp(block, g->ram) != 0 || offset < GOLDEN_PAGES_AT || number >= GOLDEN_PAGES)
		return;
	for (size_t i = 0; i < GOLDEN_PAGE_SIZE; i++)
		cr_assert(page[i] == 0 ||
				  i / sizeof(counter) == GOLDEN_COUNTER_AT / sizeof(counter),
			  "%s: page %#jx has %#x at %zu", g->name, (uintmax_t)offset, page[i], i);
	memcpy(&counter, page + GOLDEN_COUNTER_AT, sizeof(counter));
	counter = le32toh(counter);
	cr_assert_geq(counter, m->counter[number], "%s: page %#jx goes back", g->name,
		      (uintmax_t)offset);
	m->counter[number] = counter;
	m->times[number]++;
}

void golden_expect_stopped(const struct golden *g, const struct golden_memory *m)
{
	for (size_t i = 0; i < GOLDEN_PAGES; i++) {
		cr_assert_gt(m->times[i], 0, "%s: page %zu", g->name, i);
		cr_assert_leq(m->counter[i], m->counter[i > 0 ? i - 1 : 0], "%s: page %zu", g->name,
			      i);
	}
	cr_assert_leq(m->counter[0] - m->counter[GOLDEN_PAGES - 1], 1, "%s", g->name);
}
