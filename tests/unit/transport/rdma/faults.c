/* SPDX-License-Identifier: MIT */
/*
 * A whole session with something going wrong on the wire or with a device, once for each request or
 * moment at which it may. Whatever it is: an error comes back in time or the bytes are there,
 * nothing is left behind, and the next session works.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "fake/fake.h"
#include "scene.h"

#define SEEDS 16
/*
 * From where on all that was sent is placed and read: what happens to the lanes then is no failure.
 */
#define ALL_IS_READ 11
#define CLOSING	    14
#define DELAYS	    24
#define DELAY_US    700

TestSuite(faults, .init = scene_begin, .fini = scene_end, .timeout = 240);

Test(faults, any_order_of_events__works)
{
	for (unsigned int seed = 1; seed <= SEEDS; seed++) {
		fake_reset();
		fake_seed(seed);
		cr_expect_eq(scene_run("seed", seed, true).error, 0);
	}
}

/* ---- requests -------------------------------------------------------------------------------- */

static const enum ibv_wc_status statuses[] = {
	IBV_WC_LOC_LEN_ERR,	  IBV_WC_LOC_QP_OP_ERR,	 IBV_WC_LOC_PROT_ERR, IBV_WC_BAD_RESP_ERR,
	IBV_WC_REM_INV_REQ_ERR,	  IBV_WC_REM_ACCESS_ERR, IBV_WC_REM_OP_ERR,   IBV_WC_RETRY_EXC_ERR,
	IBV_WC_RNR_RETRY_EXC_ERR, IBV_WC_REM_ABORT_ERR,	 IBV_WC_FATAL_ERR,    IBV_WC_GENERAL_ERR,
};
#define STATUSES (sizeof(statuses) / sizeof(statuses[0]))

struct requests {
	struct fake_match match;
	unsigned int runs;
};

static void order_request(void *ctx, unsigned int nth)
{
	struct requests *r = ctx;

	fake_fail_wr(&r->match, nth, statuses[r->runs++ % STATUSES]);
}

static void fail_requests(const char *what, enum ibv_wr_opcode opcode)
{
	struct requests requests = {.match = {.opcodes = FAKE_OPCODE(opcode)}};

	cr_expect_gt(scene_sweep(what, order_request, &requests), 0);
}

Test(faults, any_write_fails__an_error_in_time_and_nothing_left)
{
	fail_requests("write", IBV_WR_RDMA_WRITE);
}

Test(faults, any_fence_fails__an_error_in_time_and_nothing_left)
{
	fail_requests("fence", IBV_WR_RDMA_WRITE_WITH_IMM);
}

Test(faults, any_answer_to_a_fence_fails__an_error_in_time_and_nothing_left)
{
	fail_requests("answer", IBV_WR_SEND_WITH_IMM);
}

Test(faults, any_message_fails__an_error_in_time_and_nothing_left)
{
	fail_requests("message", IBV_WR_SEND);
}

Test(faults, any_read_fails__an_error_in_time_and_nothing_left)
{
	fail_requests("read", IBV_WR_RDMA_READ);
}

/* Of the first request of each kind, every status. */
Test(faults, any_status__an_error_in_time_and_nothing_left)
{
	const struct fake_match match = {0};

	for (unsigned int i = 0; i < STATUSES; i++) {
		fake_reset();
		fake_fail_wr(&match, 3 * i + 1, statuses[i]);
		cr_expect_lt(scene_run("status", statuses[i], true).error, 0);
	}
}

/* ---- fences and receives --------------------------------------------------------------------- */

Test(faults, receives_not_ready__tried_again)
{
	for (unsigned int count = 1; count <= 16; count *= 2) {
		fake_reset();
		fake_rnr(count);
		cr_expect_eq(scene_run("rnr", count, true).error, 0);
	}
}

Test(faults, fences_come_twice__an_error_in_time_and_nothing_left)
{
	for (unsigned int count = 1; count <= 4; count++) {
		fake_reset();
		fake_double_fences(count);
		scene_run("doubled", count, true);
	}
}

