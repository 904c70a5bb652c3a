/* SPDX-License-Identifier: MIT */
/* Pausing: all vCPUs out of the guest, quickly, every time, whatever they are doing. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <unistd.h>

#include "guests.h"

#define ROUNDS 50

TestSuite(pause, .init = need_kvm, .timeout = 40);

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return *x < *y ? -1 : *x > *y;
}

/* Pauses and resumes ROUNDS times; returns the median of pause() in nanoseconds. */
static uint64_t pause_often(struct vmm *vmm)
{
	uint64_t ns[ROUNDS];

	for (unsigned int i = 0; i < ROUNDS; i++) {
		uint64_t begin = vmferry_now();
		struct vmm_status before, after;

		cr_assert_eq(vmm_pause(vmm), 0);
		ns[i] = vmferry_now() - begin;
		before = status_of(vmm);
		cr_assert_not(before.running);
		usleep(1000);
		after = status_of(vmm);
		cr_assert_eq(before.pulse[0].beats, after.pulse[0].beats, "it runs on");
		cr_assert_eq(vmm_resume(vmm), 0);
		usleep(500);
	}
	qsort(ns, ROUNDS, sizeof(*ns), compare);
	cr_log_info("pause: median %llu us, worst %llu us",
		    (unsigned long long)ns[ROUNDS / 2] / 1000,
		    (unsigned long long)ns[ROUNDS - 1] / 1000);
	return ns[ROUNDS / 2];
}

Test(pause, while_it_runs__stops_and_goes_on)
{
	struct vmm_config config = small_config();
	struct vmm *vmm;

	vmm = boot_guest(&config, GUEST_TICKER);
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_beats(vmm, 10);
	cr_assert_lt(pause_often(vmm), 100000000);
	wait_beats(vmm, 10);
	cr_assert_eq(status_of(vmm).faults, 0, "an instruction was lost or done twice");
	vmm_free(&vmm);
}

Test(pause, while_vcpus_wait_or_halt__stops_and_goes_on)
{
	struct vmm_config config = small_config();
	struct vmm *vmm;

	config.vcpus = 2; /* the second one waits for its start-up interrupt all the time */
	vmm = boot_guest(&config, GUEST_HALTED);
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_ready(vmm);
	cr_assert_lt(pause_often(vmm), 100000000);
	vmm_free(&vmm);
}

Test(pause, again_and_before_anything_ran__fine)
{
	struct vmm_config config = small_config();
	struct vmm *vmm = boot_guest(&config, GUEST_TICKER);

	cr_assert_eq(vmm_pause(vmm), 0);
	cr_assert_eq(vmm_resume(vmm), 0);
	cr_assert_eq(vmm_resume(vmm), 0);
	cr_assert_eq(vmm_pause(vmm), 0);
	cr_assert_eq(vmm_pause(vmm), 0);
	for (unsigned int i = 0; i < 1000; i++) {
		cr_assert_eq(vmm_resume(vmm), 0);
		cr_assert_eq(vmm_pause(vmm), 0);
	}
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_beats(vmm, 5);
	vmm_free(&vmm);
}
