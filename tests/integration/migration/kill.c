/* SPDX-License-Identifier: MIT */
/*
 * Source and destination are processes of their own, and one of them is killed with SIGKILL in each
 * phase: the guest must then run at exactly one side, or the source must say that it does not know.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fakevm.h"

#define SECOND 1000000000ull

struct stage {
	struct fakevm_pulse source, destination;
	char uri[64];
	_Atomic bool listening;
	_Atomic int stalled;	   /* the phase + 1 in which the victim waits for its death */
	_Atomic int source_result; /* -errno of vmferry_source_wait(), 1: not over yet */
};

static struct stage *stage;
static int stall_phase; /* -1: none. Each child has its own */
static pid_t source_pid, destination_pid;

/* Waits for SIGKILL. */
static void stall(int phase)
{
	atomic_store(&stage->stalled, phase + 1);
	for (;;)
		pause();
}

static void stall_at(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if ((int)phase == stall_phase)
		stall((int)phase);
}

static void stall_in_run(void *ctx)
{
	(void)ctx;
	stall(VMFERRY_RUNNING);
}

static void be_destination(bool in_run)
{
	struct vmferry_destination_options o = {.size = sizeof(o), .on_phase = stall_at};
	struct vmferry_destination *d;
	static struct fakevm vm;

	o.transport.size = sizeof(o.transport);
	fakevm_init(&vm);
	vm.pulse = &stage->destination;
	if (in_run)
		vm.in_run = stall_in_run;
	if (vmferry_destination_new(&fakevm_destination_ops, &vm, "tcp:127.0.0.1:0", &o, &d) < 0 ||
	    vmferry_destination_start(d) < 0)
		_exit(1);
	strncpy(stage->uri, vmferry_destination_uri(d), sizeof(stage->uri) - 1);
	atomic_store(&stage->listening, true);
	for (;;)
		pause();
}

static void be_source(void)
{
	struct vmferry_source_options o = {.size = sizeof(o),
					   .downtime_ns = SECOND / 2,
					   .timeout_ns = 20 * SECOND,
					   .on_phase = stall_at};
	struct vmferry_source *s;
	static struct fakevm vm;
	struct vmferry_vm description;

	fakevm_init(&vm);
	vm.pulse = &stage->source;
	fakevm_fill(&vm, 70);
	fakevm_describe(&vm, &description);
	if (vmferry_source_new(&description, &fakevm_source_ops, &vm, stage->uri, &o, &s) < 0)
		_exit(1);
	atomic_store(&vm.source, s);
	fakevm_run(&vm);
	if (vmferry_source_start(s) < 0)
		_exit(1);
	atomic_store(&stage->source_result, vmferry_source_wait(s, vmferry_now() + 60 * SECOND));
	for (;;)
		pause();
}

