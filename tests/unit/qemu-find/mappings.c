/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/sysmacros.h>

#include "fixture.h"

#define LINE_A "7f0000000000-7f0000200000 rw-s 00000000 00:1a 77    /dev/shm/a b (deleted)\n"
#define LINE_B "7f0000200000-7f0000400000 rw-s 00200000 00:1a 77    /dev/shm/a b (deleted)\n"
#define GUARD  "7f0000400000-7f0000401000 ---p 00000000 00:00 0 \n"

static struct process_mapping list[FIXTURE_MAPPINGS];

Test(mappings, fields)
{
	cr_assert_eq(parse_text(LINE_A, list, 1), 1);
	cr_expect_eq(list[0].address, 0x7f0000000000);
	cr_expect_eq(list[0].bytes, 2 * MIB);
	cr_expect_eq(list[0].offset, 0);
	cr_expect_eq(list[0].inode, 77);
	cr_expect_eq(list[0].dev, makedev(0, 0x1a));
	cr_expect(list[0].writable);
	cr_expect(list[0].shared);
	cr_expect(list[0].deleted);
	cr_expect_not(list[0].guarded);
	cr_expect_eq(list[0].file, -1);
	cr_expect_str_eq(list[0].path, "/dev/shm/a b");
}

Test(mappings, one_file_in_two_areas__is_one)
{
	cr_assert_eq(parse_text(LINE_A LINE_B GUARD, list, 2), 1);
	cr_expect_eq(list[0].bytes, 4 * MIB);
	cr_expect(list[0].guarded);
}

Test(mappings, neighbours_that_do_not_continue__stay_apart)
{
	cr_expect_eq(
		parse_text(LINE_A "7f0000200000-7f0000400000 rw-s 00000000 00:1a 77 /a\n", list, 9),
		2);
	cr_expect_eq(
		parse_text(LINE_A "7f0000200000-7f0000400000 rw-s 00200000 00:1a 78 /a\n", list, 9),
		2);
	cr_expect_eq(
		parse_text(LINE_A "7f0000200000-7f0000400000 rw-p 00200000 00:1a 77 /a\n", list, 9),
		2);
	cr_expect_eq(
		parse_text(LINE_A "7f0000201000-7f0000400000 rw-s 00200000 00:1a 77 /a\n", list, 9),
		2);
	cr_expect_eq(parse_text("7f0000000000-7f0000200000 rw-p 00000000 00:00 0 \n"
				"7f0000200000-7f0000400000 rw-p 00000000 00:00 0 \n",
				list, 9),
		     2);
}

Test(mappings, guard_elsewhere__does_not_count)
{
	cr_assert_eq(parse_text(LINE_A GUARD, list, 9), 1);
	cr_expect_not(list[0].guarded);
	cr_assert_eq(parse_text(GUARD LINE_A, list, 9), 1);
	cr_expect_not(list[0].guarded);
}

Test(mappings, code_stacks_and_heaps__are_left_out)
{
	cr_expect_eq(parse_text("7f0000000000-7f0000200000 rwxp 00000000 00:00 0 \n", list, 9), 0);
	cr_expect_eq(parse_text("7f0000000000-7f0000200000 r--p 00000000 00:00 0 \n", list, 9), 0);
	cr_expect_eq(
		parse_text("7f0000000000-7f0000200000 rw-p 00000000 00:00 0 [heap]\n", list, 9), 0);
	cr_expect_eq(parse_text("7f0000000000-7f0000200000 rw-s 00000000 00:01 3 "
				"/memfd:tcg-jit (deleted)\n",
				list, 9),
		     0);
}

Test(mappings, too_many__is_told)
{
	cr_expect_eq(
		parse_text(LINE_A "7f0000600000-7f0000800000 rw-p 00000000 00:00 0 \n", list, 1),
		-E2BIG);
}

Test(mappings, not_of_the_form__is_refused)
{
	cr_expect_eq(parse_text("hello\n", list, 9), -EPROTO);
	cr_expect_eq(parse_text("7f0000200000-7f0000000000 rw-p 00000000 00:00 0 \n", list, 9),
		     -EPROTO);
	cr_expect_eq(parse_text("7f0000000000-7f0000200000 rw 00000000 00:00 0 \n", list, 9),
		     -EPROTO);
}

Test(mappings, attributes)
{
	cr_assert_eq(parse_text(LINE_A "KernelPageSize:     2048 kB\n"
				       "VmFlags: rd wr sh mr mw me ms dc de ht hg \n" GUARD
				       "KernelPageSize:        4 kB\nVmFlags: mr mw me \n",
				list, 9),
		     1);
	cr_expect(list[0].hugetlb);
	cr_expect(list[0].dontfork);
	cr_expect_eq(list[0].page_bytes, 2 * MIB);
	/* Those of an area that is left out are nobody's. */
	cr_assert_eq(parse_text(LINE_A "7f0000600000-7f0000800000 r--p 00000000 00:00 0 \n"
				       "VmFlags: rd dc ht \n",
				list, 9),
		     1);
	cr_expect_not(list[0].dontfork);
	cr_expect_not(list[0].hugetlb);
	/* All areas of one file have to have it. */
	cr_assert_eq(
		parse_text(LINE_A "VmFlags: rd wr dc \n" LINE_B "VmFlags: rd wr dc \n", list, 9),
		1);
	cr_expect(list[0].dontfork);
	cr_assert_eq(parse_text(LINE_A "VmFlags: rd wr dc \n" LINE_B "VmFlags: rd wr \n", list, 9),
		     1);
	cr_expect_not(list[0].dontfork);
	cr_assert_eq(parse_text(LINE_A "KernelPageSize:        0 kB\n", list, 9), 1);
	cr_expect_eq(list[0].page_bytes, 4096);
}

Test(mappings, path_of_any_length__is_cut)
{
	char text[1024] = "7f0000000000-7f0000200000 rw-s 00000000 00:1a 77 ";

	memset(text + strlen(text), 'p', 900);
	strcat(text, " (deleted)\n");
	cr_assert_eq(parse_text(text, list, 9), 1);
	cr_expect_eq(strlen(list[0].path), PROCESS_NAME_MAX - 1);
	cr_expect(list[0].deleted);
}

/* How many there are of this size that look as RAM does. */
static unsigned int guarded(unsigned int count, uint64_t bytes)
{
	unsigned int found = 0;

	for (unsigned int i = 0; i < count; i++)
		found += list[i].guarded && list[i].dontfork && list[i].bytes == bytes;
	return found;
}

Test(mappings, real_processes__have_their_ram)
{
	cr_expect_eq(guarded(fixture_mappings("7.2-private.smaps", list), 1024 * MIB), 1);
	cr_expect_eq(guarded(fixture_mappings("10.0-private.smaps", list), 1024 * MIB), 1);
	cr_expect_eq(guarded(fixture_mappings("7.2-memfd-nodes.smaps", list), 256 * MIB), 2);
	cr_expect_eq(guarded(fixture_mappings("10.0-file.smaps", list), 256 * MIB), 2);
	cr_expect_eq(guarded(fixture_mappings("7.2-hugetlb.smaps", list), 64 * MIB), 1);
}
