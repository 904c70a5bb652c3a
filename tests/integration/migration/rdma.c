/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations of a VM without KVM over a fake device: what the engine owes to RDMA, and what
 * it owes to its VMM there.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rig.h"
#include "common/node.h"
#include "unit/transport/rdma/fake/fake.h"

#define NODE	3
#define THREADS 64

/* Threads of the library that were sent near the device's node. */
static char near[THREADS][16];
static _Atomic unsigned int near_count;

/* The linker makes these names. */
int __wrap_rdma_sysfs_node(const char *class, const char *device);
void __wrap_thread_stay_near(int node);

int __wrap_rdma_sysfs_node(const char *class, const char *device)
{
	(void)class;
	return strcmp(device, "fake0") == 0 ? NODE : -1;
}

void __wrap_thread_stay_near(int node)
{
	unsigned int i;

	if (node != NODE)
		return;
	i = atomic_fetch_add(&near_count, 1);
	if (i < THREADS)
		pthread_getname_np(pthread_self(), near[i], sizeof(near[i]));
}

static void open_with(enum vmferry_transport kind)
{
	const struct vmferry_transport_options transport = {
		.size = sizeof(transport),
		.transport = kind,
		.lanes = 2,
		.insecure = true,
		.rails = {"10.99.0.1"},
		.rail_count = 1,
	};

	rig_open(&transport);
	/*
	 * What a lost lane leads to without another connection, if the test does not say otherwise.
	 */
	options.reconnect_ns = VMFERRY_RECONNECT_NEVER;
}

static void setup(void)
{
	open_with(VMFERRY_TRANSPORT_RDMA);
}

static void teardown(void)
{
	rig_close();
	cr_expect_not(fake_leaks());
}

TestSuite(migrate_rdma, .init = setup, .fini = teardown, .timeout = 180);

static bool is_near(const char *name)
{
	for (unsigned int i = 0; i < near_count && i < THREADS; i++)
		if (strncmp(near[i], name, strlen(name)) == 0)
			return true;
	return false;
}

Test(migrate_rdma, device_on_a_node__its_threads_are_near)
{
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	cr_expect(is_near("vmf-send-0"));
	cr_expect(is_near("vmf-send-1"));
	cr_expect(is_near("vmf-pin-"));
	cr_expect(is_near("vmf-rdma"));
}

/* What the balloon of a VMM is told at the phases of a migration; -1: it did not ask. */
static int told_in_precopy = -1, told_at_switchover = -1, told_at_run = -1;
static const uint64_t balloon = 3 * VMFERRY_PAGE_SIZE;

static void ask_in_phase(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == VMFERRY_PRECOPY)
		told_in_precopy = vmferry_source_discard(source, balloon, VMFERRY_PAGE_SIZE);
	if (phase == VMFERRY_SWITCHOVER)
		told_at_switchover = vmferry_source_discard(source, balloon, VMFERRY_PAGE_SIZE);
}

static void ask_at_run(void *ctx)
{
	(void)ctx;
	told_at_run = vmferry_destination_discard(destination, balloon, VMFERRY_PAGE_SIZE);
}

static bool is_zero(const struct fakevm *vm)
{
	const uint8_t *page = (const uint8_t *)vm->regions[0].base + balloon;

	return page[0] == 0 && memcmp(page, page + 1, VMFERRY_PAGE_SIZE - 1) == 0;
}

Test(migrate_rdma, balloon__only_while_nothing_is_registered)
{
	struct vmferry_vm vm;

	options.on_phase = ask_in_phase;
	there.in_run = ask_at_run;
	/* The guest itself leaves the page alone, on both sides. */
	here.working_set = there.working_set = 1;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	/*
	 * The phase begins before its work: registered is what the first pass needs, and that comes
	 * next.
	 */
	cr_expect_eq(told_in_precopy, 0);
	cr_expect_eq(told_at_switchover, -EBUSY);
	cr_expect_eq(told_at_run, -EBUSY);
	cr_expect(is_zero(&there));
	fakevm_describe(&here, &vm);
	cr_expect_eq(vmferry_source_discard(source, FAKEVM_HIGH_AT, VMFERRY_PAGE_SIZE), 0);
	cr_expect_eq(vmferry_destination_discard(destination, FAKEVM_HIGH_AT, VMFERRY_PAGE_SIZE),
		     0);
	cr_expect_eq(((char *)there.regions[1].base)[0], 0);
}

static void lose_the_device(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == VMFERRY_SWITCHOVER)
		fake_async(0, IBV_EVENT_DEVICE_FATAL);
}

Test(migrate_rdma, device_fails_before_the_commit__guest_runs_on)
{
	char *report;

	options.on_phase = lose_the_device;
	cr_assert_lt(rig_migrate(), 0);
	cr_assert_eq(vmferry_source_phase(source), VMFERRY_FAILED);
	cr_assert_eq(vmferry_source_report(source, &report), 0);
	cr_expect_not_null(strstr(report, "the RDMA device has failed"), "%s", report);
	free(report);
	cr_assert(atomic_load(&here.pulse->running));
	cr_assert_not(atomic_load(&there.pulse->running));
	assert_abandoned();
	cr_expect_eq(vmferry_destination_discard(destination, 0, VMFERRY_PAGE_SIZE), -ERANGE);
}

