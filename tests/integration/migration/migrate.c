/* SPDX-License-Identifier: MIT */
/*
 * Whole migrations of a VM without KVM, both ends in this process: every byte compared at the
 * moment of the switchover.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rig.h"
#include "support/fake_clock.h"

static void setup(void)
{
	const struct vmferry_transport_options transport = {.size = sizeof(transport)};

	rig_open(&transport);
}

TestSuite(migrate, .init = setup, .fini = rig_close, .timeout = 180);

Test(migrate, busy_guest__every_byte_is_there_and_only_one_runs)
{
	struct json_object *r;

	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	r = rig_report();
	cr_assert_str_eq(json_object_get_string(rig_member(r, "result")), "completed");
	cr_assert_null(rig_member(r, "verified"));
	cr_assert_str_eq(json_object_get_string(rig_member(r, "tracker")), "caller");
	cr_assert_gt(json_object_get_int64(rig_member(r, "blackout_us")), 0);
	cr_assert_gt(json_object_get_int64(rig_member(r, "predicted_blackout_us")), 0);
	cr_assert_geq(json_object_get_int64(rig_member(r, "bytes_sent")),
		      json_object_get_int64(rig_member(r, "bytes_minimum")));
	cr_assert_gt(json_object_get_int64(rig_member(r, "first_pass_bytes_per_second")), 0);
	json_object_put(r);
}

Test(migrate, one_lane__every_byte_is_there)
{
	options.transport.lanes = 1;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}

Test(migrate, seven_lanes__every_byte_is_there)
{
	options.transport.lanes = 7;
	here.pace_ns = 1000;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}

Test(migrate, verify__compares_equal)
{
	struct json_object *r;

	options.verify = true;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	r = rig_report();
	cr_assert(json_object_get_boolean(rig_member(r, "verified")));
	json_object_put(r);
}

/*
 * Corrupts one byte that was already sent, behind the library's back, after it came and before it
 * is hashed.
 */
static void corrupt(void *ctx)
{
	struct fakevm *vm = ctx;

	((volatile char *)vm->regions[1].base)[VMFERRY_PAGE_SIZE * 3 + 17] ^= 1;
}

static void corrupt_unheard(void *ctx, enum vmferry_phase phase)
{
	/* The guest writes without telling: a page that dirty tracking has lost. */
	if (phase == VMFERRY_SWITCHOVER)
		corrupt(ctx);
}

Test(migrate, verify_with_a_lost_write__is_found)
{
	struct json_object *r;

	options.verify = true;
	options.on_phase = corrupt_unheard;
	cr_assert_eq(rig_migrate(), -EILSEQ);
	r = rig_report();
	cr_assert_not(json_object_get_boolean(rig_member(r, "verified")));
	cr_assert_eq(json_object_get_int(rig_member(r, "mismatched_pages")), 1);
	cr_assert_str_eq(json_object_get_string(rig_member(r, "result")), "completed");
	json_object_put(r);
}

Test(migrate, untouched_memory__stays_untouched_at_the_destination)
{
	struct stat a, b;

	fakevm_source_ops.pause(&here);
	for (unsigned int i = 0; i < FAKEVM_REGIONS; i++)
		cr_assert_eq(fallocate(here.regions[i].fd,
				       FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				       (off_t)here.regions[i].size),
			     0);
	fakevm_fill(&here, 10);
	here.working_set = 64;
	there.working_set = 64;
	there.compare_with = NULL; /* comparing would touch it */
	options.verify = true;
	cr_assert_eq(rig_migrate(), 0);
	cr_assert_eq(vmferry_destination_wait(destination, vmferry_now() + 10 * SECOND), 0);
	for (unsigned int i = 0; i < FAKEVM_REGIONS; i++) {
		cr_assert_eq(fstat(here.regions[i].fd, &a), 0);
		cr_assert_eq(fstat(there.regions[i].fd, &b), 0);
		cr_assert_leq(b.st_blocks, a.st_blocks, "region %u: %ld blocks there, %ld here", i,
			      b.st_blocks, a.st_blocks);
	}
	cr_assert_leq(fakevm_differing(&here, &there), 64);
}

