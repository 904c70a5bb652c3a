/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "../pair.h"
#include "fake/fake.h"
#include "common/clock.h"
#include "support/fake_clock.h"
#include "transport/rdma/rdma.h"

#define MEMORY (1ull << 20)

static struct pair pair;

static void setup(void)
{
	log_keep();
	pair_open_rdma(&pair, 2);
}

static void teardown(void)
{
	pair_close(&pair);
	cr_expect_not(fake_leaks());
}

TestSuite(service, .init = setup, .fini = teardown, .timeout = 120);

static void expect_alive(const struct pair *p)
{
	struct vmferry_message m;

	for (int channel = VMFERRY_CONTROL; channel <= VMFERRY_MAILBOX; channel++) {
		cr_assert_eq(vmferry_send(p->source, channel, 4, "ping", 4, PATIENT), 0);
		cr_assert_eq(vmferry_recv(p->destination, &m, PATIENT), 0);
		vmferry_message_free(&m);
		cr_assert_eq(vmferry_send(p->destination, channel, 4, "pong", 4, PATIENT), 0);
		cr_assert_eq(vmferry_recv(p->source, &m, PATIENT), 0);
		vmferry_message_free(&m);
	}
}

static void expect_end(struct vmferry_session *session, int error)
{
	struct vmferry_message m;
	int ret = vmferry_recv(session, &m, PATIENT);

	cr_expect_eq(ret, error, "%s, not %s", strerror(-ret), strerror(-error));
}

/* Of a failure of the device: what it leads to may be noticed before its event, on either side. */
static void expect_failure(struct vmferry_session *session)
{
	struct vmferry_message m;
	int ret;

	/* What had come before is heard. */
	while ((ret = vmferry_recv(session, &m, PATIENT)) == 0)
		vmferry_message_free(&m);
	cr_expect(ret == -EIO || ret == -ECONNRESET, "%s", strerror(-ret));
}

static void expect_said(const char *text)
{
	cr_expect(log_will_have(text), "not said: %s", text);
}

static void wait_ms(unsigned int ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};

	while (nanosleep(&t, &t) < 0)
		;
}

/* ---- signs of life --------------------------------------------------------------------------- */

Test(service, nobody_speaks__alive)
{
	wait_ms(2500);
	expect_alive(&pair);
}

static void goes_silent(struct vmferry_session *silent, struct vmferry_session *other)
{
	uint64_t begun = vmferry_now();

	rdma_service_stop(rdma_session_of(silent));
	expect_end(other, -ECONNRESET);
	cr_expect_geq(vmferry_now() - begun, 500 * MS);
	cr_expect_lt(vmferry_now() - begun, 5000 * MS);
	cr_expect(log_has("no sign of life for "));
}

Test(service, source_silent__econnreset)
{
	goes_silent(pair.source, pair.destination);
}

Test(service, destination_silent__econnreset)
{
	goes_silent(pair.destination, pair.source);
}

/* Both ends are stopped here, for longer than either of them is patient. */
Test(service, process_stopped_and_continued__alive)
{
	pid_t parent = getpid();
	pid_t child = fork();
	int status;

	if (child == 0) {
		kill(parent, SIGSTOP);
		wait_ms(2000);
		kill(parent, SIGCONT);
		_exit(0);
	}
	cr_assert_gt(child, 0);
	waitpid(child, &status, 0);
	wait_ms(500);
	expect_alive(&pair);
}

static uint64_t cpu_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static void expect_idle(void)
{
	uint64_t before;

	wait_ms(100);
	before = cpu_ns();
	wait_ms(400);
	cr_expect_lt(cpu_ns() - before, 200 * MS);
}

Test(service, nothing_to_do__sleeps_also_after_the_end)
{
	expect_idle();
	vmferry_session_close(&pair.source);
	expect_end(pair.destination, -ECONNRESET);
	expect_idle();
}

/* ---- messages -------------------------------------------------------------------------------- */

