/* SPDX-License-Identifier: MIT */
/*
 * The fake catches what a device catches: keys, ranges, rights, full queues; and keeps the order
 * that a queue pair keeps.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "couple.h"
#include "fake/fake.h"

#define SIGNALED IBV_SEND_SIGNALED
#define WRITE	 IBV_WR_RDMA_WRITE
#define FENCE	 IBV_WR_RDMA_WRITE_WITH_IMM

static const struct couple_options defaults;

static void expect_both_broken(struct couple *c, enum ibv_wc_status status)
{
	cr_assert_eq(status_of_next(c->source.send_cq), status);
	cr_assert_eq(status_of_next(c->destination.recv_cq), IBV_WC_WR_FLUSH_ERR);
	cr_assert_eq(c->source.id->qp->state, IBV_QPS_ERR);
	cr_assert_eq(c->destination.id->qp->state, IBV_QPS_ERR);
}

Test(fake_device, write__lands_at_its_address)
{
	struct couple c;

	couple_open(&c, &defaults);
	memset(c.source.memory + 8192, 0x37, 5000);
	cr_assert_eq(post(&c, WRITE, 8192, 5000, SIGNALED, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert_eq(memcmp(c.source.memory, c.destination.memory, COUPLE_MEMORY), 0);
	cr_assert_eq(c.destination.memory[8192], 0x37);
	couple_close(&c);
}

/* Each write overwrites the one before; the fence comes last. */
Test(fake_device, one_queue_pair__in_order)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	for (unsigned int round = 0; round < 200; round++) {
		cr_assert_eq(post_receives(&c.destination, 1), 0);
		for (unsigned int i = 0; i < 8; i++) {
			c.source.memory[4096 * i] = (uint8_t)(round + i);
			c.destination.memory[4096 * i] = 0;
			cr_assert_eq(post(&c, WRITE, 4096ull * i, 4096, 0, i), 0);
		}
		cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, round), 0);
		cr_assert(await_wc(c.destination.recv_cq, &wc, 5000));
		cr_assert_eq(wc.opcode, IBV_WC_RECV_RDMA_WITH_IMM);
		cr_assert_eq(ntohl(wc.imm_data), round);
		for (unsigned int i = 0; i < 8; i++)
			cr_assert_eq(c.destination.memory[4096 * i], (uint8_t)(round + i));
		cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
		cr_assert(!await_wc(c.source.send_cq, &wc, 0), "unsignalled ones complete");
	}
	couple_close(&c);
}

static int post_with_rkey(struct couple *c, uint32_t rkey, uint64_t offset, uint32_t length)
{
	struct ibv_sge sge = {COUPLE_IOVA, length, c->source.mr->lkey};
	struct ibv_send_wr wr = {
		.opcode = WRITE,
		.send_flags = SIGNALED,
		.sg_list = &sge,
		.num_sge = 1,
		.wr.rdma = {.remote_addr = COUPLE_IOVA + offset, .rkey = rkey},
	};
	struct ibv_send_wr *bad;

	return ibv_post_send(c->source.id->qp, &wr, &bad);
}

Test(fake_device, bad_rkey__refused)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_with_rkey(&c, c.destination.mr->rkey + 2, 0, 8), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

Test(fake_device, lkey_for_rkey__refused)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_with_rkey(&c, c.destination.mr->lkey, 0, 8), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

/* The source's own region is of another protection domain than the destination's queue pair. */
Test(fake_device, foreign_domain__refused)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_with_rkey(&c, c.source.mr->rkey, 0, 8), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