Test(migrate, zero_pages__are_not_sent_and_read_as_zeroes)
{
	struct json_object *r;
	uint64_t once, again;

	memset(here.regions[1].base, 0, here.regions[1].size);
	here.pace_ns = 50000000;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	r = rig_report();
	cr_assert_leq(json_object_get_uint64(rig_member(r, "bytes_minimum")), FAKEVM_LOW);
	/*
	 * Each page once, and again what the guest wrote meanwhile: how long that was is the
	 * machine's.
	 */
	once = json_object_get_uint64(rig_member(r, "bytes_minimum"));
	again = atomic_load(&here.pulse->writes) * VMFERRY_PAGE_SIZE;
	cr_assert_leq((double)json_object_get_uint64(rig_member(r, "bytes_sent")),
		      1.01 * (double)(once + again));
	json_object_put(r);
}

Test(migrate, problems__are_all_told_and_the_guest_runs_on)
{
	struct json_object *r, *list;

	there.problem = "cpuid leaf 7: avx512 is missing";
	assert_stayed(rig_migrate(), -EXDEV);
	r = rig_report();
	list = rig_member(r, "problems");
	cr_assert_eq(json_object_array_length(list), 2);
	cr_assert_not_null(strstr(json_object_get_string(json_object_array_get_idx(list, 0)),
				  "avx512 is missing"));
	json_object_put(r);
	cr_assert_eq(vmferry_destination_wait(destination, vmferry_now() + SECOND / 10),
		     -ETIMEDOUT);
}

Test(migrate, second_attempt_after_a_failed_one__arrives)
{
	there.fail_load = -EIO;
	assert_stayed(rig_migrate(), -ECONNABORTED);
	assert_abandoned();
	there.fail_load = 0;
	rig_end_source();
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}

/*
 * They have finished the handshake, and then nothing comes. The clock stands still: whoever waited
 * for one of them would wait for ever, and the next could not connect.
 */
Test(migrate, many_who_say_nothing__the_next_is_heard)
{
	struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 1};
	struct vmferry_session *silent[40], *next = NULL;
	struct vmferry_message m;

	fake_clock_stop();
	for (int i = 0; i < 40; i++)
		cr_assert_eq(vmferry_connect(vmferry_destination_uri(destination), &o,
					     vmferry_now() + 60 * SECOND, &silent[i]),
			     0);
	cr_assert_eq(vmferry_connect(vmferry_destination_uri(destination), &o,
				     vmferry_now() + 60 * SECOND, &next),
		     0);
	cr_assert_eq(vmferry_send(next, VMFERRY_CONTROL, 999, NULL, 0, vmferry_now() + SECOND), 0);
	/* Nothing that it knows: it closes. */
	cr_expect_eq(vmferry_recv(next, &m, vmferry_now() + 60 * SECOND), -ECONNRESET);
	vmferry_session_close(&next);
	for (int i = 0; i < 40; i++)
		vmferry_session_close(&silent[i]);
}

Test(migrate, prepare_fails__guest_runs_on)
{
	there.fail_prepare = -ENOMEM;
	assert_stayed(rig_migrate(), -EXDEV);
	/* What was built before it failed. */
	assert_abandoned();
}

static void fail_the_last_save(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == VMFERRY_SWITCHOVER)
		here.fail_save = -EIO;
}

Test(migrate, save_fails_in_the_switchover__guest_runs_on_and_the_pause_is_told)
{
	struct json_object *r;

	options.on_phase = fail_the_last_save;
	assert_stayed(rig_migrate(), -EIO);
	r = rig_report();
	cr_expect_gt(json_object_get_int64(rig_member(r, "blackout_us")), 0);
	json_object_put(r);
}

static void load_for_long(void *ctx)
{
	(void)ctx;
	if (vmferry_source_phase(source) == VMFERRY_SWITCHOVER)
		usleep(5500000);
}

Test(migrate, last_load_takes_less_than_the_downtime_allows__arrives)
{
	there.in_load = load_for_long;
	options.downtime_ns = 30 * SECOND;
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}

static int new_source(const struct vmferry_source_options *o)
{
	struct vmferry_source *s = NULL;
	struct vmferry_vm vm;
	int ret;

	fakevm_describe(&here, &vm);
	ret = vmferry_source_new(&vm, &fakevm_source_ops, &here,
				 vmferry_destination_uri(destination), o, &s);
	vmferry_source_free(&s);
	return ret;
}

Test(migrate, no_options__defaults)
{
	struct vmferry_destination *d = NULL;

	cr_expect_eq(new_source(NULL), 0);
	cr_expect_eq(vmferry_destination_new(&fakevm_destination_ops, &there, "tcp:127.0.0.1:0",
					     NULL, &d),
		     0);
	vmferry_destination_free(&d);
}

