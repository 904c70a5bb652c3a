/* SPDX-License-Identifier: MIT */
/* Which streams pass, which fail, and the bounds of all fields but RAM's records. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "made.h"
#include "migrator/qemu/bytes.h"

TestSuite(stream_rules, .timeout = 60);

Test(stream_rules, shortest_stream__offloaded)
{
	struct replay *r;
	size_t count;
	const struct replay_event *event;

	put_start();
	put_part(2);
	put_page("first", MADE_FIRST_BYTES - STREAM_PAGE_SIZE);
	put_zero("second", 0);
	put_eos();
	put_part(3);
	put_page("second", MADE_SECOND_BYTES - STREAM_PAGE_SIZE);
	put_eos();
	r = parse();
	cr_assert(r->stream.finished && r->error == 0 && r->stream.reason[0] == '\0');
	cr_assert_str_eq(r->stream.machine, "none");
	cr_assert_eq(r->stream.ram_id, MADE_RAM_ID);
	cr_assert_eq(r->stream.sections, 1);
	cr_assert_eq(r->stream.block_count, 2);
	cr_assert_str_eq(r->stream.blocks[1].name, "second");
	cr_assert_eq(r->stream.blocks[1].bytes, MADE_SECOND_BYTES);
	event = replay_events(r, &count);
	cr_assert_eq(count, 8);
	cr_assert_eq(event[0].kind, STREAM_BLOCKS);
	cr_assert(event[1].flags == STREAM_FLAG_EOS && event[1].section == STREAM_START);
	cr_assert(event[2].flags == STREAM_FLAG_PAGE && event[2].section == STREAM_PART);
	cr_assert(event[2].block == 0 && event[2].offset == MADE_FIRST_BYTES - STREAM_PAGE_SIZE);
	cr_assert(event[3].flags == STREAM_FLAG_ZERO && event[3].block == 1);
	cr_assert(event[4].flags == STREAM_FLAG_EOS && event[4].section == STREAM_PART);
	cr_assert(event[5].flags == STREAM_FLAG_PAGE && event[5].section == STREAM_END);
	cr_assert(event[6].flags == STREAM_FLAG_EOS && event[6].section == STREAM_END);
	cr_assert_eq(event[7].kind, STREAM_TAIL);
	cr_assert_eq(event[7].at, r->out.length - 6);
	cr_assert_eq(memcmp(r->out.data, stream.data, stream.length), 0);
	end(&r);
}

Test(stream_rules, beginning_of_another_kind__passes)
{
	put("\x16\x03\x01\x02\x00\x01", 6);
	expect_pass("TLS");
	put("QEVN", 4);
	expect_pass("no migration stream: begins with 5145564e");
	put("QEVM", 4);
	put32(2);
	expect_pass("stream version 2");
	put_magic();
	put8(1);
	put32(MADE_RAM_ID);
	expect_pass("element 0x01 instead of a configuration");
}

Test(stream_rules, machine_name__bounded)
{
	char name[256];

	memset(name, 'm', sizeof(name));
	put_magic();
	put8(7);
	put32(256);
	put(name, 256);
	expect_pass("a machine type's name of 256 bytes");
	put_magic();
	put8(7);
	put32(0xffffffff);
	expect_pass("a machine type's name of 4294967295 bytes");
	put_magic();
	put8(7);
	put32(0);
	expect_pass("malformed name of the machine type");
	put_magic();
	put8(7);
	put32(255);
	put(name, 255);
	put8(0);
	expect_pass("element 0x00");
}

Test(stream_rules, known_subsections__offloaded)
{
	static const uint8_t uuid[16] = {1};
	struct replay *r;

	put_configuration();
	put_subsection("configuration/target-page-bits", 1);
	put32(12);
	put_subsection("configuration/capabilities", 1);
	put32(1);
	put_name("x-ignore-shared");
	put_subsection("configuration/uuid", 1);
	put(uuid, sizeof(uuid));
	put_ram(MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put64(0x100000000);
	put_eos();
	put_part(3);
	put_eos();
	r = parse();
	cr_assert(r->stream.finished && r->stream.ignore_shared, "%s", r->stream.reason);
	cr_assert_eq(r->stream.blocks[0].bytes, MADE_FIRST_BYTES);
	end(&r);
}

Test(stream_rules, configuration__unknown_passes)
{
	put_configuration();
	put_subsection("configuration/colour", 1);
	expect_pass("subsection 'configuration/colour'");
	put_configuration();
	put_subsection("", 1);
	expect_pass("subsection ''");
	put_configuration();
	put_subsection("configuration/uuid", 2);
	expect_pass("subsection of the configuration in version 2");
	put_configuration();
	put_subsection("configuration/target-page-bits", 1);
	put32(16);
	expect_pass("target pages of 2^16 bytes");
	put_configuration();
	put_subsection("configuration/capabilities", 1);
	put32(2);
	put_name("x-ignore-shared");
	put_name("mapped-ram");
	expect_pass("capability 'mapped-ram'");
	put_configuration();
	put_subsection("configuration/capabilities", 1);
	put32(65);
	expect_pass("65 capabilities");
	put_configuration();
	put8(7);
	expect_pass("element 0x07");
}

Test(stream_rules, commands__only_the_harmless_are_known)
{
	static const struct {
		uint16_t number, length;
		const char *reason;
	} commands[] = {
		{0, 0, "command 0"},
		{1, 1, "command 1 of 1 bytes"},
		{2, 0, "command 2 of 0 bytes"},
		{3, 16, "postcopy-ram"},
		{4, 0, "command 4"},
		{5, 0, "command 5"},
		{6, 0, "command 6"},
		{7, 4, "command 7"},
		{8, 0, "command 8"},
		{9, 0, "command 9"},
		{10, 1, "command 10"},
		{11, 4, "command 11 of 4 bytes"},
		{12, 0, "command 12"},
		{0xffff, 0, "command 65535"},
	};
	struct replay *r;

	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		put_configuration();
		put_command(commands[i].number, commands[i].length);
		expect_pass(commands[i].reason);
	}
	put_configuration();
	put_command(1, 0);
	put_command(2, 4);
	put_command(3, 0);
	put_command(11, 0);
	r = parse();
	/* The 'b' of "behind". */
	cr_assert_str_eq(r->stream.reason, "element 0x62");
	cr_assert(r->stream.return_path && r->stream.switchover_start);
	end(&r);
}