Test(fake_device, range__refused_beyond_the_last_byte)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_with_rkey(&c, c.destination.mr->rkey, COUPLE_MEMORY - 8, 8), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert_eq(post_with_rkey(&c, c.destination.mr->rkey, COUPLE_MEMORY - 7, 8), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

Test(fake_device, range__refused_before_the_first_byte)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_with_rkey(&c, c.destination.mr->rkey, -1ull, 8), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

Test(fake_device, region_without_remote_write__refused)
{
	const struct couple_options options = {.access = IBV_ACCESS_LOCAL_WRITE};
	struct couple c;

	couple_open(&c, &options);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 1), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

static int set_access(const struct side *side, unsigned int access)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .qp_access_flags = access};

	return ibv_modify_qp(side->id->qp, &attr, IBV_QP_STATE | IBV_QP_ACCESS_FLAGS);
}

Test(fake_device, queue_pair_without_remote_write__refuses_even_nothing)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(set_access(&c.destination, 0), 0);
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, 1), 0);
	expect_both_broken(&c, IBV_WC_REM_INV_REQ_ERR);
	couple_close(&c);
}

Test(fake_device, deregistered__refused)
{
	struct couple c;
	uint32_t rkey;

	couple_open(&c, &defaults);
	rkey = c.destination.mr->rkey;
	cr_assert_eq(ibv_dealloc_pd(c.destination.pd), EBUSY);
	cr_assert_eq(ibv_dereg_mr(c.destination.mr), 0);
	c.destination.mr = NULL;
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(post_with_rkey(&c, rkey, 0, 8), 0);
	expect_both_broken(&c, IBV_WC_REM_ACCESS_ERR);
	couple_close(&c);
}

Test(fake_device, source_range__local_error_alone)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(post(&c, WRITE, COUPLE_MEMORY - 4, 8, SIGNALED, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_LOC_PROT_ERR);
	cr_assert_eq(c.destination.id->qp->state, IBV_QPS_RTS);
	couple_close(&c);
}

Test(fake_device, message_too_long__local_error)
{
	struct fake_limits limits;
	struct couple c;

	fake_limits_get(&limits);
	limits.max_message = 65536;
	fake_limits_set(&limits);
	couple_open(&c, &defaults);
	cr_assert_eq(post(&c, WRITE, 0, 65536, SIGNALED, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert_eq(post(&c, WRITE, 0, 65537, SIGNALED, 2), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_LOC_LEN_ERR);
	couple_close(&c);
}

/* ---- queues ---------------------------------------------------------------------------------- */

/* Slots come back with a completion that was polled, not with one that was written. */
Test(fake_device, full_queue__enomem_and_counted)
{
	const struct couple_options options = {.depth = 7};
	struct fake_counts counts;
	struct couple c;

	couple_open(&c, &options);
	for (unsigned int i = 0; i < 7; i++)
		cr_assert_eq(post(&c, WRITE, 0, 8, i == 3 ? SIGNALED : 0, i), 0);
	cr_assert(fake_quiet(5000));
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 7), ENOMEM);
	fake_counts(&counts);
	cr_assert_eq(counts.enomem, 1);
	cr_assert_eq(counts.wrs, 7);
	cr_assert_eq(counts.signalled, 1);
	cr_assert_eq(counts.completions, 1);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	for (unsigned int i = 0; i < 4; i++)
		cr_assert_eq(post(&c, WRITE, 0, 8, 0, i), 0);
	cr_assert_eq(post(&c, WRITE, 0, 8, 0, 4), ENOMEM);
	couple_close(&c);
}

Test(fake_device, chain__what_stands_before_the_bad_one_is_queued)
{
	const struct couple_options options = {.depth = 3};
	struct ibv_send_wr wrs[5];
	struct ibv_send_wr *bad = NULL;
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &options);
	for (unsigned int i = 0; i < 5; i++)
		wrs[i] = (struct ibv_send_wr){
			.wr_id = i,
			.opcode = WRITE,
			.send_flags = SIGNALED,
			.next = i < 4 ? &wrs[i + 1] : NULL,
		};
	cr_assert_eq(ibv_post_send(c.source.id->qp, wrs, &bad), ENOMEM);
	cr_assert_eq(bad, &wrs[3]);
	for (unsigned int i = 0; i < 3; i++) {
		cr_assert(await_wc(c.source.send_cq, &wc, 5000));
		cr_assert_eq(wc.wr_id, i);
	}
	couple_close(&c);
}

