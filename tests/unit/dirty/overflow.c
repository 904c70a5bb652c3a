/* SPDX-License-Identifier: MIT */
/*
 * Rings that overflow: a guest in ring 0 fills its ring between two harvests. Where KVM emulates
 * ring 0 it then goes on writing for a while and overwrites entries; elsewhere the ring is just
 * full. Nothing may be lost either way, and the guest must be able to go on.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "scene.h"

#define ROUNDS	    12
#define DEADLINE_NS 60000000000ull
/*
 * A migration harvests all the time, whether rings are full or not; here seldom, so that they fill.
 */
#define HARVEST_NS 500000000ull

TestSuite(overflow, .init = machine_need_kvm, .timeout = 90);

/* One store a page, each with another value. */
extern const char stores_code[], stores_end[];
__asm__(".pushsection .rodata\n"
	"stores_code:\n"
	"	incq	%rax\n"
	"	movq	%rax, (%rdi)\n"
	"	addq	$4096, %rdi\n"
	"	cmpq	%r9, %rdi\n"
	"	jb	stores_code\n"
	"	movq	%r8, %rdi\n"
	"	jmp	stores_code\n"
	"stores_end:\n"
	".popsection\n");

/* Thousands of stores in one instruction. */
extern const char fills_code[], fills_end[];
__asm__(".pushsection .rodata\n"
	"fills_code:\n"
	"	incq	%rax\n"
	"	movl	$8192, %ecx\n"
	"	rep stosq\n"
	"	cmpq	%r9, %rdi\n"
	"	jb	fills_code\n"
	"	movq	%r8, %rdi\n"
	"	jmp	fills_code\n"
	"fills_end:\n"
	".popsection\n");

static void make(struct scene *s, unsigned int vcpus, uint32_t entries, bool fills)
{
	scene_make(s, VMFERRY_TRACKER_RING, vcpus, entries);
	if (fills)
		machine_set_kernel(&s->machine, fills_code, fills_end);
	else
		machine_set_kernel(&s->machine, stores_code, stores_end);
}

/* The guest writes until its ring is full, is harvested, and must get there again by new writes. */
static void fill_rings(struct scene *s, uint64_t deadline)
{
	for (unsigned int i = 0; i < ROUNDS; i++) {
		unsigned int full = atomic_load(&s->machine.ring_full);
		uint64_t before = machine_writes(&s->machine), pages = 0;
		uint64_t next = vmferry_now() + HARVEST_NS;
		unsigned int harvests = 0;

		while (atomic_load(&s->machine.ring_full) == full ||
		       machine_writes(&s->machine) == before) {
			cr_assert_lt(vmferry_now(), deadline,
				     "the guest does not get on: round %u, %u harvests in it, "
				     "%u times full, %llu writes",
				     i, harvests, atomic_load(&s->machine.ring_full) - full,
				     (unsigned long long)(machine_writes(&s->machine) - before));
			usleep(2000);
			if (atomic_load(&s->machine.ring_full) <= full + 20 && vmferry_now() < next)
				continue;
			cr_assert_eq(tracker_harvest(s->tracker, &pages), 0);
			next = vmferry_now() + HARVEST_NS;
			harvests++;
		}
		usleep(5000);
		cr_assert_eq(tracker_harvest(s->tracker, &pages), 0);
	}
}

static void check(unsigned int vcpus, uint32_t entries, bool fills)
{
	uint64_t pages = 0;
	struct scene s;

	make(&s, vcpus, entries, fills);
	cr_assert_eq(tracker_start(s.tracker), 0);
	scene_mark_all(&s);
	machine_run(&s.machine);
	shadow_follow(&s.shadow);
	fill_rings(&s, vmferry_now() + DEADLINE_NS);
	usleep(100000);
	machine_stop(&s.machine);
	cr_assert_eq(tracker_harvest(s.tracker, &pages), 0);
	shadow_finish(&s.shadow);
	cr_assert_eq(shadow_differs(&s.shadow, &s.machine), 0);
	scene_free(&s);
}

Test(overflow, stores_of_ring_0_on_the_smallest_ring__every_byte_follows)
{
	check(1, 1024, false);
}

Test(overflow, stores_of_ring_0_by_two_vcpus__every_byte_follows)
{
	check(2, 1024, false);
}

Test(overflow, string_stores_on_the_smallest_ring__every_byte_follows)
{
	check(1, 1024, true);
}

Test(overflow, string_stores_by_two_vcpus__every_byte_follows)
{
	check(2, 2048, true);
}

Test(overflow, string_stores_on_a_ring_of_4096__every_byte_follows)
{
	check(1, 4096, true);
}

/*
 * A migration that is given up must leave a vCPU that runs, and rings that the next one can read.
 */
static void check_restart(bool another)
{
	struct scene s;
	uint64_t before, deadline;

	make(&s, 1, 1024, true);
	machine_run(&s.machine);
	for (unsigned int i = 0; i < 4; i++) {
		cr_assert_eq(tracker_start(s.tracker), 0);
		usleep(50000);
		cr_assert_eq(tracker_stop(s.tracker), 0);
		before = machine_writes(&s.machine);
		deadline = vmferry_now() + DEADLINE_NS;
		while (machine_writes(&s.machine) == before) {
			cr_assert_lt(vmferry_now(), deadline, "the guest stays stuck");
			usleep(1000);
		}
		if (another)
			scene_replace_tracker(&s, VMFERRY_TRACKER_RING);
	}
	cr_assert_eq(tracker_start(s.tracker), 0);
	scene_mark_all(&s);
	shadow_follow(&s.shadow);
	fill_rings(&s, vmferry_now() + DEADLINE_NS);
	machine_stop(&s.machine);
	cr_assert_eq(tracker_stop(s.tracker), 0);
	shadow_finish(&s.shadow);
	cr_assert_eq(shadow_differs(&s.shadow, &s.machine), 0);
	scene_free(&s);
}

Test(overflow, tracker_is_stopped__guest_runs_and_starts_again)
{
	check_restart(false);
}

Test(overflow, tracker_is_stopped__another_one_finds_its_place)
{
	check_restart(true);
}