Test(stream_rules, sections__only_ram)
{
	put_configuration();
	put_section(1, "dirty-bitmap", 0, 1);
	expect_pass("section 'dirty-bitmap'");
	put_configuration();
	put_section(4, "0000:00:02.0/virtio-mem-device-early", 0, 1);
	expect_pass("section '0000:00:02.0/virtio-mem-device-early'");
	put_configuration();
	put_section(4, "ram", 0, 4);
	expect_pass("section 'ram'");
	put_configuration();
	put_section(1, "ram", 1, 4);
	expect_pass("section 'ram', instance 1, version 4");
	put_configuration();
	put_section(1, "ram", 0, 5);
	expect_pass("section 'ram', instance 0, version 5");
	put_configuration();
	put_section(1, "r\n\xe4m", 0, 4);
	expect_pass("section 'r??m'");
	put_start();
	put_section(1, "block", 0, 1);
	expect_pass("section 'block'");
	put_start();
	put_section(4, "timer", 0, 2);
	expect_pass("section 'timer'");
	put_start();
	put_section(1, "ram", 0, 4);
	expect_pass("a second section 'ram'");
	put_configuration();
	put_part(2);
	expect_pass("data of section 2, which has not begun");
	put_start();
	put8(3);
	put32(MADE_RAM_ID + 1);
	expect_pass("data of section 3, which has not begun");
	put_start();
	put8(0);
	expect_pass("element 0x00");
	put_start();
	put8(6);
	expect_pass("element 0x06");
}

Test(stream_rules, footer__must_be_there)
{
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put64(STREAM_FLAG_EOS);
	put_part(2);
	expect_pass("no footer behind section 'ram'");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put64(STREAM_FLAG_EOS);
	put8(0x7e);
	put32(MADE_RAM_ID + 1);
	expect_pass("no footer behind section 'ram'");
}

