/* SPDX-License-Identifier: MIT */
/*
 * Connections are lost, and the migration goes on: both ends of it in this process, a stretch of
 * network that can be cut between them, and every byte compared at the moment of the switchover.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cutter.h"
#include "migrator/engine/messages.h"
#include "rig.h"

/* Slow enough that a cut lands where it is meant to: 12 MiB take half a second. */
#define RATE (24ull << 20)
#define CUTS 5

static void setup(void)
{
	const struct vmferry_transport_options transport = {.size = sizeof(transport), .lanes = 2};

	rig_open(&transport);
	way = cutter_open(vmferry_destination_uri(destination));
	here.working_set = 256;
}

static void teardown(void)
{
	rig_close();
	cutter_close();
}

TestSuite(losses, .init = setup, .fini = teardown, .timeout = 240);

static uint64_t number(struct json_object *o, const char *name)
{
	return json_object_get_uint64(rig_member(o, name));
}

static struct vmferry_progress progress(void)
{
	struct vmferry_progress p;

	vmferry_source_progress(source, &p);
	return p;
}

static void await_sent(uint64_t bytes)
{
	for (int ms = 0; ms < 20000 && progress().bytes_sent < bytes; ms++)
		usleep(1000);
	cr_assert_geq(progress().bytes_sent, bytes);
}

static void expect_losses(unsigned int least, unsigned int most)
{
	struct json_object *r = rig_report(), *list = rig_member(r, "losses");
	size_t count = json_object_array_length(list);

	cr_expect_geq(count, least);
	cr_expect_leq(count, most);
	cr_expect_eq(progress().losses, count);
	for (size_t i = 0; i < count; i++) {
		struct json_object *loss = json_object_array_get_idx(list, i);

		cr_expect_neq(strlen(json_object_get_string(rig_member(loss, "cause"))), 0);
		cr_expect_str_eq(json_object_get_string(rig_member(loss, "transport_then")), "tcp");
		cr_expect_gt(number(loss, "resumed_us"), 0);
	}
	json_object_put(r);
}

/* ---- pre-copy -------------------------------------------------------------------------------- */

/* It has begun, and a part of the memory is on its way. */
static void start_sending(void)
{
	options.bandwidth = RATE;
	rig_start();
	await_sent(FAKEVM_LOW / 3);
}

static void cut_while_sending(void (*strike)(void))
{
	start_sending();
	strike();
	cr_assert_eq(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), 0);
	assert_arrived();
}

static void cut_all(void)
{
	cr_assert_eq(cutter_cut(), 3);
}

static void cut_control(void)
{
	cutter_cut_one(0);
}

static void cut_lane(void)
{
	cutter_cut_one(2);
}

Test(losses, all_connections_in_the_first_pass__goes_on)
{
	struct json_object *r;

	cut_while_sending(cut_all);
	expect_losses(1, 1);
	r = rig_report();
	/*
	 * What was on its way at most, and never what had arrived long before: neither all nor
	 * nothing.
	 */
	cr_expect_lt(number(json_object_array_get_idx(rig_member(r, "losses"), 0), "bytes_again"),
		     FAKEVM_LOW);
	cr_expect_gt(number(json_object_array_get_idx(rig_member(r, "losses"), 0), "bytes_again"),
		     0);
	json_object_put(r);
}

Test(losses, control_connection_alone__goes_on)
{
	cut_while_sending(cut_control);
	expect_losses(1, 1);
}

Test(losses, one_lane_alone__goes_on)
{
	cut_while_sending(cut_lane);
	expect_losses(1, 1);
}

Test(losses, with_verify__compares_equal)
{
	struct json_object *r;

	options.verify = true;
	cut_while_sending(cut_all);
	r = rig_report();
	cr_assert(json_object_get_boolean(rig_member(r, "verified")));
	json_object_put(r);
}

