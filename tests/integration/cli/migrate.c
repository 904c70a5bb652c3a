/* SPDX-License-Identifier: MIT */
/* Two terminals: run, receive and migrate as three processes, to the end, onward, and cancelled. */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "guests.h"

static struct program source;
static struct program destination;
static struct program third;

static void tear_down(void)
{
	program_kill(&source);
	program_kill(&destination);
	program_kill(&third);
	work_tear_down();
}

TestSuite(migrate, .timeout = 300, .init = work_set_up, .fini = tear_down);

static void start_receiver(struct program *program, const char *socket, char uri[PATH_BYTES])
{
	PROGRAM(program, "receive", "tcp:127.0.0.1:0", "--control", socket, "--console", "none",
		"--json", work_path("arrival.json"));
	receiver_uri(socket, uri);
}

static struct json_object *member(struct json_object *object, const char *name)
{
	struct json_object *value = NULL;

	cr_assert(json_object_object_get_ex(object, name, &value), "no %s", name);
	return value;
}

/* Over TCP the destination counts what it places, and nothing is pinned. */
static void assert_arrival(struct json_object *report)
{
	struct json_object *arrival = json_from(work_path("arrival.json"));
	int64_t placed = number_of(arrival, "placed_bytes");

	cr_assert_str_eq(text_of(arrival, "result"), "completed");
	cr_assert_str_eq(text_of(arrival, "transport"), "tcp");
	cr_assert_gt(strlen(text_of(arrival, "transport_reason")), 0);
	cr_assert_gt(number_of(arrival, "lanes"), 0);
	cr_assert_gt(placed, 0);
	cr_assert_eq(placed, number_of(member(report, "link"), "placed_bytes"));
	cr_assert_eq(placed, number_of(member(report, "pages"), "payload_bytes"));
	cr_assert_eq(number_of(member(arrival, "registration"), "bytes"), 0);
	cr_assert_eq(number_of(member(arrival, "registration"), "regions"), 0);
	json_object_put(arrival);
}

static void assert_arrival_reason(const char *reason)
{
	struct json_object *arrival = json_from(work_path("arrival.json"));

	cr_assert_str_eq(text_of(arrival, "transport_reason"), reason);
	json_object_put(arrival);
}

Test(migrate, two_terminals__and_onward)
{
	char uri[PATH_BYTES];
	struct program migrate;
	struct json_object *report;
	struct json_object *guest;

	start_receiver(&destination, work_path("b"), uri);
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--downtime", "1s",
				"--verify", "--json", work_path("report.json")),
		     0, "%s", program_err(&migrate));
	cr_assert_not_null(strstr(program_out(&migrate), "completed"));
	report = json_from(work_path("report.json"));
	report_assert_complete(report, "completed");
	cr_assert_str_eq(text_of(report, "verified"), "true");
	cr_assert_gt(number_of(report, "observed_blackout_us"), 0);
	cr_assert(json_object_object_get_ex(report, "guest", &guest));
	cr_assert_eq(number_of(guest, "faults"), 0);
	guest_assert_beats(work_path("b"));
	assert_arrival(report);
	json_object_put(report);

	cr_assert_eq(program_finish(&source, 60), 0);
	cr_assert_not_null(strstr(program_out(&source), uri), "%s", program_out(&source));
	cr_assert_eq(access(work_path("a"), F_OK), -1);

	start_receiver(&third, work_path("c"), uri);
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("b"), uri, "--downtime", "1s"), 0,
		     "%s", program_err(&migrate));
	cr_assert_eq(program_finish(&destination, 60), 0);
	guest_assert_beats(work_path("c"));
	cr_assert_eq(guest_quit(&third, work_path("c")), 0);
}

static void start_both_without_rdma(char uri[PATH_BYTES])
{
	if (access("/sys/class/infiniband", F_OK) == 0)
		cr_skip_test("this host has RDMA");
	start_receiver(&destination, work_path("b"), uri);
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
}

/* What was wished for and could not be had is told on both sides, in the file and on the screen. */
Test(migrate, auto_without_rdma__the_report_says_so)
{
	char uri[PATH_BYTES];
	struct program migrate;
	struct json_object *report;

	start_both_without_rdma(uri);
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--transport", "auto",
				"--downtime", "1s", "--json", work_path("report.json")),
		     0, "%s", program_err(&migrate));
	report = json_from(work_path("report.json"));
	cr_assert_str_eq(text_of(report, "transport"), "tcp");
	cr_assert_str_eq(text_of(report, "transport_reason"), "no RDMA device here");
	cr_assert_not_null(strstr(program_out(&migrate), "no RDMA device here"), "%s",
			   program_out(&migrate));
	json_object_put(report);
	guest_assert_beats(work_path("b"));
	assert_arrival_reason("the source asked for it");
}

Test(migrate, rdma_without_a_device__fails_and_the_guest_runs_on)
{
	char uri[PATH_BYTES];
	struct program migrate;
	struct json_object *report;

	start_both_without_rdma(uri);
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--transport", "rdma",
				"--json", work_path("report.json")),
		     1);
	report = json_from(work_path("report.json"));
	report_assert_complete(report, "failed");
	json_object_put(report);
	cr_assert(guest_reaches(work_path("a"), "running"));
	guest_assert_beats(work_path("a"));
}

Test(migrate, ctrl_c__the_guest_runs_on_and_can_be_migrated_again)
{
	char uri[PATH_BYTES];
	struct program migrate;
	struct json_object *report;

	start_receiver(&destination, work_path("b"), uri);
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	PROGRAM(&migrate, "migrate", work_path("a"), uri, "--bandwidth", "1M", "--json",
		work_path("report.json"));
	cr_assert(guest_reaches(work_path("a"), "migrating"));
	sleep_ms(300);
	kill(migrate.pid, SIGINT);
	cr_assert_eq(program_finish(&migrate, 60), 3, "%s", program_err(&migrate));
	report = json_from(work_path("report.json"));
	report_assert_complete(report, "cancelled");
	json_object_put(report);
	guest_assert_beats(work_path("a"));
	cr_assert(guest_reaches(work_path("b"), "waiting"));

	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--downtime", "1s",
				"--verify"),
		     0, "%s", program_err(&migrate));
	guest_assert_beats(work_path("b"));
	cr_assert_eq(guest_quit(&destination, work_path("b")), 0);
}

Test(migrate, driver_killed__the_migration_goes_on)
{
	char uri[PATH_BYTES];
	struct program migrate;

	start_receiver(&destination, work_path("b"), uri);
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	PROGRAM(&migrate, "migrate", work_path("a"), uri, "--bandwidth", "16M", "--downtime", "2s");
	cr_assert(guest_reaches(work_path("a"), "migrating"));
	program_kill(&migrate);
	cr_assert_eq(program_finish(&source, 60), 0);
	guest_assert_beats(work_path("b"));
}

Test(migrate, ctrl_c_at_the_source_during_a_migration__ends_both)
{
	char uri[PATH_BYTES];
	struct program migrate;

	start_receiver(&destination, work_path("b"), uri);
	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	PROGRAM(&migrate, "migrate", work_path("a"), uri, "--bandwidth", "1M");
	cr_assert(guest_reaches(work_path("a"), "migrating"));
	kill(source.pid, SIGINT);
	cr_assert_eq(program_finish(&source, 60), 0);
	cr_assert_eq(program_finish(&migrate, 60), 3);
	kill(destination.pid, SIGINT);
	cr_assert_eq(program_finish(&destination, 60), 3);
}
