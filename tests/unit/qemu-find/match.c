/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fixture.h"
#include "migrator/qemu/placement_parts.h"

#define AT 0x7f0000000000

static struct process_mapping list[FIXTURE_MAPPINGS];
static char reason[PLACEMENT_REASON_MAX];

static struct placement_block block(const char *name, uint64_t bytes)
{
	struct placement_block new = {.bytes = bytes};

	snprintf(new.name, sizeof(new.name), "%s", name);
	return new;
}

static bool placeable(const char *name, uint64_t bytes)
{
	const struct placement_block one = block(name, bytes);

	return placement_unplaceable(&one) == NULL;
}

Test(match, names_of_ram__may_be_placed)
{
	cr_expect(placeable("pc.ram", 64 * MIB));
	cr_expect(placeable("ram-node0", 64 * MIB));
	cr_expect(placeable("/objects/mem0", 64 * MIB));
	cr_expect(placeable("mach-virt.ram", 64 * MIB));
	cr_expect(placeable("m0", MIB));
}

Test(match, firmware_devices_and_small_blocks__may_not)
{
	cr_expect_not(placeable("/rom@etc/acpi/tables", 2 * MIB));
	cr_expect_not(placeable("0000:00:02.0/vga.vram", 16 * MIB));
	cr_expect_not(placeable("pc.bios", 4 * MIB));
	cr_expect_not(placeable("pc.rom", 4 * MIB));
	cr_expect_not(placeable("system.flash0", 4 * MIB));
	cr_expect_not(placeable("virt.flash1", 64 * MIB));
	cr_expect_not(placeable("m0", MIB - 4096));
}

static const struct process_mapping *by_size(unsigned int count, const char *name, uint64_t bytes)
{
	const struct placement_block blocks[] = {block(name, bytes), block("other", 3 * MIB)};

	reason[0] = '\0';
	return placement_by_size(list, count, blocks, 2, 0, reason);
}

Test(match, by_size__finds_the_only_one)
{
	unsigned int count = fixture_mappings("7.2-private.smaps", list);
	const struct process_mapping *found = by_size(count, "pc.ram", 1024 * MIB);

	cr_assert(found);
	cr_expect_eq(found->bytes, 1024 * MIB);
	cr_expect_not(found->shared);
	count = fixture_mappings("10.0-private.smaps", list);
	cr_expect(by_size(count, "pc.ram", 1024 * MIB));
	cr_expect_null(by_size(count, "pc.ram", 512 * MIB));
	cr_expect_str_eq(reason, "QEMU maps no memory of 512 MiB");
}

/* A thread's stack may be of the same size, and have the guard of the one above it behind it. */
Test(match, by_size__does_not_take_a_stack)
{
	const unsigned int count = fixture_mappings("7.2-private.smaps", list);
	bool stacks = false;

	for (unsigned int i = 0; i < count; i++)
		stacks |= list[i].bytes == 8 * MIB && list[i].guarded;
	cr_assert(stacks);
	cr_expect_null(by_size(count, "pc.ram", 8 * MIB));
}

Test(match, by_size__a_tie_is_not_guessed)
{
	const struct placement_block blocks[] = {block("m0", 256 * MIB), block("m1", 256 * MIB)};
	unsigned int count = fixture_mappings("7.2-memfd-nodes.smaps", list);

	cr_expect_null(placement_by_size(list, count, blocks, 2, 1, reason));
	cr_expect_str_eq(reason, "2 blocks of 256 MiB: give --qmp");
	/* One block of the stream, and two mappings. */
	cr_expect_null(by_size(count, "m0", 256 * MIB));
	cr_expect_str_eq(reason, "QEMU maps 2 times 256 MiB: give --qmp");
	/* Two blocks, and one mapping. */
	count = fixture_mappings("7.2-private.smaps", list);
	cr_expect_null(placement_by_size(
		list, count,
		(struct placement_block[]){block("a", 1024 * MIB), block("b", 1024 * MIB)}, 2, 0,
		reason));
	cr_expect_str_eq(reason, "2 blocks of 1 GiB: give --qmp");
}

