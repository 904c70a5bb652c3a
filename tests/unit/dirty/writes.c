/* SPDX-License-Identifier: MIT */
/*
 * No write of a guest is missed: vCPUs write as fast as they can, every byte is compared at the
 * end.
 */
#include <criterion/criterion.h>
#include <signal.h>
#include <sys/time.h>
#include <unistd.h>

#include "scene.h"

#define HARVESTS    300	 /* at least */
#define PAGES	    5000 /* at least, found by them */
#define DEADLINE_NS 60000000000ull

/* The guest runs before, while and after; the last harvest is after it has stopped. */
static void migrate(struct scene *s)
{
	uint64_t deadline = vmferry_now() + DEADLINE_NS, pages = 0, before;

	machine_run(&s->machine);
	usleep(2000);
	cr_assert_eq(tracker_start(s->tracker), 0);
	scene_mark_all(s);
	shadow_follow(&s->shadow);
	for (unsigned int i = 0; i < HARVESTS || pages < PAGES; i++) {
		cr_assert_lt(vmferry_now(), deadline, "the guest hardly writes");
		usleep(500);
		cr_assert_eq(tracker_harvest(s->tracker, &pages), 0);
	}
	before = pages;
	machine_stop(&s->machine);
	cr_assert_eq(tracker_harvest(s->tracker, &pages), 0);
	shadow_finish(&s->shadow);

	cr_assert_eq(shadow_differs(&s->shadow, &s->machine), 0);
	cr_assert_gt(machine_writes(&s->machine), before / 4);
}

static void check(enum vmferry_tracker kind, unsigned int vcpus, uint32_t entries)
{
	struct scene s;

	scene_make(&s, kind, vcpus, entries);
	migrate(&s);
	scene_free(&s);
}

TestSuite(writes, .init = machine_need_kvm, .timeout = 300);

Test(writes, ring_of_one_vcpu__every_byte_follows)
{
	check(VMFERRY_TRACKER_RING, 1, 4096);
}

Test(writes, rings_of_two_vcpus__every_byte_follows)
{
	check(VMFERRY_TRACKER_RING, 2, 4096);
}

Test(writes, smallest_rings_of_two_vcpus__every_byte_follows)
{
	check(VMFERRY_TRACKER_RING, 2, 1024);
}

Test(writes, log_of_one_vcpu__every_byte_follows)
{
	check(VMFERRY_TRACKER_LOG, 1, 0);
}

Test(writes, log_of_two_vcpus__every_byte_follows)
{
	check(VMFERRY_TRACKER_LOG, 2, 0);
}

Test(writes, full_ring__holds_the_vcpu_until_harvested)
{
	struct scene s;
	uint64_t pages = 0;
	unsigned int waits = 0;

	scene_make(&s, VMFERRY_TRACKER_RING, 1, 1024);
	cr_assert_eq(tracker_start(s.tracker), 0);
	scene_mark_all(&s);
	machine_run(&s.machine);
	while (atomic_load(&s.machine.ring_full) == 0 && waits++ < 5000)
		usleep(1000);
	cr_assert_gt(atomic_load(&s.machine.ring_full), 0);
	cr_assert_eq(tracker_harvest(s.tracker, &pages), 0);
	cr_assert_geq(pages, 1024 - 576);
	cr_assert_leq(pages, 1024);

	shadow_follow(&s.shadow);
	usleep(20000);
	machine_stop(&s.machine);
	cr_assert_eq(tracker_harvest(s.tracker, &pages), 0);
	shadow_finish(&s.shadow);
	cr_assert_gt(pages, 1024);
	cr_assert_eq(shadow_differs(&s.shadow, &s.machine), 0);
	scene_free(&s);
}

static void on_alarm(int signal)
{
	(void)signal;
}

/*
 * Linux 6.17 and later end a reset early when a signal is pending, and forget to protect some of
 * its pages.
 */
Test(writes, ring_in_a_storm_of_signals__every_byte_follows)
{
	struct itimerval often = {.it_interval.tv_usec = 200, .it_value.tv_usec = 200};
	struct itimerval never = {.it_value.tv_sec = 0};
	struct sigaction action = {.sa_handler = on_alarm};
	struct scene s;

	scene_make(&s, VMFERRY_TRACKER_RING, 1, 4096);
	sigaction(SIGALRM, &action, NULL);
	setitimer(ITIMER_REAL, &often, NULL);
	migrate(&s);
	setitimer(ITIMER_REAL, &never, NULL);
	scene_free(&s);
}
