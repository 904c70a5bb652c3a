/* SPDX-License-Identifier: MIT */
/*
 * The reference guest that is built in: boots on two vCPUs, beats, and goes on in another machine.
 */
#include <criterion/criterion.h>

#include "ferry.h"
#include "quiet.h"

#define BEATS 50

TestSuite(builtin, .init = need_kvm, .timeout = 90);

static struct vmm *boot_builtin(const char *command_line)
{
	struct vmm_config config = small_config();
	struct vmm *vmm;

	quiet();
	config.memory = 64ull << 20;
	config.vcpus = 2;
	config.console_fd = -1;
	cr_assert_eq(vmm_new(&config, &vmm), 0, "%s", last_line());
	cr_assert_eq(vmm_boot(vmm, NULL, command_line, NULL, 0), 0, "%s", last_line());
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_ready(vmm);
	return vmm;
}

Test(builtin, two_vcpus__ready_and_both_beat)
{
	struct vmm *vmm = boot_builtin("fill=16M");

	wait_beats(vmm, BEATS);
	cr_assert_eq(status_of(vmm).faults, 0);
	vmm_free(&vmm);
}

Test(builtin, idle__goes_on_there_with_all_memory_right)
{
	struct vmm *source = boot_builtin("fill=16M scrub=256M");
	struct vmm *there;
	uint64_t ns = 0;

	wait_beats(source, BEATS);
	there = ferry(source);
	wait_beats(there, 500);
	cr_assert_eq(status_of(there).faults, 0);
	cr_assert_eq(vmm_observed_blackout(source, &ns), 0);
	cr_log_info("blackout by heartbeat, memory copied within: %llu us",
		    (unsigned long long)ns / 1000);
	cr_assert_gt(ns, 0);
	vmm_free(&source);
	vmm_free(&there);
}

Test(builtin, dirtying__goes_there_and_back_with_all_memory_right)
{
	struct vmm *source = boot_builtin("fill=16M ws=8M rate=50M scrub=256M");
	struct vmm *there, *back;

	wait_beats(source, BEATS);
	there = ferry(source);
	vmm_free(&source);
	wait_beats(there, 200);
	back = ferry(there);
	vmm_free(&there);
	wait_beats(back, 200);
	cr_assert_eq(status_of(back).faults, 0);
	vmm_free(&back);
}
