/* SPDX-License-Identifier: MIT */
/*
 * The reference guest keeps what abi.h says under QEMU too, and finds every kind of damage that is
 * done to its memory.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "guest/abi.h"
#include "guest/image.h"
#include "guest/page.h"
#include "machine.h"

TestSuite(guest, .timeout = 300);

#define SCRUBBED "fill=16M ws=4M heartbeat=100 scrub=200M "

/* The page @index of those that are filled. */
static unsigned char *page_at(struct machine *m, uint64_t index, uint64_t *gpa)
{
	*gpa = machine_first_page(m) + index * MACHINE_PAGE;
	return m->memory + *gpa;
}

/* Damage is told once, by address and kind, and mended: the next pass is clean. */
static void expect_fault(struct machine *m, uint64_t gpa, const char *what)
{
	char line[160];
	size_t scrubs;

	snprintf(line, sizeof(line), "page 0x%llx: %s", (unsigned long long)gpa, what);
	cr_assert(machine_wait_console(m, line));
	cr_assert(machine_wait_status(m, GUEST_STATUS_FAULT, 1));
	scrubs = machine_count(&m->status, GUEST_STATUS_SCRUB);
	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, (unsigned int)scrubs + 2));
	cr_assert_eq(machine_count(&m->status, GUEST_STATUS_FAULT), 1);
}

Test(guest, image__elf32_with_multiboot_header)
{
	uint32_t magic = 0x1badb002;

	cr_assert_gt(guest_image_size, 8192);
	cr_assert_eq(memcmp(guest_image, "\177ELF\1", 5), 0);
	cr_assert_eq(guest_image[18], 3, "not EM_386");
	cr_assert(memmem(guest_image, 8192, &magic, sizeof(magic)));
}

static int64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

Test(guest, idle__beats_and_nothing_else)
{
	struct machine *m = machine_new(1, "heartbeat=200");
	int64_t begun;
	size_t before;

	cr_assert(machine_wait_status(m, GUEST_STATUS_READY, 1));
	before = m->beats.length;
	begun = now_ms();
	do {
		machine_listen(m, 1000);
	} while (m->beats.length - before < 50 && now_ms() < begun + 20000);
	/* A busy host makes beats fewer; nothing may make them many more than 200 in a second. */
	cr_expect_geq(m->beats.length - before, 50);
	cr_expect_leq((int64_t)(m->beats.length - before), (now_ms() - begun) * 260 / 1000);
	cr_expect_eq(machine_count(&m->beats, 0), m->beats.length);
	cr_expect_eq(m->status.length, 1);
	machine_free(m);
}

Test(guest, four_vcpus__each_beats_and_all_scrub)
{
	struct machine *m = machine_new(4, "vcpus=4 rate=20M " SCRUBBED);

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 2));
	machine_listen(m, 300);
	for (char i = 0; i < 4; i++)
		cr_expect_gt(machine_count(&m->beats, i), 0, "vcpu %d", i);
	cr_expect_eq(machine_count(&m->status, GUEST_STATUS_FAULT), 0);
	machine_free(m);
}

Test(guest, missing_vcpu__stops_and_says_so)
{
	struct machine *m = machine_new(1, "vcpus=2");

	cr_assert(machine_wait_status(m, GUEST_STATUS_FAULT, 1));
	cr_assert(machine_wait_console(m, "fewer than vcpus="));
	machine_free(m);
}

Test(guest, bad_value__stops_and_names_it)
{
	struct machine *m = machine_new(1, "ws=4M rate=fast");

	cr_assert(machine_wait_status(m, GUEST_STATUS_FAULT, 1));
	cr_assert(machine_wait_console(m, "bad value: rate=fast"));
	cr_expect_eq(machine_count(&m->status, GUEST_STATUS_READY), 0);
	machine_free(m);
}

static void expect_no_fault(const char *command_line)
{
	struct machine *m = machine_new(1, command_line);

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 3));
	cr_expect_eq(machine_count(&m->status, GUEST_STATUS_FAULT), 0, "%s", m->console.bytes);
	machine_free(m);
}

Test(guest, whole_pages_and_zero_pages__no_fault)
{
	expect_no_fault("rate=100M pattern=seq zero=30 " SCRUBBED);
}