Test(fake_device, depth__rounded_up)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	const struct couple_options options = {.depth = 100};
	struct couple c;

	couple_open(&c, &options);
	cr_assert_eq(ibv_query_qp(c.source.id->qp, &attr, IBV_QP_CAP, &init), 0);
	cr_assert_eq(attr.cap.max_send_wr, 127);
	couple_close(&c);
}

Test(fake_device, inline_data__limit_and_copy)
{
	const struct couple_options options = {.inline_size = 64};
	struct couple c;

	couple_open(&c, &options);
	cr_assert_eq(post(&c, WRITE, 0, 65, IBV_SEND_INLINE | SIGNALED, 1), EINVAL);
	fake_hold_wire(true);
	memset(c.source.memory, 1, 64);
	cr_assert_eq(post(&c, WRITE, 0, 64, IBV_SEND_INLINE | SIGNALED, 1), 0);
	memset(c.source.memory, 2, 64);
	fake_hold_wire(false);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert_eq(c.destination.memory[63], 1);
	couple_close(&c);
}

Test(fake_device, completion_queue_overrun__event_and_dead)
{
	const struct couple_options options = {.cqe = 4};
	struct ibv_async_event event;
	struct fake_counts counts;
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &options);
	for (unsigned int i = 0; i < 5; i++)
		cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, i), 0);
	cr_assert(fake_quiet(5000));
	fake_counts(&counts);
	cr_assert_eq(counts.overruns, 1);
	cr_assert_eq(ibv_get_async_event(c.source.id->verbs, &event), 0);
	cr_assert_eq(event.event_type, IBV_EVENT_CQ_ERR);
	cr_assert_eq(event.element.cq, c.source.send_cq);
	ibv_ack_async_event(&event);
	for (unsigned int i = 0; i < 4; i++)
		cr_assert(await_wc(c.source.send_cq, &wc, 0));
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 9), 0);
	cr_assert(!await_wc(c.source.send_cq, &wc, 20));
	couple_close(&c);
}

/* Arming is about what comes: a completion that is there already wakes nobody. */
Test(fake_device, notification__only_of_what_comes_later)
{
	struct ibv_cq *cq;
	struct couple c;
	void *context;

	couple_open(&c, &defaults);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 1), 0);
	cr_assert(fake_quiet(5000));
	cr_assert_eq(ibv_req_notify_cq(c.source.send_cq, 0), 0);
	cr_assert_eq(ibv_get_cq_event(c.source.channel, &cq, &context), -1);
	cr_assert_eq(errno, EAGAIN);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 2), 0);
	cr_assert_eq(post(&c, WRITE, 0, 8, SIGNALED, 3), 0);
	cr_assert(fake_quiet(5000));
	cr_assert_eq(ibv_get_cq_event(c.source.channel, &cq, &context), 0);
	cr_assert_eq(cq, c.source.send_cq);
	ibv_ack_cq_events(cq, 1);
	cr_assert_eq(ibv_get_cq_event(c.source.channel, &cq, &context), -1, "one event, not two");
	couple_close(&c);
}

/* ---- receives -------------------------------------------------------------------------------- */

Test(fake_device, no_receive__error_when_the_tries_are_over)
{
	const struct couple_options options = {.rnr_retry = 1};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .min_rnr_timer = 12};
	struct fake_counts counts;
	struct couple c;

	couple_open(&c, &options);
	cr_assert_eq(
		ibv_modify_qp(c.destination.id->qp, &attr, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER), 0);
	cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_RNR_RETRY_EXC_ERR);
	fake_counts(&counts);
	cr_assert_eq(counts.rnr, 2);
	couple_close(&c);
}