Test(migrate, tracker_that_there_is_not__einval)
{
	options.tracker = (enum vmferry_tracker)4;
	cr_expect_eq(new_source(&options), -EINVAL);
}

Test(migrate, save_fails__guest_runs_on)
{
	here.fail_save = -EIO;
	assert_stayed(rig_migrate(), -EIO);
}

/* In a result these say that somebody cancelled, that GO was said, and that the guest has moved. */
Test(migrate, callbacks_fail_with_errors_of_another_meaning__failed_and_guest_runs_on)
{
	static const int errors[] = {-ECANCELED, -EINPROGRESS, -EILSEQ};

	for (int i = 0; i < 3; i++) {
		here.fail_save = errors[i];
		assert_stayed(rig_migrate(), -EIO);
		cr_expect_eq(vmferry_source_phase(source), VMFERRY_FAILED);
		fakevm_source_ops.pause(&here);
		vmferry_source_free(&source);
	}
}

Test(migrate, run_fails__is_owned_there_and_never_runs_here)
{
	there.fail_run = -EIO;
	cr_assert_eq(rig_migrate(), -EINPROGRESS);
	cr_assert_eq(vmferry_destination_wait(destination, vmferry_now() + 10 * SECOND), -EIO);
	cr_assert_not(atomic_load(&here.pulse->running));
	cr_assert_not(atomic_load(&there.pulse->running));
}

static enum vmferry_phase cancel_phase;

static void cancel_at(void *ctx, enum vmferry_phase phase)
{
	(void)ctx;
	if (phase == cancel_phase)
		cr_assert_eq(vmferry_source_cancel(source), 0);
}

static void assert_cancel_works_in(enum vmferry_phase phase)
{
	cancel_phase = phase;
	options.on_phase = cancel_at;
	assert_stayed(rig_migrate(), -ECANCELED);
}

Test(migrate, cancel_in_setup__guest_runs_on)
{
	assert_cancel_works_in(VMFERRY_SETUP);
}

Test(migrate, cancel_in_check__guest_runs_on)
{
	assert_cancel_works_in(VMFERRY_CHECK);
}

Test(migrate, cancel_in_precopy__guest_runs_on)
{
	assert_cancel_works_in(VMFERRY_PRECOPY);
}

Test(migrate, cancel_in_switchover__guest_runs_on)
{
	assert_cancel_works_in(VMFERRY_SWITCHOVER);
}

static _Atomic uint64_t cancelled_ns;

static void cancel_when_loading(void *ctx)
{
	(void)ctx;
	/* The rehearsal's load comes first, when nothing is paused. */
	if (vmferry_source_phase(source) != VMFERRY_SWITCHOVER)
		return;
	fake_clock_stop();
	atomic_store(&cancelled_ns, vmferry_now());
	fake_clock_pass(1);
	cr_assert_eq(vmferry_source_cancel(source), 0);
	/*
	 * Slowly, so that a busy machine does not keep the source from what it does in that time.
	 */
	for (int ms = 0; ms < 300; ms++) {
		usleep(5000);
		fake_clock_pass(1000000);
	}
}

Test(migrate, cancel_while_paused__guest_runs_on_within_100_ms)
{
	uint64_t resumed;

	there.in_load = cancel_when_loading;
	assert_stayed(rig_migrate(), -ECANCELED);
	resumed = (uint64_t)atomic_load(&here.pulse->resumed_ns);
	cr_assert_gt(resumed, atomic_load(&cancelled_ns));
	cr_assert_lt(resumed - atomic_load(&cancelled_ns), SECOND / 10);
}

Test(migrate, cancel_after_the_commit__comes_too_late)
{
	cr_assert_eq(rig_migrate(), 0);
	cr_assert_eq(vmferry_source_cancel(source), -EALREADY);
	assert_arrived();
}

Test(migrate, limit_that_cannot_be_met__gives_up_at_the_timeout_with_numbers)
{
	struct json_object *r;

	options.downtime_ns = 1;
	options.timeout_ns = SECOND / 2;
	assert_stayed(rig_migrate(), -ETIME);
	r = rig_report();
	cr_assert_not_null(
		strstr(json_object_get_string(rig_member(r, "reason")), "not converged"));
	json_object_put(r);
}