Test(service, all_sizes_on_the_control_connection__arrive)
{
	static const size_t lengths[] = {0, 1, 1016, 1017, 65536, VMFERRY_MESSAGE_MAX};
	uint8_t *data = calloc(1, VMFERRY_MESSAGE_MAX);
	struct vmferry_message m;

	fill_random(data, VMFERRY_MESSAGE_MAX, 3);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		cr_assert_eq(
			vmferry_send(pair.source, VMFERRY_CONTROL, 1, data, lengths[i], PATIENT),
			0);
		cr_assert_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
		cr_assert_eq(m.length, lengths[i]);
		cr_expect(m.length == 0 || memcmp(m.data, data, m.length) == 0);
		vmferry_message_free(&m);
	}
	free(data);
}

static void refused(struct vmferry_session *from, struct vmferry_session *at, uint32_t type,
		    size_t length)
{
	cr_assert_eq(session_send_control(from, type, "xxxxxxxx", length, PATIENT), 0);
	expect_end(at, -EPROTO);
}

Test(service, keys_from_the_source__eproto)
{
	refused(pair.source, pair.destination, RDMA_CONTROL_KEYS, 8);
}

Test(service, wish_of_the_destination__eproto)
{
	refused(pair.destination, pair.source, RDMA_CONTROL_WANT, 8);
}

Test(service, beat_with_bytes__eproto)
{
	refused(pair.source, pair.destination, RDMA_CONTROL_BEAT, 1);
}

Test(service, own_type_that_there_is_not__eproto)
{
	refused(pair.source, pair.destination, RDMA_CONTROL_BYE + 1, 0);
}

Test(service, last_words_on_the_control_connection__heard_before_the_end)
{
	struct vmferry_message m;

	for (uint32_t i = 0; i < 200; i++)
		cr_assert_eq(vmferry_send(pair.source, VMFERRY_CONTROL, i, NULL, 0, PATIENT), 0);
	vmferry_session_close(&pair.source);
	for (uint32_t i = 0; i < 200; i++) {
		cr_assert_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
		cr_expect_eq(m.type, i);
	}
	expect_end(pair.destination, -ECONNRESET);
}

/* ---- busy polling ---------------------------------------------------------------------------- */

/*
 * Sooner than something else would happen to wake the thread, by a clock that goes slowly, so that
 * a busy machine does not count.
 */
Test(service, busy_polling_and_nobody_waits__arrives)
{
	struct vmferry_message m;
	uint64_t begun;

	fake_clock_stop();
	begun = vmferry_now();
	vmferry_session_busy_poll(pair.destination, begun + 20000 * MS);
	for (int i = 0; i < 20; i++) {
		cr_assert_eq(vmferry_send(pair.source, VMFERRY_MAILBOX, 2, NULL, 0, PATIENT), 0);
		while (inbox_take(&pair.destination->inbox, &m) < 0 &&
		       vmferry_now() < begun + 5000 * MS) {
			fake_clock_pass(MS);
			wait_ms(5);
		}
	}
	cr_expect_lt(vmferry_now() - begun, 1000 * MS);
}

static void *busy_poll_then_send(void *arg)
{
	(void)arg;
	wait_ms(50);
	vmferry_session_busy_poll(pair.destination, vmferry_now() + 20000 * MS);
	vmferry_send(pair.source, VMFERRY_MAILBOX, 2, NULL, 0, PATIENT);
	return NULL;
}

Test(service, busy_polling_begins_while_somebody_sleeps__arrives)
{
	struct vmferry_message m;
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, busy_poll_then_send, NULL), 0);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
	pthread_join(thread, NULL);
}

