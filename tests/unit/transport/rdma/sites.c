/* SPDX-License-Identifier: MIT */
/*
 * A whole session once for every call into the device's libraries that may fail. Whichever it is:
 * an error comes back in time or the session works all the same, nothing is left behind, and the
 * next session works.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "fake/fake.h"
#include "scene.h"

#define SITES_MIN 40 /* fewer would mean that they are not counted */

TestSuite(sites, .init = scene_begin, .fini = scene_end, .timeout = 240);

/* Of set-up: each of them is made in every run. */
static void fail_each(int error)
{
	struct scene_result result = scene_run("nothing", 0, true);
	unsigned int failed = 0;

	cr_assert_eq(result.error, 0);
	cr_assert_gt(result.calls, SITES_MIN);
	for (unsigned int i = 1; i <= result.calls; i++) {
		fake_reset();
		fake_fail_call(i, error);
		failed += scene_run("call", i, true).error < 0;
	}
	cr_expect_gt(failed, SITES_MIN, "hardly any of the failures was noticed");
}

Test(sites, out_of_memory_at_each__an_error_in_time_and_nothing_left)
{
	fail_each(ENOMEM);
}

Test(sites, refused_at_each__an_error_in_time_and_nothing_left)
{
	fail_each(EINVAL);
}

/* No errno that means anything to the library. */
Test(sites, fails_at_each__the_cause_is_said)
{
	scene_cause = strerror(EDQUOT);
	fail_each(EDQUOT);
}

struct call {
	enum fake_call call;
	int error;
};

static void order_call(void *ctx, unsigned int nth)
{
	const struct call *c = ctx;

	fake_fail_at(c->call, nth, c->error);
}

static unsigned int fail_often(const char *what, enum fake_call call, int error)
{
	return scene_sweep(what, order_call, &(struct call){call, error});
}

Test(sites, any_post_of_requests_fails__an_error_in_time_and_nothing_left)
{
	cr_expect_gt(fail_often("post_send", FAKE_POST_SEND, ENOMEM), 0);
	cr_expect_gt(fail_often("post_send", FAKE_POST_SEND, EIO), 0);
}

Test(sites, any_post_of_a_receive_fails__an_error_in_time_and_nothing_left)
{
	cr_expect_gt(fail_often("post_recv", FAKE_POST_RECV, ENOMEM), 0);
}

Test(sites, any_polling_fails__an_error_in_time_and_nothing_left)
{
	cr_expect_gt(fail_often("poll_cq", FAKE_POLL_CQ, EIO), 0);
}

Test(sites, any_arming_fails__an_error_in_time_and_nothing_left)
{
	cr_expect_gt(fail_often("req_notify_cq", FAKE_REQ_NOTIFY_CQ, EIO), 0);
}

Test(sites, any_fetching_of_a_completion_event_fails__nothing_is_lost)
{
	/* The event is still there, and is fetched the next time. */
	cr_expect_eq(fail_often("get_cq_event", FAKE_GET_CQ_EVENT, EIO), 0);
}

Test(sites, any_fetching_of_a_connection_event_fails__an_error_in_time_and_nothing_left)
{
	cr_expect_gt(fail_often("get_cm_event", FAKE_GET_CM_EVENT, EIO), 0);
}