Test(guest, touched_lines_and_zero_pages__no_fault)
{
	expect_no_fault("rate=100M pattern=hotcold touch=line zero=5 " SCRUBBED);
}

Test(guest, zeroed_page__told_lost)
{
	struct machine *m = machine_new(1, SCRUBBED);
	uint64_t gpa;
	unsigned char *page;

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 1));
	page = page_at(m, 1700, &gpa);
	cr_assert_neq(page[0], 0);
	machine_stop(m);
	memset(page, 0, MACHINE_PAGE);
	machine_continue(m);
	expect_fault(m, gpa, "lost, it is all zero");
	machine_free(m);
}

Test(guest, page_of_another_address__told_foreign)
{
	struct machine *m = machine_new(1, SCRUBBED);
	uint64_t gpa;
	unsigned char *page;

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 1));
	page = page_at(m, 1, &gpa);
	machine_stop(m);
	memcpy(page, page + MACHINE_PAGE, MACHINE_PAGE);
	machine_continue(m);
	expect_fault(m, gpa, "foreign, its header says page");
	machine_free(m);
}

/* Whether the guest is not in the midst of writing the page. */
static bool is_whole(const unsigned char *page, uint64_t gpa)
{
	uint64_t words[PAGE_WORDS];

	memcpy(words, page, sizeof(words));
	return page_right(words, gpa, (uint32_t)(words[PAGE_VERSIONS] >> 32));
}

/* Waits until the guest has rewritten the page, and stops it. @old is what was there before. */
static void wait_rewritten(struct machine *m, uint64_t gpa, unsigned char old[MACHINE_PAGE])
{
	const unsigned char *page = m->memory + gpa;
	int tries = 0;

	memset(old, 0, MACHINE_PAGE);
	machine_stop(m);
	while (!is_whole(old, gpa) || !is_whole(page, gpa) ||
	       memcmp(old, page, MACHINE_PAGE) == 0) {
		if (!is_whole(old, gpa))
			memcpy(old, page, MACHINE_PAGE);
		cr_assert_lt(tries++, 1000);
		machine_continue(m);
		machine_listen(m, 10);
		machine_stop(m);
	}
}

Test(guest, older_version_of_page__told_stale)
{
	struct machine *m = machine_new(1, "fill=16M ws=1M rate=4M pattern=seq scrub=200M");
	unsigned char old[MACHINE_PAGE];
	uint64_t gpa;
	unsigned char *page;

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 1));
	page = page_at(m, 100, &gpa);
	wait_rewritten(m, gpa, old);
	memcpy(page, old, MACHINE_PAGE);
	machine_continue(m);
	expect_fault(m, gpa, "stale, its header says page");
	machine_free(m);
}

Test(guest, halves_of_two_versions__told_torn)
{
	struct machine *m = machine_new(1, "fill=16M ws=1M rate=4M pattern=seq scrub=200M");
	unsigned char old[MACHINE_PAGE];
	uint64_t gpa;
	unsigned char *page;

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 1));
	page = page_at(m, 200, &gpa);
	wait_rewritten(m, gpa, old);
	memcpy(page + MACHINE_PAGE / 2, old + MACHINE_PAGE / 2, MACHINE_PAGE / 2);
	machine_continue(m);
	expect_fault(m, gpa, "torn from offset 0x800");
	machine_free(m);
}

Test(guest, page_written_that_should_be_zero__told)
{
	struct machine *m =
		machine_new(1, "fill=16M ws=1M rate=4M zero=100 pattern=seq scrub=200M");
	uint64_t gpa;
	unsigned char *page;

	cr_assert(machine_wait_status(m, GUEST_STATUS_SCRUB, 1));
	page = page_at(m, 50, &gpa);
	for (int tries = 0; page[0] != 0 && tries < 200; tries++)
		machine_listen(m, 20);
	machine_stop(m);
	memcpy(page, m->memory + gpa + (4u << 20), MACHINE_PAGE);
	machine_continue(m);
	cr_assert(machine_wait_console(m, "expected zeros since version"));
	expect_fault(m, gpa, "foreign, its header says page");
	machine_free(m);
}