/* The lanes' own pace decides when: not only between two writes. */
Test(losses, at_any_moment_five_times__nothing_is_lost)
{
	for (unsigned int round = 0; round < 6; round++) {
		int r;

		srand(round + 1);
		options.bandwidth = RATE;
		rig_start();
		/* A first connection that cannot be had is no loss. */
		for (int ms = 0; ms < 20000 && vmferry_source_phase(source) == VMFERRY_SETUP; ms++)
			usleep(1000);
		for (int i = 0; i < CUTS; i++) {
			usleep((useconds_t)(rand() % 150000));
			cutter_cut();
		}
		r = vmferry_source_wait(source, vmferry_now() + 60 * SECOND);
		/* The cut may have hit GO itself. */
		if (r == -ECONNABORTED) {
			assert_stayed(r, r);
		} else {
			cr_assert_eq(r, 0, "round %u: %s", round, strerror(-r));
			assert_arrived();
		}
		teardown();
		setup();
	}
}

/* ---- around the switchover ------------------------------------------------------------------- */

static enum vmferry_phase cut_at;
static atomic_int cuts_left;

static void cut_in_phase(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == cut_at && atomic_fetch_sub(&cuts_left, 1) > 0)
		cutter_cut();
}

static void cut_now(void *ctx)
{
	(void)ctx;
	if (atomic_fetch_sub(&cuts_left, 1) > 0)
		cutter_cut();
}

/* The guest has been paused by then, and runs again here until both are connected. */
Test(losses, in_switchover__guest_runs_on_and_switches_over_later)
{
	struct json_object *r, *loss;

	cut_at = VMFERRY_SWITCHOVER;
	atomic_store(&cuts_left, 2);
	options.on_phase = cut_in_phase;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	expect_losses(2, 2);
	r = rig_report();
	loss = json_object_array_get_idx(rig_member(r, "losses"), 0);
	cr_expect_str_eq(json_object_get_string(rig_member(loss, "phase")), "switchover");
	json_object_put(r);
}

/* load() is called twice for trial; by the third time the guest is paused at the source. */
static atomic_int loads;

static void cut_at_last_load(void *ctx)
{
	if (atomic_fetch_add(&loads, 1) == 2)
		cut_now(ctx);
}

Test(losses, while_the_last_state_is_loaded__guest_runs_on_and_switches_over_later)
{
	struct json_object *r, *loss;

	atomic_store(&loads, 0);
	atomic_store(&cuts_left, 1);
	there.in_load = cut_at_last_load;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	expect_losses(1, 1);
	r = rig_report();
	loss = json_object_array_get_idx(rig_member(r, "losses"), 0);
	cr_expect_gt(number(loss, "paused_us"), 0);
	cr_expect_gt(atomic_load(&here.pulse->resumes), 2, "it stood until the end");
	json_object_put(r);
}

/* The state has come, and the fence behind the last pages may be on its way. */
Test(losses, as_the_last_state_comes__guest_runs_on_and_switches_over_later)
{
	for (int round = 0; round < 4; round++) {
		cut_at = VMFERRY_LOAD;
		atomic_store(&cuts_left, 1);
		phase_there = cut_in_phase;
		options.bandwidth = 0;
		here.pace_ns = 1000;
		cr_assert_eq(rig_migrate(), 0);
		assert_arrived();
		expect_losses(1, 1);
		teardown();
		setup();
	}
}

/* Ready, and nobody has said GO yet. */
Test(losses, when_it_is_ready__guest_runs_on_and_switches_over_later)
{
	cut_at = VMFERRY_READY;
	atomic_store(&cuts_left, 1);
	phase_there = cut_in_phase;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	expect_losses(1, 1);
}

/*
 * From GO on the rules of the commit hold: the source asks, and is told that the guest runs there.
 */
Test(losses, behind_go__asked_after)
{
	struct json_object *r;

	atomic_store(&cuts_left, 1);
	there.in_run = cut_now;
	cr_assert_eq(rig_migrate(), 0);
	cr_assert_eq(vmferry_destination_wait(destination, vmferry_now() + 60 * SECOND), 0);
	cr_assert_eq(there.differing_pages, 0);
	cr_assert_not(atomic_load(&here.pulse->running));
	r = rig_report();
	cr_expect_eq(json_object_array_length(rig_member(r, "losses")), 0);
	json_object_put(r);
}

/* The source cannot know whether it came: it asks, and then the destination never runs it. */
Test(losses, go_does_not_come__guest_runs_on_here)
{
	cut_at = VMFERRY_COMMITTED;
	atomic_store(&cuts_left, 1);
	options.on_phase = cut_in_phase;
	rig_start();
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), -ECONNABORTED);
	assert_abandoned();
}