Test(migrate, bandwidth_limit__is_kept)
{
	uint64_t began = vmferry_now();

	options.bandwidth = 20u << 20;
	here.pace_ns = 100000000;
	cr_assert_eq(rig_migrate(), 0);
	/*
	 * 70 % of 17 MiB at 20 MiB a second. How much longer it takes is the machine's; the
	 * source's own timeout is the end of it.
	 */
	cr_assert_gt(vmferry_now() - began, SECOND * 45 / 100);
	assert_arrived();
}

Test(migrate, second_source_while_one_runs_there__is_refused)
{
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
	vmferry_source_free(&source);
	cr_assert_eq(rig_migrate(), -EXDEV);
}

Test(migrate, cancelled_destination__ends_and_the_guest_stays)
{
	cr_assert_eq(vmferry_destination_cancel(destination), 0);
	cr_assert_eq(vmferry_destination_wait(destination, vmferry_now() + SECOND), -ECANCELED);
}

Test(migrate, nobody_listens__is_refused_at_once)
{
	struct vmferry_vm vm;

	fakevm_describe(&here, &vm);
	cr_assert_eq(vmferry_source_new(&vm, &fakevm_source_ops, &here, "tcp:127.0.0.1:1", &options,
					&source),
		     0);
	fakevm_run(&here);
	cr_assert_eq(vmferry_source_start(source), 0);
	assert_stayed(vmferry_source_wait(source, vmferry_now() + 5 * SECOND), -ECONNREFUSED);
}

/* ---- strangers that speak the transport's protocol but not ours ------------------------------ */

static struct vmferry_session *stranger(void)
{
	struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 1};
	struct vmferry_session *session = NULL;

	cr_assert_eq(vmferry_connect(vmferry_destination_uri(destination), &o,
				     vmferry_now() + 5 * SECOND, &session),
		     0);
	return session;
}

/* An offer of another version: all that must be understood of it is its first two bytes. */
Test(migrate, offer_of_another_version__is_answered_with_the_remedy)
{
	static const uint8_t offer[] = {99, 0, 1, 2, 3};
	struct vmferry_session *session = stranger();
	struct vmferry_message m;

	cr_assert_eq(vmferry_send(session, VMFERRY_CONTROL, 1, offer, sizeof(offer),
				  vmferry_now() + SECOND),
		     0);
	cr_assert_eq(vmferry_recv(session, &m, vmferry_now() + 5 * SECOND), 0);
	cr_assert_eq(m.type, 2);
	cr_assert_not_null(memmem(m.data, m.length, "engine version 99", 17));
	cr_assert_not_null(memmem(m.data, m.length, "same version", 12));
	vmferry_message_free(&m);
	vmferry_session_close(&session);
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}

Test(migrate, strangers_with_nonsense__are_closed_and_a_source_still_arrives)
{
	uint8_t noise[512];

	srandom(4711);
	for (unsigned int i = 0; i < 60; i++) {
		struct vmferry_session *session = stranger();
		uint32_t type = i < 25 ? i : (uint32_t)random() & VMFERRY_MESSAGE_TYPE_MAX;
		size_t length = (size_t)random() % sizeof(noise);

		for (size_t k = 0; k < length; k++)
			noise[k] = (uint8_t)random();
		/* Half of them begin like an offer of the right version. */
		if (i % 2 == 0 && length > 2) {
			type = 1;
			noise[0] = 1;
			noise[1] = 0;
		}
		vmferry_send(session, VMFERRY_CONTROL, type, noise, length, vmferry_now() + SECOND);
		vmferry_session_close(&session);
	}
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}

/*
 * A source that goes astray in pre-copy: the attempt ends, the guest never runs here, and the next
 * one may come.
 */
Test(migrate, write_before_anything_was_offered__ends_only_that_session)
{
	struct vmferry_session *session = stranger();
	struct vmferry_memory *memory = NULL;
	struct vmferry_write w;

	cr_assert_eq(vmferry_register(session, here.regions[0].base, here.regions[0].size, 0,
				      VMFERRY_ACCESS_LOCAL, &memory),
		     0);
	w = (struct vmferry_write){.memory = memory, .length = VMFERRY_PAGE_SIZE};
	vmferry_lane_write(session, 0, &w, 1, vmferry_now() + SECOND);
	cr_assert_eq(vmferry_lane_fence_wait(session, 0, 1, vmferry_now() + 5 * SECOND), -EACCES);
	vmferry_deregister(&memory);
	vmferry_session_close(&session);
	cr_assert_eq(rig_migrate(), 0);
	assert_arrived();
}
