/* SPDX-License-Identifier: MIT */
/*
 * Trackers are stopped and started again, as after a migration that was cancelled, and are not
 * alone in the process.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "scene.h"

#define DEADLINE_NS 60000000000ull

TestSuite(restart, .init = machine_need_kvm, .timeout = 300);

/* Harvests until @pages entries were found. */
static void harvest(struct scene *s, uint64_t pages)
{
	uint64_t deadline = vmferry_now() + DEADLINE_NS, found = 0;

	while (found < pages) {
		cr_assert_lt(vmferry_now(), deadline, "the guest hardly writes");
		usleep(500);
		cr_assert_eq(tracker_harvest(s->tracker, &found), 0);
	}
}

/* An attempt that is given up while the guest runs. */
static void attempt(struct scene *s)
{
	cr_assert_eq(tracker_start(s->tracker), 0);
	shadow_follow(&s->shadow);
	harvest(s, 1500);
	cr_assert_eq(tracker_stop(s->tracker), 0);
	shadow_finish(&s->shadow);
}

/* One that succeeds; the last harvest is left to stop(). */
static void last_attempt(struct scene *s)
{
	cr_assert_eq(tracker_start(s->tracker), 0);
	scene_mark_all(s);
	shadow_follow(&s->shadow);
	harvest(s, 1500);
	machine_stop(&s->machine);
	cr_assert_eq(tracker_stop(s->tracker), 0);
	shadow_finish(&s->shadow);
	cr_assert_eq(shadow_differs(&s->shadow, &s->machine), 0);
}

static void check(enum vmferry_tracker kind, uint32_t entries, bool another)
{
	struct scene s;

	scene_make(&s, kind, 2, entries);
	machine_run(&s.machine);
	for (unsigned int i = 0; i < 3; i++) {
		attempt(&s);
		if (another)
			scene_replace_tracker(&s, kind);
	}
	last_attempt(&s);
	scene_free(&s);
}

Test(restart, same_ring_tracker__loses_nothing)
{
	check(VMFERRY_TRACKER_RING, 1024, false);
}

/* It begins somewhere in rings that have gone round. */
Test(restart, another_ring_tracker__finds_its_place)
{
	check(VMFERRY_TRACKER_RING, 1024, true);
}

Test(restart, same_log_tracker__loses_nothing)
{
	check(VMFERRY_TRACKER_LOG, 0, false);
}

Test(restart, another_log_tracker__loses_nothing)
{
	check(VMFERRY_TRACKER_LOG, 0, true);
}

static void check_untracked(enum vmferry_tracker kind, uint32_t entries)
{
	struct scene s;
	uint64_t pages = 0;

	scene_make(&s, kind, 1, entries);
	machine_run(&s.machine);
	attempt(&s);
	cr_assert_eq(dirty_map_count(s.map), 0);
	usleep(5000);
	cr_assert_eq(tracker_harvest(s.tracker, &pages), -EINVAL);
	cr_assert_eq(tracker_stop(s.tracker), 0);
	cr_assert_eq(dirty_map_count(s.map), 0);

	cr_assert_eq(tracker_start(s.tracker), 0);
	cr_assert_eq(tracker_start(s.tracker), -EALREADY);
	machine_stop(&s.machine);
	scene_free(&s);
}

Test(restart, stopped_ring_tracker__harvests_no_more)
{
	check_untracked(VMFERRY_TRACKER_RING, 4096);
}

Test(restart, stopped_log_tracker__harvests_no_more)
{
	check_untracked(VMFERRY_TRACKER_LOG, 0);
}

/* Signals that cannot be blocked, from a process of its own that ends by itself. */
static pid_t stop_and_continue(unsigned int times)
{
	pid_t self = getpid(), child = fork();

	cr_assert_geq(child, 0);
	if (child > 0)
		return child;
	for (unsigned int i = 0; i < times && getppid() == self; i++) {
		usleep(1000);
		kill(self, SIGSTOP);
		/* Long enough for every thread to be really stopped. */
		usleep(2000);
		kill(self, SIGCONT);
	}
	_exit(0);
}

Test(restart, process_is_stopped_again_and_again__ring_loses_nothing)
{
	struct scene s;
	pid_t child;

	scene_make(&s, VMFERRY_TRACKER_RING, 1, 4096);
	machine_run(&s.machine);
	child = stop_and_continue(1000);
	last_attempt(&s);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	kill(getpid(), SIGCONT);
	scene_free(&s);
}

/* The last region fails: those before it must not be left logging. */
Test(restart, region_that_is_no_slot__start_fails_and_undoes)
{
	struct scene s;
	struct vmferry_vm vm;
	struct dirty_map *map;
	struct tracker *tracker = NULL;

	scene_make(&s, VMFERRY_TRACKER_RING, 1, 4096);
	s.machine.regions[2].size += VMFERRY_PAGE_SIZE;
	vm = machine_vm(&s.machine);
	cr_assert_eq(dirty_map_new(&vm, &map), 0);
	cr_assert_eq(tracker_new(VMFERRY_TRACKER_RING, &vm, map, &tracker), 0);
	cr_assert_lt(tracker_start(tracker), 0);
	tracker_free(&tracker);
	dirty_map_free(&map);

	s.machine.regions[2].size -= VMFERRY_PAGE_SIZE;
	machine_run(&s.machine);
	last_attempt(&s);
	scene_free(&s);
}
