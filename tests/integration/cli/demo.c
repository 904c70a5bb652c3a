/* SPDX-License-Identifier: MIT */
/* The demo from end to end, with each tracker, with several vCPUs, and cancelled. */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <signal.h>
#include <string.h>

#include "guests.h"

static struct program demo;

static void tear_down(void)
{
	program_kill(&demo);
	work_tear_down();
}

TestSuite(demo, .timeout = 300, .init = work_set_up, .fini = tear_down);

#define SMALL_DEMO                                                                           \
	"demo", "--memory", "32M", "--fill", "24M", "--ws", "8M", "--rate", "20M", "--json", \
		work_path("r.json")

static void assert_moved(const char *tracker)
{
	struct json_object *report = json_from(work_path("r.json"));
	struct json_object *guest;

	report_assert_complete(report, "completed");
	cr_assert_str_eq(text_of(report, "verified"), "true");
	cr_assert_str_eq(text_of(report, "tracker"), tracker);
	cr_assert(json_object_object_get_ex(report, "guest", &guest));
	cr_assert_str_eq(text_of(guest, "runs_at"), "destination");
	cr_assert_eq(number_of(guest, "faults"), 0);
	cr_assert_gt(number_of(guest, "beats"), 0);
	json_object_put(report);
}

Test(demo, ring__moved_and_verified)
{
	cr_assert_eq(RUN_TO_END(&demo, SMALL_DEMO, "--tracker", "ring", "--downtime", "1s"), 0,
		     "%s", program_err(&demo));
	assert_moved("ring");
	cr_assert_not_null(strstr(program_out(&demo), "blackout, source"));
	cr_assert_not_null(strstr(program_out(&demo), "blackout, destination"));
}

Test(demo, log__moved_and_verified)
{
	cr_assert_eq(RUN_TO_END(&demo, SMALL_DEMO, "--tracker", "log", "--downtime", "1s"), 0, "%s",
		     program_err(&demo));
	assert_moved("log");
}

Test(demo, several_vcpus_one_lane__moved_and_verified)
{
	cr_assert_eq(RUN_TO_END(&demo, SMALL_DEMO, "--vcpus", "3", "--lanes", "1", "--pattern",
				"hotcold", "--zero", "20", "--downtime", "1s"),
		     0, "%s", program_err(&demo));
	assert_moved("ring");
}

Test(demo, ctrl_c__the_guest_runs_on_at_the_source)
{
	struct json_object *report;
	struct json_object *guest;

	PROGRAM(&demo, SMALL_DEMO, "--bandwidth", "1M", "--warmup", "0", "--log", "info",
		"--console", work_path("console"));
	/* The migration, of 24 s at least, begins within a moment of that. */
	cr_assert(file_says(work_path("console"), "ready", 60));
	sleep_ms(1000);
	kill(demo.pid, SIGINT);
	cr_assert_eq(program_finish(&demo, 60), 3, "%s", program_err(&demo));
	report = json_from(work_path("r.json"));
	report_assert_complete(report, "cancelled");
	cr_assert(json_object_object_get_ex(report, "guest", &guest));
	cr_assert_str_eq(text_of(guest, "runs_at"), "source");
	cr_assert_gt(number_of(guest, "beats"), 0);
	cr_assert_not_null(strstr(program_out(&demo), "the guest runs on at the source"));
	json_object_put(report);
}
