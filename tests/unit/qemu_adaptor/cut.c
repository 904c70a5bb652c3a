/* SPDX-License-Identifier: MIT */
/*
 * Migrations that end at any moment: by QEMU, by the service, by the other host; and the next one
 * over the same services.
 */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "rig.h"

static const enum placement_kind kinds[] = {PLACEMENT_MAPPED, PLACEMENT_PROCESS};

/*
 * Tries one that is cut after @cut bytes: nobody may say that it was completed, and the next one
 * is.
 */
static void cut_and_retry(struct rig *rig, struct plan plan, uint64_t cut)
{
	struct guest guest;
	struct outcome o;

	plan.cut = cut;
	guest_open(&guest, cut, kinds, 2, 600);
	rig_migrate(rig, &plan, &guest, &o);
	cr_expect_not(o.sent);
	cr_expect_not(o.source_completed, "cut at %lu", cut);
	cr_expect_not(o.destination_completed, "cut at %lu", cut);
	cr_expect_not(o.to.loaded, "cut at %lu", cut);
	cr_expect_str_neq(o.reason, "; ", "cut at %lu", cut);
	guest_close(&guest);
}

static void cut_anywhere(struct plan plan)
{
	uint64_t random = 99;
	struct rig rig;

	rig_open(&rig);
	for (uint64_t cut = 1; cut < 200; cut += 23)
		cut_and_retry(&rig, plan, cut);
	for (unsigned int i = 0; i < 10; i++)
		cut_and_retry(&rig, plan, 1 + guest_draw(&random, 3000000));
	plan.cut = 0;
	rig_expect_migration(&rig, &plan);
	rig_close(&rig);
}

Test(qemu_cut, single_stream_cut_anywhere__the_next_one_works)
{
	cut_anywhere((struct plan){.rounds = 2});
}

Test(qemu_cut, return_path_cut_anywhere__the_next_one_works)
{
	cut_anywhere((struct plan){.rounds = 2, .return_path = true});
}

Test(qemu_cut, multifd_cut_anywhere__the_next_one_works)
{
	cut_anywhere((struct plan){.rounds = 2, .channels = 4});
}

Test(qemu_cut, many_migrations__leave_no_file_open)
{
	struct plan plan = {.rounds = 1, .channels = 2};
	unsigned int before;
	struct rig rig;

	rig_open(&rig);
	cut_and_retry(&rig, plan, 100000);
	before = rig_open_files();
	for (unsigned int i = 0; i < 100; i++)
		cut_and_retry(&rig, plan, 1 + 30000 * i);
	cr_expect_eq(rig_open_files(), before);
	rig_close(&rig);
}

/* ---- cancelled ---- */

Test(qemu_cut, cancelled_at_any_moment__ends_at_once_with_qemu_shut_out)
{
	struct plan plan = {0};
	struct guest guest;
	struct rig rig;

	rig_open(&rig);
	for (unsigned int i = 0; i < 20; i++) {
		struct rig_source s;
		struct qemu_to to;
		uint64_t begun;
		uint8_t byte;
		int fd;

		guest_open(&guest, i, kinds, 2, 100);
		guest_set_current(&guest);
		qemu_to_start(&to, &plan, &guest, rig.path);
		rig_source_start(&rig, &s, &fd);
		cr_assert_eq(send(fd, "QEVM\0\0\0\3", 8, MSG_NOSIGNAL), 8);
		usleep(i * 1000);
		begun = vmferry_now();
		qemu_source_cancel(s.source);
		cr_expect_leq(recv(fd, &byte, 1, 0), 0);
		cr_expect_lt(vmferry_now() - begun, 1000 * MS);
		rig_source_await(&s);
		cr_expect_not(s.completed);
		json_object_put(s.report);
		rig_await_destinations(&rig, i + 1);
		close(fd);
		plan.cut = 1;
		qemu_to_join(&to);
		guest_close(&guest);
	}
	rig_close(&rig);
}
