/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations over a fake device, once for each thing that may fail. Whichever it is: either
 * the guest arrives, equal in every byte, or it runs on here, and there is one runner in any case;
 * and another attempt at the same destination arrives.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"
#include "unit/transport/rdma/fake/fake.h"

/* Of the later ones one in so many is tried. */
#define SLOWER	  2
#define CALLS_MIN 40 /* fewer would mean that they are not counted */
/*
 * Noticing that the peer is gone, giving the last words up, and asking for an answer to GO: each
 * has seconds.
 */
#define ALL_NS	 (15 * SECOND)
#define DELAYS	 16
#define DELAY_US 2500

TestSuite(migrate_faults, .timeout = 240);

static unsigned int calls_before;

/* What is ordered after this fails in the migration, and not in listening for it. */
static void open_with(vmferry_phase_fn on_phase)
{
	const struct vmferry_transport_options transport = {
		.size = sizeof(transport),
		.transport = VMFERRY_TRANSPORT_AUTO,
		.lanes = 2,
		.insecure = true,
		.rails = {"10.99.0.1", "10.99.1.1"},
		.rail_count = 2,
	};

	fake_reset();
	rig_open(&transport);
	calls_before = fake_calls();
	options.transport.transport = VMFERRY_TRANSPORT_RDMA;
	options.on_phase = on_phase;
	options.reconnect_ns = SECOND;
	/* So that there is something to send in each phase and the whole is short. */
	here.working_set = 64;
}

static bool runs_here(void)
{
	uint64_t writes = atomic_load(&here.pulse->writes);

	for (int ms = 0; ms < 20000 && atomic_load(&here.pulse->writes) == writes; ms++)
		usleep(1000);
	return atomic_load(&here.pulse->writes) != writes;
}

static void expect_arrived(const char *what, unsigned int number)
{
	int ret = vmferry_destination_wait(destination, vmferry_now() + ALL_NS);

	cr_expect_eq(ret, 0, "%s %u: the destination says %s", what, number, strerror(-ret));
	cr_expect(atomic_load(&there.compared), "%s %u: it never ran", what, number);
	cr_expect_eq(there.differing_pages, 0, "%s %u: %lu pages differ", what, number,
		     (unsigned long)there.differing_pages);
	cr_expect_not(atomic_load(&here.pulse->running), "%s %u: it runs here too", what, number);
}

static void expect_one_runner(const char *what, unsigned int number, int result)
{
	/*
	 * Nobody has died: where the source does not know it, the guest runs at the destination, or
	 * it would run nowhere.
	 */
	if (result == 0 || result == -EINPROGRESS) {
		expect_arrived(what, number);
		return;
	}
	cr_expect_eq(vmferry_source_phase(source), VMFERRY_FAILED, "%s %u: no end", what, number);
	cr_expect(runs_here(), "%s %u: it runs nowhere", what, number);
	cr_expect_not(here.committed, "%s %u: committed", what, number);
	cr_expect_not(atomic_load(&there.compared), "%s %u: it ran there", what, number);
}

static void expect_another_arrives(const char *what, unsigned int number)
{
	int ret;

	rig_end_source();
	options.on_phase = NULL;
	there.in_load = there.in_run = NULL;
	/* Where a device is gone there is TCP. */
	options.transport.transport = VMFERRY_TRANSPORT_AUTO;
	ret = rig_migrate();
	cr_expect_eq(ret, 0, "%s %u: the next attempt: %s", what, number, strerror(-ret));
	if (ret == 0)
		expect_arrived(what, number);
}

struct outcome {
	int result;
	bool reached;
	unsigned int calls;
};

/* After open_with() and an order. */
static struct outcome run(const char *what, unsigned int number)
{
	uint64_t begun = vmferry_now();
	struct outcome o;

	o.result = rig_migrate();
	o.reached = fake_reached();
	o.calls = fake_calls() - calls_before;
	cr_expect_lt(vmferry_now() - begun, ALL_NS, "%s %u: %s took too long", what, number,
		     strerror(-o.result));
	fake_forget();
	expect_one_runner(what, number, o.result);
	if (o.result < 0 && o.result != -EINPROGRESS)
		expect_another_arrives(what, number);
	rig_close();
	cr_expect_not(fake_leaks(), "%s %u: something was left behind", what, number);
	return o;
}

/* ---- calls ----------------------------------------------------------------------------------- */

Test(migrate_faults, out_of_memory_at_each_call__one_runner)
{
	unsigned int failed = 0;
	struct outcome o;

	open_with(NULL);
	o = run("nothing", 0);
	cr_assert_eq(o.result, 0);
	cr_assert_gt(o.calls, CALLS_MIN);
	for (unsigned int i = 1; i <= o.calls; i++) {
		open_with(NULL);
		fake_fail_call(i, ENOMEM);
		failed += run("call", i).result < 0;
	}
	cr_expect_gt(failed, CALLS_MIN);
}

/* Until a run in which it did not come to the @nth. */
static void sweep(const char *what, void (*order)(const void *ctx, unsigned int nth),
		  const void *ctx)
{
	struct outcome o;
	unsigned int i = 1;

	do {
		open_with(NULL);
		fake_seed(i);
		order(ctx, i);
		o = run(what, i);
		cr_expect(o.result == 0 || o.reached, "%s %u: another error", what, i);
		i += 1 + i / SLOWER;
	} while (o.reached);
}

