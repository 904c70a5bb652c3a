/* SPDX-License-Identifier: MIT */
/* What can be asked of the fake happens. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include <vmferry/vmferry.h>

#include "couple.h"
#include "fake/fake.h"

#define SIGNALED IBV_SEND_SIGNALED
#define WRITE	 IBV_WR_RDMA_WRITE
#define FENCE	 IBV_WR_RDMA_WRITE_WITH_IMM
#define MS	 1000000ull

static const struct couple_options defaults;

Test(fake_script, calls__numbered_and_failing)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_event_channel *other;
	struct rdma_cm_id *id;
	unsigned int before;

	before = fake_calls();
	cr_assert_eq(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
	cr_assert_eq(rdma_bind_addr(id, address_of("10.99.0.1", 0)), 0);
	cr_assert_eq(fake_calls(), before + 2);
	fake_fail_call(2, ENOMEM);
	other = rdma_create_event_channel();
	cr_assert_not_null(other);
	cr_assert_eq(fake_failed(), FAKE_CALLS);
	cr_assert_null(ibv_alloc_pd(id->verbs));
	cr_assert_eq(errno, ENOMEM);
	cr_assert_eq(fake_failed(), FAKE_ALLOC_PD);

	fake_fail_at(FAKE_LISTEN, 1, EACCES);
	cr_assert_eq(rdma_listen(id, 1), -1);
	cr_assert_eq(errno, EACCES);
	cr_assert_eq(rdma_listen(id, 1), 0);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(other);
	cr_assert(fake_leaks());
	rdma_destroy_event_channel(events);
	cr_assert(!fake_leaks());
}

/* Acknowledgement time-out 14, six tries more: 0.47 s. */
Test(fake_script, cut_wire__half_a_second)
{
	uint64_t start;
	struct couple c;

	couple_open(&c, &defaults);
	fake_cut_wire(true);
	start = vmferry_now();
	cr_assert_eq(post(&c, WRITE, 0, 8, 0, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_RETRY_EXC_ERR);
	cr_assert_geq(vmferry_now() - start, 460 * MS);
	cr_assert_lt(vmferry_now() - start, 1500 * MS);
	cr_assert_eq(c.destination.memory[0], 0);
	couple_close(&c);
}

Test(fake_script, cut_wire__restored_in_time)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	fake_cut_wire(true);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 1), 0);
	cr_assert(!await_wc(c.source.send_cq, &wc, 100));
	fake_cut_wire(false);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	couple_close(&c);
}

Test(fake_script, held_fence__writes_go_on)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 2), 0);
	fake_hold_fences(true);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 1), 0);
	cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, 2), 0);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 3), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert(!await_wc(c.source.send_cq, &wc, 50));
	cr_assert(!await_wc(c.destination.recv_cq, &wc, 0));
	fake_hold_fences(false);
	cr_assert_eq(status_of_next(c.destination.recv_cq), IBV_WC_SUCCESS);
	cr_assert(fake_quiet(5000));
	couple_close(&c);
}

Test(fake_script, double_fence__two_receives_one_completion)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 3), 0);
	fake_double_fences(1);
	cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, 9), 0);
	for (unsigned int i = 0; i < 2; i++) {
		cr_assert(await_wc(c.destination.recv_cq, &wc, 5000));
		cr_assert_eq(wc.wr_id, i);
		cr_assert_eq(wc.imm_data, htonl(9));
	}
	cr_assert(!await_wc(c.destination.recv_cq, &wc, 20));
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert(!await_wc(c.source.send_cq, &wc, 0));
	couple_close(&c);
}

Test(fake_script, failing_request__only_the_one_that_matches)
{
	const struct fake_match fences = {.opcodes = FAKE_OPCODE(FENCE)};
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 2), 0);
	fake_fail_wr(&fences, 2, IBV_WC_GENERAL_ERR);
	cr_assert_eq(post(&c, WRITE, 0, 8, 0, 1), 0);
	cr_assert_eq(post(&c, FENCE, 0, 0, 0, 2), 0);
	cr_assert_eq(post(&c, FENCE, 0, 0, 0, 3), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_GENERAL_ERR);
	cr_assert_eq(status_of_next(c.destination.recv_cq), IBV_WC_SUCCESS);
	couple_close(&c);
}