/* ---- when it does not come back -------------------------------------------------------------- */

Test(losses, never__fails_as_it_did)
{
	options.reconnect_ns = VMFERRY_RECONNECT_NEVER;
	start_sending();
	cutter_cut();
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), -ECONNRESET);
	assert_abandoned();
}

Test(losses, destination_has_ended__fails_soon)
{
	options.reconnect_ns = 1000 * SECOND;
	start_sending();
	cutter_refuse();
	cutter_cut();
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), -ECONNRESET);
	/* Not before it is clear that it is no short absence; nor much later. */
	cr_expect_lt(progress().elapsed_ns, 30 * SECOND);
}

Test(losses, nobody_answers_in_time__fails_with_the_first_cause)
{
	struct json_object *r;

	options.reconnect_ns = SECOND / 2;
	start_sending();
	cutter_freeze();
	cutter_cut();
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), -ECONNRESET);
	r = rig_report();
	cr_expect_not_null(
		strstr(json_object_get_string(rig_member(r, "reason")), "connecting again failed"));
	json_object_put(r);
}

/* Silence, and nobody resets anything: the unanswered ping is what tells. */
Test(losses, silent_network__noticed_and_goes_on)
{
	options.reconnect_ns = 30 * SECOND;
	options.timeout_ns = 60 * SECOND;
	start_sending();
	cutter_freeze();
	for (int ms = 0; ms < 30000 && !progress().reconnecting; ms++)
		usleep(1000);
	cr_assert(progress().reconnecting);
	cutter_mend();
	cr_assert_eq(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), 0);
	assert_arrived();
}

Test(losses, cancelled_while_it_is_lost__guest_runs_on)
{
	options.reconnect_ns = 1000 * SECOND;
	options.timeout_ns = 1000 * SECOND;
	start_sending();
	cutter_freeze();
	cutter_cut();
	for (int ms = 0; ms < 20000 && !progress().reconnecting; ms++)
		usleep(1000);
	cr_assert_eq(vmferry_source_cancel(source), 0);
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), -ECANCELED);
}

/* ---- who else may come ----------------------------------------------------------------------- */

static int say_rejoin(const struct rejoin *rejoin, size_t length)
{
	struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 1};
	struct vmferry_session *session;
	struct vmferry_message m;
	int type = -1;

	cr_assert_eq(vmferry_connect(vmferry_destination_uri(destination), &o,
				     vmferry_now() + 20 * SECOND, &session),
		     0);
	cr_assert_eq(vmferry_send(session, VMFERRY_CONTROL, MESSAGE_REJOIN, rejoin, length,
				  vmferry_now() + 20 * SECOND),
		     0);
	if (vmferry_recv(session, &m, vmferry_now() + 20 * SECOND) == 0) {
		type = (int)m.type;
		vmferry_message_free(&m);
	}
	vmferry_session_close(&session);
	return type;
}

Test(losses, somebody_else_wants_to_go_on__refused_and_nobody_notices)
{
	const struct rejoin guess = {.id = {1}, .secret = {2}};

	start_sending();
	cr_expect_eq(say_rejoin(&guess, sizeof(guess)), MESSAGE_ABORT);
	cr_expect_eq(say_rejoin(&guess, sizeof(guess) - 1), MESSAGE_ABORT);
	cr_assert_eq(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), 0);
	assert_arrived();
	expect_losses(0, 0);
}

Test(losses, nothing_is_under_way__refused)
{
	const struct rejoin guess = {.id = {1}, .secret = {2}};

	cr_expect_eq(say_rejoin(&guess, sizeof(guess)), MESSAGE_ABORT);
}

/* The source has died, and its next one is not told to wait until the first is given up. */
Test(losses, another_source_while_one_is_waited_for__is_served)
{
	options.reconnect_ns = 1000 * SECOND;
	start_sending();
	cutter_freeze();
	cutter_cut();
	for (int ms = 0; ms < 20000 && vmferry_destination_phase(destination) != VMFERRY_RECEIVE;
	     ms++)
		usleep(1000);
	vmferry_source_cancel(source);
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), -ECANCELED);
	rig_end_source();
	way = NULL;
	options.bandwidth = 0;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}
