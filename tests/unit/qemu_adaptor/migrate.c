/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations between two QEMUs of tests: at the moment when the destination QEMU reads the
 * end of RAM, and its devices would look at memory, each page is as it was sent last.
 */
#include <criterion/criterion.h>
#include <string.h>

#include "rig.h"

#define SEEDS 3

static void expect_all(struct plan plan)
{
	struct rig rig;

	rig_open(&rig);
	for (unsigned int i = 0; i < SEEDS; i++) {
		plan.seed = i;
		rig_expect_migration(&rig, &plan);
	}
	rig_close(&rig);
}

Test(qemu_migrate, single_stream__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 4});
}

Test(qemu_migrate, return_path__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 3, .return_path = true});
}

Test(qemu_migrate, multifd__all_pages_are_there)
{
	for (unsigned int channels = 1; channels <= PLAN_CHANNELS_MAX; channels *= 2)
		expect_all((struct plan){.rounds = 4, .channels = channels, .return_path = true});
}

Test(qemu_migrate, multifd_zero_pages_in_main__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 5, .channels = 3, .legacy_zero = true});
}

Test(qemu_migrate, multifd_sync_of_sections__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 5,
				 .channels = 3,
				 .legacy_zero = true,
				 .sections_sync = true,
				 .pages_in_sync = true});
}

Test(qemu_migrate, multifd_without_last_flush__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 3, .channels = 3, .no_last_flush = true});
}

Test(qemu_migrate, xbzrle__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 4, .xbzrle = 2});
}

Test(qemu_migrate, multifd_compressed__all_pages_are_there)
{
	expect_all((struct plan){.rounds = 3, .channels = 3, .compressed = true});
}

static const enum placement_kind mapped[] = {PLACEMENT_MAPPED};
static const enum placement_kind forwarded[] = {PLACEMENT_FORWARD, PLACEMENT_FORWARD};

/*
 * QEMU places all pages from the moment on at which the stream is not understood, and the guest
 * arrives.
 */
static void expect_passed(struct plan plan, const char *why)
{
	static const enum placement_kind kinds[] = {PLACEMENT_MAPPED, PLACEMENT_PROCESS};
	struct guest guest;
	struct outcome o;
	struct rig rig;

	rig_open(&rig);
	for (unsigned int i = 0; i < SEEDS; i++) {
		plan.seed = i;
		guest_open(&guest, i, kinds, 2, 1500);
		rig_migrate(&rig, &plan, &guest, &o);
		cr_expect(o.sent, "%s", o.reason);
		cr_expect(o.source_completed, "%s", o.reason);
		cr_expect_str_eq(o.mode, "forward");
		cr_expect(strstr(o.reason, why) != NULL, "%s", o.reason);
		cr_expect(o.to.ended);
		cr_expect_eq(o.to.wrong_at_end, 0, "seed %u: %u pages", i, o.to.wrong_at_end);
		cr_expect(o.to.tail_right);
		guest_close(&guest);
	}
	rig_close(&rig);
}

Test(qemu_migrate, section_of_other_devices_behind_ram__is_passed_through)
{
	expect_passed((struct plan){.rounds = 2, .foreign = "dirty-bitmap"}, "'dirty-bitmap'");
	expect_passed((struct plan){.rounds = 2, .foreign = "vfio", .channels = 3}, "'vfio'");
}

Test(qemu_migrate, device_state_before_the_first_page__is_passed_through)
{
	expect_passed((struct plan){.rounds = 2, .early_device = true}, "'early'");
	expect_passed((struct plan){.rounds = 2, .early_device = true, .channels = 3}, "'early'");
}

Test(qemu_migrate, unknown_section_behind_pages_of_channels__stops_the_offload)
{
	expect_passed((struct plan){.rounds = 3, .channels = 5, .late_device = true}, "'late'");
}

Test(qemu_migrate, unknown_section_behind_pages_of_the_main_stream__ends_it)
{
	struct plan plan = {.rounds = 3, .late_device = true};
	struct guest guest;
	struct outcome o;
	struct rig rig;

	rig_open(&rig);
	guest_open(&guest, 5, mapped, 1, 500);
	rig_migrate(&rig, &plan, &guest, &o);
	cr_expect_not(o.source_completed);
	cr_expect_not(o.to.loaded);
	cr_expect(strstr(o.reason, "'late'") != NULL, "%s", o.reason);
	guest_close(&guest);
	rig_close(&rig);
}

static void expect_forwarded(const struct plan *plan)
{
	struct guest guest;
	struct outcome o;
	struct rig rig;

	rig_open(&rig);
	guest_open(&guest, 5, forwarded, 2, 500);
	rig_migrate(&rig, plan, &guest, &o);
	cr_expect(o.sent, "%s", o.reason);
	cr_expect(o.source_completed, "%s", o.reason);
	cr_expect_str_eq(o.mode, "forward");
	cr_expect_eq(o.moved, 0);
	cr_expect_eq(o.to.wrong_at_end, 0);
	cr_expect(o.to.tail_right);
	guest_close(&guest);
	rig_close(&rig);
}

Test(qemu_migrate, no_block_can_be_placed__qemu_places_all)
{
	expect_forwarded(&(struct plan){.rounds = 2});
	expect_forwarded(&(struct plan){.rounds = 2, .return_path = true});
	expect_forwarded(&(struct plan){.rounds = 2, .channels = 2});
	expect_forwarded(&(struct plan){
		.rounds = 2, .channels = 2, .legacy_zero = true, .sections_sync = true});
	expect_forwarded(&(struct plan){.rounds = 2, .xbzrle = 1});
}