static void order_call(const void *ctx, unsigned int nth)
{
	fake_fail_at(*(const enum fake_call *)ctx, nth, EIO);
}

static void fail_often(const char *what, enum fake_call call)
{
	sweep(what, order_call, &call);
}

Test(migrate_faults, any_post_of_requests_fails__one_runner)
{
	fail_often("post_send", FAKE_POST_SEND);
}

Test(migrate_faults, any_post_of_a_receive_fails__one_runner)
{
	fail_often("post_recv", FAKE_POST_RECV);
}

Test(migrate_faults, any_polling_or_arming_fails__one_runner)
{
	fail_often("poll_cq", FAKE_POLL_CQ);
	fail_often("req_notify_cq", FAKE_REQ_NOTIFY_CQ);
}

Test(migrate_faults, any_fetching_of_an_event_fails__one_runner)
{
	fail_often("get_cq_event", FAKE_GET_CQ_EVENT);
	fail_often("get_cm_event", FAKE_GET_CM_EVENT);
}

/* ---- requests -------------------------------------------------------------------------------- */

struct requests {
	struct fake_match match;
	enum ibv_wc_status status;
};

static void order_request(const void *ctx, unsigned int nth)
{
	const struct requests *r = ctx;

	fake_fail_wr(&r->match, nth, r->status);
}

static void fail_requests(const char *what, enum ibv_wr_opcode opcode, enum ibv_wc_status status)
{
	const struct requests requests = {{.opcodes = FAKE_OPCODE(opcode)}, status};

	sweep(what, order_request, &requests);
}

Test(migrate_faults, any_write_fails__one_runner)
{
	fail_requests("write", IBV_WR_RDMA_WRITE, IBV_WC_REM_ACCESS_ERR);
}

Test(migrate_faults, any_fence_fails__one_runner)
{
	fail_requests("fence", IBV_WR_RDMA_WRITE_WITH_IMM, IBV_WC_RETRY_EXC_ERR);
}

Test(migrate_faults, any_answer_to_a_fence_fails__one_runner)
{
	fail_requests("answer", IBV_WR_SEND_WITH_IMM, IBV_WC_GENERAL_ERR);
}

Test(migrate_faults, any_message_fails__one_runner)
{
	fail_requests("message", IBV_WR_SEND, IBV_WC_RETRY_EXC_ERR);
	fail_requests("message", IBV_WR_SEND, IBV_WC_LOC_PROT_ERR);
}

/* ---- devices and the wire -------------------------------------------------------------------- */

static unsigned int device;
static enum vmferry_phase when;

static void remove_device(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == when)
		fake_device_remove(device);
}

/* Once: the device works again for the next connection, which leads through the same phases. */
static bool broken;

static void break_device(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == when && !broken) {
		broken = true;
		fake_async(device, IBV_EVENT_DEVICE_FATAL);
	}
}

static void cut_wire(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == when)
		fake_cut_wire(true);
}

static void in_each_phase(const char *what, vmferry_phase_fn on_phase)
{
	for (when = VMFERRY_SETUP; when <= VMFERRY_COMMITTED; when++) {
		broken = false;
		open_with(on_phase);
		run(what, when);
	}
}

Test(migrate_faults, device_removed_in_any_phase__one_runner)
{
	for (device = 0; device < 2; device++)
		in_each_phase("removed", remove_device);
}

static void remove_there(void *ctx)
{
	(void)ctx;
	/* The state is loaded for trial before anything is paused. */
	if (vmferry_source_phase(source) >= when)
		fake_device_remove(device);
}

/* Behind the commit point the guest may only run there, if it does. */
Test(migrate_faults, device_removed_while_the_destination_loads_or_runs__one_runner)
{
	for (device = 0; device < 2; device++) {
		when = VMFERRY_CHECK;
		open_with(NULL);
		there.in_load = remove_there;
		cr_expect_lt(run("removed at trial", device).result, 0);
		when = VMFERRY_SWITCHOVER;
		open_with(NULL);
		there.in_load = remove_there;
		run("removed at load", device);
		open_with(NULL);
		there.in_run = remove_there;
		cr_expect_eq(run("removed at run", device).result, 0);
	}
}

Test(migrate_faults, device_fails_in_any_phase__one_runner)
{
	device = 0;
	in_each_phase("broken", break_device);
}

Test(migrate_faults, wire_cut_in_any_phase__one_runner)
{
	in_each_phase("cut", cut_wire);
}

static void *remove_soon(void *arg)
{
	usleep(*(unsigned int *)arg);
	fake_device_remove(device);
	return NULL;
}

Test(migrate_faults, device_removed_between_phases__one_runner)
{
	for (unsigned int i = 0; i < DELAYS; i++) {
		unsigned int delay = i * DELAY_US;
		pthread_t thread;

		open_with(NULL);
		fake_seed(i);
		device = i % 2;
		cr_assert_eq(pthread_create(&thread, NULL, remove_soon, &delay), 0);
		run("removed after us", delay);
		pthread_join(thread, NULL);
	}
}