Test(fake_device, no_receive__waits_for_ever_with_seven_tries)
{
	const struct couple_options options = {.rnr_retry = 7};
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .min_rnr_timer = 12};
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &options);
	cr_assert_eq(
		ibv_modify_qp(c.destination.id->qp, &attr, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER), 0);
	cr_assert_eq(post(&c, FENCE, 0, 0, SIGNALED, 1), 0);
	cr_assert(!await_wc(c.source.send_cq, &wc, 50));
	cr_assert_eq(post_receives(&c.destination, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert_eq(status_of_next(c.destination.recv_cq), IBV_WC_SUCCESS);
	couple_close(&c);
}

static void post_buffer(struct side *side, uint64_t offset, uint32_t length)
{
	struct ibv_sge sge = {COUPLE_IOVA + offset, length, side->mr->lkey};
	struct ibv_recv_wr wr = {.wr_id = 77, .sg_list = &sge, .num_sge = 1};
	struct ibv_recv_wr *bad;

	cr_assert_eq(ibv_post_recv(side->id->qp, &wr, &bad), 0);
}

Test(fake_device, send__into_the_posted_buffer)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	memset(c.source.memory, 0x61, 100);
	post_buffer(&c.destination, 5000, 200);
	cr_assert_eq(post(&c, IBV_WR_SEND_WITH_IMM, 0, 100, SIGNALED, 5), 0);
	cr_assert(await_wc(c.destination.recv_cq, &wc, 5000));
	cr_assert_eq(wc.opcode, IBV_WC_RECV);
	cr_assert_eq(wc.wr_id, 77);
	cr_assert_eq(wc.byte_len, 100);
	cr_assert(wc.wc_flags & IBV_WC_WITH_IMM);
	cr_assert_eq(c.destination.memory[5099], 0x61);
	cr_assert_eq(c.destination.memory[5100], 0);
	couple_close(&c);
}

Test(fake_device, send__longer_than_the_buffer)
{
	struct couple c;

	couple_open(&c, &defaults);
	post_buffer(&c.destination, 0, 99);
	cr_assert_eq(post(&c, IBV_WR_SEND, 0, 100, SIGNALED, 5), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_REM_INV_REQ_ERR);
	cr_assert_eq(status_of_next(c.destination.recv_cq), IBV_WC_LOC_LEN_ERR);
	couple_close(&c);
}

/* ---- errors ---------------------------------------------------------------------------------- */

static void break_qp(const struct side *side)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};

	cr_assert_eq(ibv_modify_qp(side->id->qp, &attr, IBV_QP_STATE), 0);
}

Test(fake_device, error_state__everything_is_flushed_in_order)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	cr_assert_eq(post_receives(&c.source, 3), 0);
	fake_hold_wire(true);
	for (unsigned int i = 0; i < 5; i++)
		cr_assert_eq(post(&c, WRITE, 0, 8, 0, i), 0);
	break_qp(&c.source);
	cr_assert_eq(post(&c, WRITE, 0, 8, 0, 5), 0);
	for (unsigned int i = 0; i < 6; i++) {
		cr_assert(await_wc(c.source.send_cq, &wc, 0));
		cr_assert_eq(wc.status, IBV_WC_WR_FLUSH_ERR);
		cr_assert_eq(wc.wr_id, i);
	}
	for (unsigned int i = 0; i < 3; i++) {
		cr_assert(await_wc(c.source.recv_cq, &wc, 0));
		cr_assert_eq(wc.status, IBV_WC_WR_FLUSH_ERR);
		cr_assert_eq(wc.wr_id, i);
	}
	cr_assert(!await_wc(c.source.send_cq, &wc, 0));
	couple_close(&c);
}

