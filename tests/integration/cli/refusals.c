/* SPDX-License-Identifier: MIT */
/*
 * Migrations that cannot be: the exit status says so, the message says why, and the guest runs on.
 */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <string.h>

#include "guests.h"

static struct program source;
static struct program destination;

static void set_up(void)
{
	work_set_up();
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
}

static void tear_down(void)
{
	program_kill(&source);
	program_kill(&destination);
	work_tear_down();
}

/* A refusal is told in the report or, when there is none, as an error. */
static const char *said(const struct program *program)
{
	const char *out = program_out(program);

	return *out != '\0' ? out : program_err(program);
}

TestSuite(refusals, .timeout = 300, .init = set_up, .fini = tear_down);

Test(refusals, bad_uri__refused_with_a_right_example)
{
	struct program migrate;

	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), "tcp:nowhere"), 2);
	cr_assert_not_null(strstr(said(&migrate), "write for example tcp:"), "%s", said(&migrate));
	guest_assert_beats(work_path("a"));
}

Test(refusals, connection_refused__exit_1)
{
	struct program migrate;
	struct json_object *report;

	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), "tcp:127.0.0.1:1", "--json",
				work_path("r.json")),
		     1);
	report = json_from(work_path("r.json"));
	report_assert_complete(report, "failed");
	cr_assert_not_null(strstr(text_of(report, "reason"), "efused"), "%s",
			   text_of(report, "reason"));
	json_object_put(report);
	guest_assert_beats(work_path("a"));
}

Test(refusals, not_loopback_without_insecure__refused)
{
	struct program migrate;
	int code = RUN_TO_END(&migrate, "migrate", work_path("a"), "tcp:192.0.2.1:1");

	cr_assert(code == 1 || code == 2, "%d", code);
	cr_assert_not_null(strstr(said(&migrate), "insecure"), "%s", said(&migrate));
	guest_assert_beats(work_path("a"));
}

Test(refusals, guest_larger_than_the_limit__exit_1_and_the_receiver_waits_on)
{
	char uri[PATH_BYTES];
	struct program migrate;
	struct json_object *status;

	PROGRAM(&destination, "receive", "tcp:127.0.0.1:0", "--control", work_path("b"),
		"--memory-limit", "16M");
	receiver_uri(work_path("b"), uri);
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri), 1);
	cr_assert_not_null(strstr(program_out(&migrate), "memory"), "%s", program_out(&migrate));
	guest_assert_beats(work_path("a"));
	status = guest_status(work_path("b"));
	cr_assert_str_eq(text_of(status, "state"), "waiting");
	json_object_put(status);
}

Test(refusals, tracker_that_the_guest_was_not_started_for__fails)
{
	char uri[PATH_BYTES];
	struct program migrate;
	int code;

	PROGRAM(&destination, "receive", "tcp:127.0.0.1:0", "--control", work_path("b"));
	receiver_uri(work_path("b"), uri);
	code = RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--tracker", "log");
	cr_assert(code == 1 || code == 2, "%d", code);
	guest_assert_beats(work_path("a"));
}
