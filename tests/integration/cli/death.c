/* SPDX-License-Identifier: MIT */
/*
 * Real guests and SIGKILL in the middle of a migration. Every phase is gone through with a VM
 * without KVM in tests/integration/migration; here the guest itself judges, by its own checks of
 * its memory.
 */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "guests.h"

/* Slow enough that the first pass of 16 MiB lasts for a quarter of a minute. */
#define SLOWLY "--bandwidth", "1M"

static struct program source;
static struct program destination;

static void tear_down(void)
{
	program_kill(&source);
	program_kill(&destination);
	work_tear_down();
}

TestSuite(death, .timeout = 300, .init = work_set_up, .fini = tear_down);

static void start_both(char uri[PATH_BYTES])
{
	PROGRAM(&destination, "receive", "tcp:127.0.0.1:0", "--control", work_path("b"),
		"--console", "none");
	receiver_uri(work_path("b"), uri);
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
}

/* Waits until the guest has read all of its memory once more and found it right. */
static void assert_scrubs(const char *socket)
{
	struct json_object *status = guest_status(socket);
	int64_t before = number_of(status, "scrubs");
	int64_t now = before;

	json_object_put(status);
	/* The pass under way may have begun before; the one behind it did not. */
	for (unsigned int i = 0; i < 1500 && now < before + 2; i++) {
		sleep_ms(20);
		status = guest_status(socket);
		now = number_of(status, "scrubs");
		json_object_put(status);
	}
	cr_assert_geq(now, before + 2);
	guest_assert_beats(socket);
}

Test(death, receiver_killed_in_precopy__the_guest_runs_on_whole_and_moves_later)
{
	char uri[PATH_BYTES];
	struct program migrate;
	struct json_object *report;

	start_both(uri);
	PROGRAM(&migrate, "migrate", work_path("a"), uri, SLOWLY, "--json", work_path("r.json"));
	cr_assert(guest_reaches(work_path("a"), "migrating"));
	sleep_ms(500);
	program_kill(&destination);
	cr_assert_eq(program_finish(&migrate, 60), 1, "%s", program_err(&migrate));
	report = json_from(work_path("r.json"));
	report_assert_complete(report, "failed");
	json_object_put(report);
	assert_scrubs(work_path("a"));

	PROGRAM(&destination, "receive", "tcp:127.0.0.1:0", "--control", work_path("c"),
		"--console", "none");
	receiver_uri(work_path("c"), uri);
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--downtime", "1s",
				"--verify"),
		     0, "%s", program_err(&migrate));
	assert_scrubs(work_path("c"));
}

Test(death, source_killed_in_precopy__the_receiver_runs_nothing_and_takes_the_next)
{
	char uri[PATH_BYTES];
	struct program migrate;

	start_both(uri);
	PROGRAM(&migrate, "migrate", work_path("a"), uri, SLOWLY);
	cr_assert(guest_reaches(work_path("a"), "migrating"));
	sleep_ms(500);
	program_kill(&source);
	cr_assert_gt(program_finish(&migrate, 60), 0, "%s", program_err(&migrate));
	cr_assert(guest_reaches(work_path("b"), "waiting"));

	PROGRAM(&source, SMALL_GUEST(work_path("c")));
	guest_wait_ready(work_path("c"));
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("c"), uri, "--downtime", "1s",
				"--verify"),
		     0, "%s", program_err(&migrate));
	assert_scrubs(work_path("b"));
}