Test(fake_device, failure__first_its_own_status_then_flushes)
{
	const struct fake_match any = {0};
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	fake_hold_wire(true);
	fake_fail_wr(&any, 3, IBV_WC_LOC_QP_OP_ERR);
	for (unsigned int i = 0; i < 6; i++)
		cr_assert_eq(post(&c, WRITE, 0, 8, i == 0 ? SIGNALED : 0, i), 0);
	fake_hold_wire(false);
	cr_assert(await_wc(c.source.send_cq, &wc, 5000));
	cr_assert_eq(wc.status, IBV_WC_SUCCESS);
	cr_assert(await_wc(c.source.send_cq, &wc, 5000));
	cr_assert_eq(wc.status, IBV_WC_LOC_QP_OP_ERR);
	cr_assert_eq(wc.wr_id, 2);
	for (unsigned int i = 3; i < 6; i++) {
		cr_assert(await_wc(c.source.send_cq, &wc, 5000));
		cr_assert_eq(wc.status, IBV_WC_WR_FLUSH_ERR);
		cr_assert_eq(wc.wr_id, i);
	}
	couple_close(&c);
}

/*
 * Revoking: when this returns, the peer's writes have stopped; the peer's own next one gets no
 * answer.
 */
Test(fake_device, destination_broken__no_write_lands_any_more)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	for (unsigned int i = 0; i < 60; i++)
		cr_assert_eq(post(&c, WRITE, 0, COUPLE_MEMORY, 0, i), 0);
	break_qp(&c.destination);
	memset(c.destination.memory, 0x11, COUPLE_MEMORY);
	memset(c.source.memory, 0x22, COUPLE_MEMORY);
	cr_assert(await_wc(c.source.send_cq, &wc, 5000));
	cr_assert_eq(wc.status, IBV_WC_RETRY_EXC_ERR);
	for (unsigned int i = 0; i < COUPLE_MEMORY; i++)
		cr_assert_eq(c.destination.memory[i], 0x11);
	couple_close(&c);
}

/* ---- reads ----------------------------------------------------------------------------------- */

Test(fake_device, read__fetches)
{
	const struct couple_options options = {
		.reads = 4,
		.access = IBV_ACCESS_REMOTE_READ,
	};
	struct couple c;

	couple_open(&c, &options);
	memset(c.destination.memory + 4096, 0x44, 4096);
	cr_assert_eq(post(&c, IBV_WR_RDMA_READ, 4096, 4096, SIGNALED, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_SUCCESS);
	cr_assert_eq(c.source.memory[8191], 0x44);
	couple_close(&c);
}

Test(fake_device, read_without_resources__never_completes)
{
	struct couple c;
	struct ibv_wc wc;

	couple_open(&c, &defaults);
	cr_assert_eq(post(&c, IBV_WR_RDMA_READ, 0, 4096, SIGNALED, 1), 0);
	cr_assert(!await_wc(c.source.send_cq, &wc, 100));
	break_qp(&c.source);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_WR_FLUSH_ERR);
	couple_close(&c);
}

/* ---- registration ---------------------------------------------------------------------------- */

Test(fake_device, registration__refused)
{
	struct fake_limits limits;
	struct couple c;
	uint8_t *hole;
	struct ibv_pd *pd;

	couple_open(&c, &defaults);
	pd = c.source.pd;
	hole = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(hole + 4096, 4096);
	cr_assert_null(ibv_reg_mr(pd, hole, 8192, IBV_ACCESS_LOCAL_WRITE));
	cr_assert_eq(errno, EFAULT);
	cr_assert_null(ibv_reg_mr(pd, hole, 4096, IBV_ACCESS_REMOTE_WRITE));
	cr_assert_eq(errno, EINVAL);
	cr_assert_null(ibv_reg_mr(pd, hole, 4096, IBV_ACCESS_ON_DEMAND));
	cr_assert_eq(errno, EINVAL);
	cr_assert_null(ibv_reg_mr_iova(pd, hole, 4096, 100, 0));
	cr_assert_eq(errno, EINVAL);
	fake_limits_get(&limits);
	limits.max_mr_size = 4095;
	fake_limits_set(&limits);
	cr_assert_null(ibv_reg_mr(pd, hole, 4096, 0));
	munmap(hole, 4096);
	couple_close(&c);
}