Test(fake_script, cm_error__once)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;

	fake_cm_error(RDMA_CM_EVENT_ADDR_ERROR, -ETIMEDOUT);
	cr_assert_eq(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
	cr_assert_eq(rdma_resolve_addr(id, NULL, address_of("10.99.0.1", 1), 1000), 0);
	event = expect_event(events, RDMA_CM_EVENT_ADDR_ERROR);
	cr_assert_eq(event->status, -ETIMEDOUT);
	rdma_ack_cm_event(event);
	rdma_destroy_id(id);
	rdma_destroy_id(resolved(events, 1));
	rdma_destroy_event_channel(events);
}

Test(fake_script, held_cm__events_come_later)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;

	cr_assert_eq(fcntl(events->fd, F_SETFL, O_NONBLOCK), 0);
	fake_hold_cm(true);
	cr_assert_eq(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
	cr_assert_eq(rdma_resolve_addr(id, NULL, address_of("10.99.0.1", 1), 1000), 0);
	cr_assert_eq(rdma_get_cm_event(events, &event), -1);
	cr_assert_eq(errno, EAGAIN);
	fake_hold_cm(false);
	expect_and_ack(events, RDMA_CM_EVENT_ADDR_RESOLVED);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(events);
}

Test(fake_script, scripted_rnr__the_receive_is_not_found_once)
{
	const struct couple_options options = {.rnr_retry = 7};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .min_rnr_timer = 1};
	struct fake_counts counts;
	struct couple c;

	couple_open(&c, &options);
	cr_assert_eq(
		ibv_modify_qp(c.destination.id->qp, &attr, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER), 0);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	fake_rnr(1);
	cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	fake_counts(&counts);
	cr_assert_eq(counts.rnr, 1);
	couple_close(&c);
}

Test(fake_script, device_removed__events_and_flushes)
{
	struct ibv_async_event event;
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	fake_device_remove(0);
	expect_and_ack(c.source.events, RDMA_CM_EVENT_DEVICE_REMOVAL);
	expect_and_ack(c.destination.events, RDMA_CM_EVENT_DEVICE_REMOVAL);
	cr_assert_eq(ibv_get_async_event(c.source.id->verbs, &event), 0);
	cr_assert_eq(event.event_type, IBV_EVENT_DEVICE_FATAL);
	ibv_ack_async_event(&event);
	cr_assert_eq(status_of_next(c.destination.recv_cq), IBV_WC_WR_FLUSH_ERR);
	cr_assert_null(ibv_alloc_pd(c.source.id->verbs));
	couple_close(&c);
}

Test(fake_script, fatal_queue_pair__event)
{
	struct ibv_async_event event;
	struct couple c;

	couple_open(&c, &defaults);
	fake_qp_fatal(c.destination.id->qp->qp_num);
	cr_assert_eq(ibv_get_async_event(c.source.id->verbs, &event), 0);
	cr_assert_eq(event.event_type, IBV_EVENT_QP_FATAL);
	cr_assert_eq(event.element.qp, c.destination.id->qp);
	ibv_ack_async_event(&event);
	couple_close(&c);
}

/*
 * Both halves of a connection send to each other; one completion queue tells whose message came
 * first.
 */
static bool source_is_first(uint64_t seed)
{
	const struct couple_options options = {.one_recv_cq = true};
	struct ibv_send_wr back = {.opcode = IBV_WR_SEND};
	struct ibv_send_wr *bad;
	uint32_t source_number;
	struct couple c;
	struct ibv_wc wc;

	fake_seed(seed);
	couple_open(&c, &options);
	source_number = c.source.id->qp->qp_num;
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_receives(&c.source, 1), 0);
	fake_hold_wire(true);
	cr_assert_eq(post(&c, IBV_WR_SEND, 0, 0, 0, 1), 0);
	cr_assert_eq(ibv_post_send(c.destination.id->qp, &back, &bad), 0);
	fake_hold_wire(false);
	cr_assert(await_wc(c.source.recv_cq, &wc, 5000));
	couple_close(&c);
	return wc.src_qp == source_number;
}

Test(fake_script, two_queue_pairs__in_no_order)
{
	unsigned int first = 0;

	for (uint64_t seed = 1; seed <= 40; seed++)
		first += source_is_first(seed);
	cr_assert(first > 4 && first < 36, "%u of 40", first);
}

Test(fake_script, reset__begins_again)
{
	struct fake_counts counts;
	struct couple c;

	for (unsigned int i = 0; i < 3; i++) {
		couple_open(&c, &defaults);
		cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 1), 0);
		cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
		fake_counts(&counts);
		cr_assert_eq(counts.doorbells, 1);
		cr_assert_eq(counts.bytes, 8);
		couple_close(&c);
		fake_reset();
	}
}