Test(match, by_size__files_bear_their_blocks_names)
{
	const struct placement_block blocks[] = {block("m0", 256 * MIB), block("m1", 256 * MIB),
						 block("m", 256 * MIB)};
	const unsigned int count = fixture_mappings("10.0-file.smaps", list);
	const struct process_mapping *first = placement_by_size(list, count, blocks, 3, 0, reason);
	const struct process_mapping *second = placement_by_size(list, count, blocks, 3, 1, reason);

	cr_assert(first && second);
	cr_expect(strstr(first->path, "mem.m0.") != NULL);
	cr_expect(strstr(second->path, "mem.m1.") != NULL);
	/* The beginning of a name is not the name. */
	cr_expect_null(placement_by_size(list, count, blocks, 3, 2, reason));
}

Test(match, by_size__names_with_a_slash)
{
	list[0] = (struct process_mapping){.address = AT,
					   .bytes = 2 * MIB,
					   .dontfork = true,
					   .guarded = true,
					   .page_bytes = 4096};
	list[1] = list[0];
	list[1].address = AT + 4 * MIB;
	strcpy(list[1].path, "/mnt/qemu_back_mem._objects_m0.aB3xYz");
	cr_expect_eq(by_size(2, "/objects/m0", 2 * MIB), &list[1]);
}

Test(match, by_size__is_rounded_up_to_the_pages_of_the_file)
{
	list[0] = (struct process_mapping){.address = AT,
					   .bytes = 4 * MIB,
					   .dontfork = true,
					   .guarded = true,
					   .page_bytes = 2 * MIB};
	cr_expect_eq(by_size(1, "m0", 3 * MIB), NULL);
	cr_expect_eq(by_size(1, "m0", 3 * MIB + 4096), &list[0]);
	cr_expect_null(by_size(1, "m0", 4 * MIB + 4096));
	list[0].page_bytes = 4096;
	cr_expect_null(by_size(1, "m0", 3 * MIB + 4096));
}

/* Two areas of one block, that the kernel has split, and its guard. */
static void two_areas(void)
{
	list[0] = (struct process_mapping){
		.address = AT, .bytes = 2 * MIB, .dontfork = true, .page_bytes = 4096};
	list[1] = (struct process_mapping){.address = AT + 2 * MIB,
					   .bytes = 2 * MIB,
					   .page_bytes = 4096,
					   .dontfork = true,
					   .guarded = true};
}

Test(match, at_an_address__goes_over_split_areas)
{
	two_areas();
	cr_expect_eq(placement_at(list, 2, AT, 4 * MIB), &list[0]);
	/* Other memory may end where the block begins. */
	cr_expect_eq(placement_at(list, 2, AT + MIB, 3 * MIB), &list[0]);
}

Test(match, at_an_address__wants_all_of_it_and_the_guard)
{
	two_areas();
	cr_expect_null(placement_at(list, 2, AT, 4 * MIB + 4096));
	cr_expect_null(placement_at(list, 2, AT, 3 * MIB));
	cr_expect_null(placement_at(list, 2, AT - 4096, 4 * MIB));
	cr_expect_null(placement_at(list, 2, AT + 4 * MIB, 4096));
	cr_expect_null(placement_at(list, 0, AT, 4 * MIB));
	list[1].guarded = false;
	cr_expect_null(placement_at(list, 2, AT, 4 * MIB));
	two_areas();
	list[0].dontfork = false;
	cr_expect_null(placement_at(list, 2, AT, 4 * MIB));
	two_areas();
	list[1].inode = 7;
	cr_expect_null(placement_at(list, 2, AT, 4 * MIB));
	two_areas();
	list[1].address += 4096;
	cr_expect_null(placement_at(list, 2, AT, 4 * MIB));
}

Test(match, at_the_address_that_qemu_tells)
{
	const unsigned int count = fixture_mappings("10.0-private.smaps", list);
	char *text = fixture_text("10.0-private.ramblock");
	const uint64_t ram = placement_ramblock_address(text, "pc.ram");

	cr_assert_neq(ram, 0);
	cr_expect(placement_at(list, count, ram, 1024 * MIB));
	cr_expect_null(placement_at(list, count, ram, 512 * MIB));
	free(text);
}

Test(match, sizes_as_text)
{
	char text[PLACEMENT_SIZE_TEXT];

	placement_size_text(text, 1024 * MIB);
	cr_expect_str_eq(text, "1 GiB");
	placement_size_text(text, 1536 * MIB);
	cr_expect_str_eq(text, "1536 MiB");
	placement_size_text(text, 1000);
	cr_expect_str_eq(text, "1000 bytes");
	placement_size_text(text, 0);
	cr_expect_str_eq(text, "0 bytes");
	placement_size_text(text, UINT64_MAX);
	cr_expect_str_eq(text, "18446744073709551615 bytes");
}