Test(service, fence_in_no_busy_polling__reached)
{
	for (unsigned int lane = 0; lane < 2; lane++)
		cr_assert_eq(vmferry_lane_fence(pair.source, lane, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	for (unsigned int lane = 0; lane < 2; lane++)
		cr_expect_eq(vmferry_lane_fence_wait(pair.source, lane, 1, PATIENT), 0);
}

/* ---- devices --------------------------------------------------------------------------------- */

static uint32_t mailbox_qp(struct vmferry_session *session)
{
	return rdma_mailbox_connection(rdma_session_of(session))->id->qp->qp_num;
}

static uint32_t lane_qp(struct vmferry_session *session, unsigned int lane)
{
	return rdma_lane_connection(session->lanes[lane])->id->qp->qp_num;
}

Test(service, device_fails__all_sessions_over)
{
	struct pair other;

	pair_open_rdma(&other, 2);
	fake_async(0, IBV_EVENT_DEVICE_FATAL);
	expect_failure(pair.source);
	expect_failure(pair.destination);
	expect_failure(other.source);
	expect_failure(other.destination);
	expect_said("the RDMA device has failed");
	pair_close(&other);
}

Test(service, another_device_fails__alive)
{
	fake_async(1, IBV_EVENT_DEVICE_FATAL);
	wait_ms(100);
	expect_alive(&pair);
}

Test(service, device_removed__over)
{
	struct vmferry_message m;

	fake_device_remove(0);
	cr_expect_lt(vmferry_recv(pair.source, &m, PATIENT), 0);
	cr_expect_lt(vmferry_recv(pair.destination, &m, PATIENT), 0);
}

/* Without a listener nothing but the sessions' own identifiers keeps the device's context open. */
Test(service, device_removed_and_no_listener__each_session_frees_before_its_identifiers)
{
	uint8_t *pages = pages_new(MEMORY, 1);
	struct vmferry_registration_stats stats = {0};
	struct vmferry_memory *memory;
	struct pair other;

	pair_open_rdma(&other, 2);
	cr_assert_eq(vmferry_register(pair.destination, pages, MEMORY, 0,
				      VMFERRY_ACCESS_REMOTE_WRITE, &memory),
		     0);
	cr_assert_eq(vmferry_prepare(memory, 0, MEMORY), 0);
	while (stats.bytes < MEMORY)
		vmferry_registration_stats(pair.destination, &stats);
	vmferry_listener_close(&other.listener);
	vmferry_listener_close(&pair.listener);
	fake_device_remove(0);
	vmferry_deregister(&memory);
	vmferry_session_close(&other.source);
	vmferry_session_close(&pair.destination);
	vmferry_session_close(&other.destination);
	vmferry_session_close(&pair.source);
	cr_expect_not(fake_leaks());
	/* The kernel has taken all of it back: nothing stays, and there is nothing to be done. */
	cr_expect_not(log_has("stays"));
	pages_free(pages, MEMORY);
}

Test(service, port_down_and_up__alive)
{
	fake_async(0, IBV_EVENT_PORT_ERR);
	fake_async(0, IBV_EVENT_PORT_ACTIVE);
	wait_ms(1000);
	expect_alive(&pair);
	expect_said("port 1 is down");
}

/*
 * The threads of both sessions fetch from one device: what one of them fetched first counts first,
 * however long it takes to say so.
 */
Test(service, port_down_told_late_and_up__alive)
{
	fake_slow_async(IBV_EVENT_PORT_ERR, 100);
	fake_async(0, IBV_EVENT_PORT_ERR);
	fake_async(0, IBV_EVENT_PORT_ACTIVE);
	wait_ms(1000);
	expect_alive(&pair);
}

/* Nothing is under way that would have to be retried. */
Test(service, port_stays_down__over_within_a_second)
{
	struct vmferry_message m;

	fake_clock_stop();
	fake_async(0, IBV_EVENT_PORT_ERR);
	expect_said("port 1 is down");
	/* Slowly, so that the thread can beat as it does in a second. */
	for (int ms = 0; ms < 990 && !log_has("its port has been down for"); ms += 10) {
		fake_clock_pass(10 * MS);
		wait_ms(20);
	}
	expect_said("its port has been down for");
	cr_expect_lt(vmferry_recv(pair.source, &m, PATIENT), 0);
}

Test(service, another_devices_port_stays_down__alive)
{
	fake_async(1, IBV_EVENT_PORT_ERR);
	wait_ms(1000);
	expect_alive(&pair);
}

/* The event may be taken by a thread of any session. */
Test(service, queue_pair_fails__its_session_over_and_no_other)
{
	struct pair other;

	for (int round = 0; round < 10; round++) {
		pair_open_rdma(&other, 2);
		fake_qp_fatal(round % 2 == 0 ? mailbox_qp(other.source)
					     : lane_qp(other.destination, 1));
		expect_failure(round % 2 == 0 ? other.source : other.destination);
		expect_said("the RDMA device gave a queue pair up");
		expect_alive(&pair);
		pair_close(&other);
	}
}

/* What was flushed is seen first, by whoever waits at the lane; the cause comes after it. */
Test(service, flush_seen_before_its_cause__the_cause_is_the_reason)
{
	struct vmferry_session *s = pair.source;
	struct rdma_connection *conn = rdma_lane_connection(s->lanes[1]);
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	cr_assert_eq(ibv_modify_qp(conn->id->qp, &attr, IBV_QP_STATE), 0);
	/* Flushed. Why is not known yet, which is not the lane's failure. */
	cr_expect_eq(vmferry_lane_fence_wait(s, 1, 0, vmferry_now() + 10 * MS), -ETIMEDOUT);
	fake_qp_fatal(lane_qp(s, 1));
	cr_expect_eq(vmferry_lane_fence_wait(s, 1, 0, PATIENT), -EIO);
	cr_expect_str_eq(vmferry_session_failure(s), "the RDMA device gave a queue pair up");
}

Test(service, flush_without_a_cause__session_over)
{
	struct vmferry_session *s = pair.source;
	struct rdma_connection *conn = rdma_lane_connection(s->lanes[1]);
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	cr_assert_eq(ibv_modify_qp(conn->id->qp, &attr, IBV_QP_STATE), 0);
	cr_expect_eq(vmferry_lane_fence_wait(s, 1, 0, PATIENT), -ECONNRESET);
	expect_said("a lane was broken off");
}

Test(service, session_closed_while_its_device_fails__no_crash)
{
	struct pair other;

	for (int round = 0; round < 20; round++) {
		pair_open_rdma(&other, 2);
		fake_qp_fatal(mailbox_qp(other.destination));
		fake_qp_fatal(lane_qp(other.source, 0));
		pair_close(&other);
	}
	expect_alive(&pair);
}

Test(service, revoked__lanes_may_end_and_messages_go_on)
{
	cr_expect_eq(vmferry_session_revoke(pair.destination), 0);
	fake_qp_fatal(lane_qp(pair.destination, 0));
	wait_ms(100);
	expect_alive(&pair);
}

Test(service, device_refuses_to_revoke__eio_and_said)
{
	fake_fail_at(FAKE_MODIFY_QP, 1, ENOMEM);
	cr_expect_eq(vmferry_session_revoke(pair.destination), -EIO);
	expect_said("cannot be broken off");
}

Test(service, revoked_when_it_is_broken_already__0_whatever_the_device_says)
{
	cr_assert_eq(rdma_connection_break(rdma_lane_connection(pair.destination->lanes[0])), 0);
	fake_fail_at(FAKE_MODIFY_QP, 1, EINVAL);
	cr_expect_eq(vmferry_session_revoke(pair.destination), 0);
}

/* Somebody else's queue pair on the same device, with a context that is none of ours. */
Test(service, queue_pair_of_another_fails__alive)
{
	struct rdma_rail *rail = rdma_session_of(pair.source)->rails[0];
	struct ibv_cq *cq = ibv_create_cq(rail->context, 4, NULL, NULL, 0);
	struct ibv_qp_init_attr attr = {
		.qp_context = (void *)8,
		.send_cq = cq,
		.recv_cq = cq,
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = 1, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1},
	};
	struct ibv_qp *qp = ibv_create_qp(rail->pd, &attr);

	cr_assert_not_null(qp);
	fake_qp_fatal(qp->qp_num);
	wait_ms(100);
	expect_alive(&pair);
	cr_expect_eq(ibv_destroy_qp(qp), 0);
	cr_expect_eq(ibv_destroy_cq(cq), 0);
}

/* Threads that are stopped early and twice. */
Test(service, stopped_twice__nothing)
{
	rdma_service_stop(rdma_session_of(pair.source));
	rdma_service_stop(rdma_session_of(pair.source));
	rdma_service_wake(rdma_session_of(pair.source));
}

Test(service, cannot_arm__session_over)
{
	fake_fail_at(FAKE_REQ_NOTIFY_CQ, 1, EIO);
	cr_assert_eq(vmferry_send(pair.source, VMFERRY_MAILBOX, 1, NULL, 0, PATIENT), 0);
	expect_said("completions cannot be waited for");
	expect_failure(pair.source);
	expect_failure(pair.destination);
}