Test(stream_rules, block_list__sums_to_its_total)
{
	put_configuration();
	put_section(1, "ram", 0, 4);
	put64(STREAM_FLAG_EOS);
	expect_pass("section 'ram' without a list of blocks");
	put_configuration();
	put_ram(0);
	expect_pass("section 'ram' without a list of blocks");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES + STREAM_PAGE_SIZE);
	expect_pass("block 'first' of 0x11000 bytes, with 0x10000 left of the total");
	put_configuration();
	put_ram(MADE_FIRST_BYTES + STREAM_PAGE_SIZE);
	put_block("first", MADE_FIRST_BYTES);
	put_block("second", MADE_SECOND_BYTES);
	expect_pass("block 'second' of 0x4000 bytes, with 0x1000 left of the total");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", 0);
	expect_pass("block 'first' of 0 bytes, with 0x10000 left of the total");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", STREAM_PAGE_SIZE + 512);
	expect_pass("block 'first' of 0x1200 bytes, with 0x10000 left of the total");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", ~(STREAM_PAGE_SIZE - 1ull));
	expect_pass("block 'first' of 0xfffffffffffff000 bytes, with 0x10000 left of the total");
}

Test(stream_rules, block_names__unique_and_sound)
{
	put_configuration();
	put_ram(2 * MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	expect_pass("two blocks of memory 'first'");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("", MADE_FIRST_BYTES);
	expect_pass("malformed name of a block of memory");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put8(3);
	put("a\0b", 3);
	put64(MADE_FIRST_BYTES);
	expect_pass("malformed name of a block of memory");
}

static void put_blocks(unsigned int count)
{
	char name[STREAM_ID_MAX];

	put_configuration();
	put_ram(count * STREAM_PAGE_SIZE);
	for (unsigned int i = 0; i < count; i++) {
		memset(name, 'n', 255);
		snprintf(name + 252, 4, "%03u", i);
		put_block(name, STREAM_PAGE_SIZE);
	}
}

Test(stream_rules, block_count__bounded)
{
	struct replay *r;
	char name[STREAM_ID_MAX];

	put_blocks(STREAM_BLOCKS_MAX + 1);
	expect_pass("more than 256 blocks of memory");
	put_blocks(STREAM_BLOCKS_MAX);
	put_eos();
	put_part(3);
	memset(name, 'n', 255);
	memcpy(name + 252, "255", 4);
	put_zero(name, 0);
	put_eos();
	r = parse();
	cr_assert(r->stream.finished, "%s", r->stream.reason);
	cr_assert_eq(r->stream.block_count, STREAM_BLOCKS_MAX);
	cr_assert_eq(replay_count(r, STREAM_RECORD, STREAM_FLAG_ZERO), 1);
	end(&r);
}

static void put_late_section(void)
{
	put_eos();
	put_section(1, "vfio", 0, 1);
}

static void put_late_command(void)
{
	put_eos();
	put_command(7, 4);
}

static void put_late_end_of_file(void)
{
	put_eos();
	put8(0);
}

Test(stream_rules, elements_between_parts__known_or_refused)
{
	struct replay *r;

	expect_refused(put_late_section, "section 'vfio'");
	expect_refused(put_late_command, "command 7");
	expect_refused(put_late_end_of_file, "element 0x00");
	put_start();
	put_part(2);
	put_zero("first", 0);
	put_eos();
	put_command(11, 0);
	put_part(3);
	put_eos();
	r = parse();
	cr_assert(r->stream.finished && r->stream.switchover_start, "%s", r->stream.reason);
	end(&r);
}

/* Behind ram's END everything is opaque, also what would have been refused before. */
Test(stream_rules, tail__handed_on)
{
	struct replay *r;

	put_start();
	put_part(3);
	put_zero("first", 0);
	put_eos();
	put_section(4, "timer", 0, 2);
	put_section(1, "vfio", 0, 1);
	put_command(7, 4);
	put8(0);
	r = parse();
	cr_assert(r->stream.finished && !r->stream.passing && r->error == 0);
	cr_assert_eq(r->out.length, stream.length);
	cr_assert_eq(memcmp(r->out.data, stream.data, stream.length), 0);
	end(&r);
}

/* In pieces of no bytes nothing happens. */
Test(stream_rules, no_input__more)
{
	struct replay *r = replay_new();
	struct stream_item item;

	put_start();
	cr_assert_eq(stream_next(&r->stream, NULL, 0, &item), 0);
	cr_assert_eq(item.kind, STREAM_MORE);
	replay_feed(r, stream.data, stream.length);
	cr_assert_eq(stream_next(&r->stream, NULL, 0, &item), 0);
	cr_assert_eq(item.kind, STREAM_MORE);
	end(&r);
}