static void lose_the_last_fence(void *ctx, enum vmferry_phase phase)
{
	const struct fake_match fences = {.opcodes = FAKE_OPCODE(IBV_WR_RDMA_WRITE_WITH_IMM)};

	(void)ctx;
	if (phase == VMFERRY_SWITCHOVER)
		fake_fail_wr(&fences, 1, IBV_WC_RETRY_EXC_ERR);
}

/*
 * The destination does not hear of it and waits, as long as it is alive; only the lane's own queue
 * says what has become of it.
 */
Test(migrate_rdma, last_fence_fails__guest_runs_on_at_once_and_the_lane_is_named)
{
	struct json_object *report, *blackout;

	options.on_phase = lose_the_last_fence;
	cr_assert_eq(rig_migrate(), -ECONNRESET);
	report = rig_report();
	cr_expect_not_null(strstr(json_object_get_string(rig_member(report, "reason")),
				  "transport retries exceeded"));
	/* What else would end it is the five seconds that READY may take. */
	blackout = rig_member(rig_member(report, "blackout"), "source");
	cr_expect_lt(json_object_get_int64(rig_member(blackout, "paused_until_resumed_us")),
		     4000000);
	json_object_put(report);
	cr_expect(atomic_load(&here.pulse->running));
	cr_expect_not(atomic_load(&there.pulse->running));
}

static void refuse_to_revoke(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == VMFERRY_READY)
		fake_fail_at(FAKE_MODIFY_QP, 1, ENOMEM);
}

/* GO may have been said by then: the destination never takes the guest, and says so when asked. */
Test(migrate_rdma, lanes_cannot_be_revoked__guest_runs_on)
{
	int r;

	phase_there = refuse_to_revoke;
	rig_start();
	r = vmferry_source_wait(source, vmferry_now() + 60 * SECOND);
	assert_stayed(r, r == -ECONNABORTED ? r : -ECONNRESET);
	assert_abandoned();
}

/*
 * Pre-copy goes on for as long as the prediction is over the limit, and the guest writes nothing
 * meanwhile: only asking shows it.
 */
Test(migrate_rdma, path_dies_under_idle_lanes__noticed_before_the_switchover)
{
	uint64_t cut;
	int r;

	options.downtime_ns = 1;
	rig_start();
	for (int i = 0; i < 10000 && vmferry_source_phase(source) < VMFERRY_PRECOPY; i++)
		usleep(1000);
	/* Nobody hears of what it writes now. */
	atomic_store(&here.source, NULL);
	usleep(500000);
	cut = vmferry_now();
	fake_cut_wire(true);
	r = vmferry_source_wait(source, cut + 10 * SECOND);
	/* Not by the ten seconds that a lane may take nothing. */
	cr_expect_lt(vmferry_now() - cut, 5 * SECOND);
	fake_cut_wire(false);
	cr_assert_eq(r, -ECONNRESET);
	cr_expect(atomic_load(&here.pulse->running));
	cr_expect_not(atomic_load(&there.pulse->running));
}

/* ---- lost lanes are replaced ----------------------------------------------------------------- */

static void expect_loss(const char *cause, const char *transport_then)
{
	char *report;

	cr_assert_eq(vmferry_source_report(source, &report), 0);
	cr_expect_not_null(strstr(report, cause), "%s", report);
	cr_expect_not_null(strstr(report, transport_then), "%s", report);
	free(report);
}

static bool lost;

static void lose_the_last_fence_once(void *ctx, enum vmferry_phase phase)
{
	if (!lost)
		lose_the_last_fence(ctx, phase);
	lost = lost || phase == VMFERRY_SWITCHOVER;
}

Test(migrate_rdma, last_fence_fails__switches_over_by_other_lanes)
{
	options.reconnect_ns = 0;
	options.on_phase = lose_the_last_fence_once;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	expect_loss("transport retries exceeded", "\"transport_then\":\"rdma\"");
}

/* The control connection has another way than the lanes. */
Test(migrate_rdma, wire_is_cut__goes_on_over_tcp)
{
	rig_close();
	open_with(VMFERRY_TRANSPORT_AUTO);
	options.reconnect_ns = 0;
	options.bandwidth = 24u << 20;
	rig_start();
	for (int ms = 0; ms < 20000; ms++) {
		struct vmferry_progress p;

		vmferry_source_progress(source, &p);
		if (p.bytes_sent > FAKEVM_LOW / 3)
			break;
		usleep(1000);
	}
	fake_cut_wire(true);
	cr_assert_eq(vmferry_source_wait(source, vmferry_now() + 60 * SECOND), 0);
	assert_arrived();
	expect_loss("\"transport\":\"rdma\"", "\"transport_then\":\"tcp\"");
	fake_cut_wire(false);
}