static unsigned int when;

static void hold_fences(unsigned int moment)
{
	if (moment == when)
		fake_hold_fences(true);
}

static pthread_t releaser;

static void *release_fences(void *arg)
{
	(void)arg;
	usleep(50000);
	fake_hold_fences(false);
	return NULL;
}

static void hold_fences_for_a_while(unsigned int moment)
{
	hold_fences(moment);
	if (moment == when)
		cr_assert_eq(pthread_create(&releaser, NULL, release_fences, NULL), 0);
}

static void run_at(const char *what, void (*at)(unsigned int moment), unsigned int moment,
		   int expected)
{
	struct scene_result result;

	fake_reset();
	when = moment;
	scene_moment = at;
	result = scene_run(what, moment, true);
	cr_expect_eq(result.error, expected, "%s %u: %s", what, moment, strerror(-result.error));
}

Test(faults, fences_come_late__reached)
{
	run_at("late", hold_fences_for_a_while, 7, 0);
	pthread_join(releaser, NULL);
}

Test(faults, fences_do_not_come__deadline_and_the_next_session_works)
{
	run_at("held", hold_fences, 5, -ETIMEDOUT);
	run_at("held", hold_fences, 9, -ETIMEDOUT);
}

static void cut(unsigned int moment)
{
	if (moment == when)
		fake_cut_wire(true);
}

Test(faults, wire_cut_at_any_moment__an_error_in_time_and_nothing_left)
{
	for (when = 0; when < SCENE_MOMENTS; when++) {
		fake_reset();
		scene_moment = cut;
		/* While nothing is under way it is not noticed. */
		if (scene_run("cut", when, true).error == 0)
			cr_expect_geq(when, ALL_IS_READ);
	}
}

/* ---- devices --------------------------------------------------------------------------------- */

static unsigned int device;

static void remove_device(unsigned int moment)
{
	if (moment == when)
		fake_device_remove(device);
}

/* Whether there is a session at this moment, which hears of it. */
static bool is_heard(unsigned int moment)
{
	return moment > 0 && moment < CLOSING;
}

/* All goes on but for the event, and a busy machine would be done before it is read. */
static void break_device(unsigned int moment)
{
	if (moment != when)
		return;
	fake_async(device, IBV_EVENT_DEVICE_FATAL);
	if (is_heard(moment))
		scene_await_complaint();
}

/*
 * The next session works if the device is @left, unless what it said last was heard by nobody
 * before.
 */
static void at_each_moment(const char *what, void (*at)(unsigned int moment), bool left)
{
	for (device = 0; device < 2; device++) {
		for (when = 0; when < SCENE_MOMENTS; when++) {
			fake_reset();
			scene_moment = at;
			if (scene_run(what, 100 * device + when, left && is_heard(when)).error == 0)
				cr_expect_geq(when, ALL_IS_READ, "%s %u: unnoticed", what, when);
		}
	}
}

Test(faults, device_removed_at_any_moment__an_error_in_time_and_nothing_left)
{
	at_each_moment("removed", remove_device, false);
}

static void *remove_soon(void *arg)
{
	usleep(*(unsigned int *)arg);
	fake_device_remove(device);
	return NULL;
}

Test(faults, device_removed_between_the_moments__an_error_in_time_and_nothing_left)
{
	for (unsigned int i = 0; i < DELAYS; i++) {
		unsigned int delay = i * DELAY_US;
		pthread_t thread;

		fake_reset();
		fake_seed(i);
		device = i % 2;
		cr_assert_eq(pthread_create(&thread, NULL, remove_soon, &delay), 0);
		scene_run("removed after us", delay, false);
		pthread_join(thread, NULL);
	}
}

Test(faults, device_fails_at_any_moment__an_error_in_time_and_nothing_left)
{
	at_each_moment("broken", break_device, true);
}