static pid_t child(void)
{
	pid_t pid = fork();

	cr_assert_geq(pid, 0);
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

static void setup(void)
{
	stage = mmap(NULL, sizeof(*stage), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
		     0);
	cr_assert_neq(stage, MAP_FAILED);
	memset(stage, 0, sizeof(*stage));
	atomic_store(&stage->source_result, 1);
	stall_phase = -1;
}

static void reap(pid_t *pid)
{
	if (*pid <= 0)
		return;
	kill(*pid, SIGKILL);
	waitpid(*pid, NULL, 0);
	*pid = 0;
}

static void teardown(void)
{
	reap(&source_pid);
	reap(&destination_pid);
	munmap(stage, sizeof(*stage));
}

TestSuite(kill, .init = setup, .fini = teardown, .timeout = 180);

static void start(int source_phase, int destination_phase, bool in_run)
{
	destination_pid = child();
	if (destination_pid == 0) {
		stall_phase = destination_phase;
		be_destination(in_run);
	}
	for (int i = 0; i < 20000 && !atomic_load(&stage->listening); i++)
		usleep(1000);
	cr_assert(atomic_load(&stage->listening));
	source_pid = child();
	if (source_pid == 0) {
		stall_phase = source_phase;
		be_source();
	}
}

static void wait_for_stall(enum vmferry_phase phase)
{
	for (int i = 0; i < 20000 && atomic_load(&stage->stalled) == 0; i++)
		usleep(1000);
	cr_assert_eq(atomic_load(&stage->stalled), (int)phase + 1, "never came to %s",
		     vmferry_phase_name(phase));
}

static bool runs(struct fakevm_pulse *pulse)
{
	uint64_t writes = atomic_load(&pulse->writes);

	for (int ms = 0; ms < 20000 && atomic_load(&pulse->writes) == writes; ms++)
		usleep(1000);
	return atomic_load(&pulse->writes) > writes;
}

/* Five thousand times what a guest that runs takes for a write. */
static bool stands_still(struct fakevm_pulse *pulse)
{
	uint64_t writes = atomic_load(&pulse->writes);

	usleep(100000);
	return atomic_load(&pulse->writes) == writes;
}

static int source_result(void)
{
	for (int i = 0; i < 40000 && atomic_load(&stage->source_result) == 1; i++)
		usleep(1000);
	return atomic_load(&stage->source_result);
}

/* The destination dies before the commit point: the guest must run on at the source. */
static void destination_dies_early(enum vmferry_phase phase)
{
	int r;

	start(-1, (int)phase, false);
	wait_for_stall(phase);
	reap(&destination_pid);
	r = source_result();
	cr_assert_lt(r, 0, "ended with %d", r);
	cr_assert_neq(r, -EINPROGRESS);
	cr_assert(runs(&stage->source));
}

Test(kill, destination_in_check__runs_on_at_the_source)
{
	destination_dies_early(VMFERRY_CHECK);
}

Test(kill, destination_in_receive__runs_on_at_the_source)
{
	destination_dies_early(VMFERRY_RECEIVE);
}

Test(kill, destination_in_load__runs_on_at_the_source)
{
	destination_dies_early(VMFERRY_LOAD);
}

Test(kill, destination_in_ready__runs_on_at_the_source)
{
	destination_dies_early(VMFERRY_READY);
}

Test(kill, destination_after_go__is_indeterminate_and_stays_paused)
{
	start(-1, -1, true);
	wait_for_stall(VMFERRY_RUNNING);
	reap(&destination_pid);
	cr_assert_eq(source_result(), -EINPROGRESS);
	cr_assert(stands_still(&stage->source));
}

Test(kill, destination_when_it_runs__is_indeterminate_and_stays_paused)
{
	start(-1, VMFERRY_RUNNING, false);
	wait_for_stall(VMFERRY_RUNNING);
	cr_assert(runs(&stage->destination));
	reap(&destination_pid);
	cr_assert_eq(source_result(), -EINPROGRESS);
	cr_assert(stands_still(&stage->source));
}

Test(kill, destination_hangs_after_go__is_asked_over_a_new_connection)
{
	/* It runs the guest but never says RUNNING: its listener still knows the owner. */
	start(-1, VMFERRY_RUNNING, false);
	wait_for_stall(VMFERRY_RUNNING);
	cr_assert_eq(source_result(), 0);
	cr_assert(stands_still(&stage->source));
	cr_assert(runs(&stage->destination));
}

/*
 * The source dies before GO: the destination must not run the guest, and must be ready for another
 * source.
 */
static void source_dies_early(enum vmferry_phase phase)
{
	start((int)phase, -1, false);
	wait_for_stall(phase);
	reap(&source_pid);
	usleep(300000);
	cr_assert(stands_still(&stage->destination));
	atomic_store(&stage->stalled, 0);
	atomic_store(&stage->source_result, 1);
	source_pid = child();
	if (source_pid == 0)
		be_source();
	cr_assert_eq(source_result(), 0);
	cr_assert(runs(&stage->destination));
	cr_assert(stands_still(&stage->source));
}

Test(kill, source_in_setup__destination_takes_the_next_one)
{
	source_dies_early(VMFERRY_SETUP);
}

Test(kill, source_in_check__destination_takes_the_next_one)
{
	source_dies_early(VMFERRY_CHECK);
}

Test(kill, source_in_precopy__destination_takes_the_next_one)
{
	source_dies_early(VMFERRY_PRECOPY);
}

Test(kill, source_in_switchover__destination_takes_the_next_one)
{
	source_dies_early(VMFERRY_SWITCHOVER);
}

Test(kill, source_before_go__destination_takes_the_next_one)
{
	source_dies_early(VMFERRY_COMMITTED);
}

Test(kill, source_when_done__runs_on_at_the_destination)
{
	start(VMFERRY_DONE, -1, false);
	wait_for_stall(VMFERRY_DONE);
	reap(&source_pid);
	cr_assert(runs(&stage->destination));
}
