/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>

#include "migrator/engine/phase.h"

#define PHASES (VMFERRY_INDETERMINATE + 1)

static int told;
static enum vmferry_phase last;

static void tell(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	told++;
	last = phase;
}

Test(phase, names__every_phase_has_its_own)
{
	for (int i = 0; i < PHASES; i++) {
		cr_assert_not_null(vmferry_phase_name((enum vmferry_phase)i));
		for (int k = 0; k < i; k++)
			cr_assert_str_neq(vmferry_phase_name((enum vmferry_phase)i),
					  vmferry_phase_name((enum vmferry_phase)k));
	}
	cr_assert_null(vmferry_phase_name((enum vmferry_phase)PHASES));
}

Test(phase, source_in_order__is_allowed_and_told)
{
	static const enum vmferry_phase way[] = {VMFERRY_CHECK, VMFERRY_PRECOPY, VMFERRY_SWITCHOVER,
						 VMFERRY_COMMITTED, VMFERRY_DONE};
	struct phase_machine m;

	phase_init(&m, PHASE_SOURCE, tell, NULL);
	cr_assert_eq(phase_now(&m), VMFERRY_SETUP);
	for (unsigned int i = 0; i < sizeof(way) / sizeof(way[0]); i++) {
		cr_assert_eq(phase_enter(&m, way[i]), 0);
		cr_assert_eq(last, way[i]);
	}
	cr_assert_eq(told, 5);
}

Test(phase, source_step_left_out__is_refused_and_nothing_changes)
{
	struct phase_machine m;

	phase_init(&m, PHASE_SOURCE, tell, NULL);
	cr_assert_eq(phase_enter(&m, VMFERRY_SWITCHOVER), -EPROTO);
	cr_assert_eq(phase_now(&m), VMFERRY_SETUP);
	cr_assert_eq(told, 0);
}

Test(phase, committed_source__cannot_be_cancelled)
{
	cr_assert_not(phase_allowed(PHASE_SOURCE, VMFERRY_COMMITTED, VMFERRY_CANCELLED));
	cr_assert(phase_allowed(PHASE_SOURCE, VMFERRY_COMMITTED, VMFERRY_INDETERMINATE));
}

Test(phase, ended__leads_nowhere)
{
	static const enum vmferry_phase ends[] = {VMFERRY_DONE, VMFERRY_CANCELLED, VMFERRY_FAILED,
						  VMFERRY_INDETERMINATE};

	for (unsigned int i = 0; i < 4; i++) {
		for (int to = 0; to < PHASES; to++)
			cr_assert_not(phase_allowed(PHASE_SOURCE, ends[i], (enum vmferry_phase)to));
	}
}

Test(phase, destination__runs_only_out_of_ready)
{
	for (int from = 0; from < PHASES; from++)
		cr_assert_eq(
			phase_allowed(PHASE_DESTINATION, (enum vmferry_phase)from, VMFERRY_RUNNING),
			from == VMFERRY_READY);
}

Test(phase, running_destination__cannot_fail_or_be_cancelled)
{
	cr_assert_not(phase_allowed(PHASE_DESTINATION, VMFERRY_RUNNING, VMFERRY_FAILED));
	cr_assert_not(phase_allowed(PHASE_DESTINATION, VMFERRY_RUNNING, VMFERRY_CANCELLED));
	cr_assert(phase_allowed(PHASE_DESTINATION, VMFERRY_FAILED, VMFERRY_LISTEN));
}
