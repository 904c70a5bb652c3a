/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nic.h"

#define ACCESS_ALL                                                                   \
	(IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | \
	 IBV_ACCESS_REMOTE_ATOMIC)
#define RNR_TIMER_MAX 31
/* What fails leaves these fields of its completion undefined: nobody is to rely on them. */
#define UNDEFINED 0x5a5a5a5a

/* ---- making ---------------------------------------------------------------------------------- */

/* The ring has a power of two of slots, one of which stays empty: as soft-RoCE does it. */
static uint32_t round_up(uint32_t depth)
{
	uint32_t ring = 1;

	while (ring < depth + 1)
		ring *= 2;
	return ring - 1;
}

static int check_wish(const struct ibv_pd *pd, const struct ibv_qp_init_attr *attr)
{
	const struct fake_limits *limits = &nic.limits;
	const struct ibv_qp_cap *cap = &attr->cap;

	if (nic_gone(pd->context))
		return EIO;
	if (attr->send_cq == NULL || attr->recv_cq == NULL || attr->srq != NULL ||
	    attr->qp_type != IBV_QPT_RC)
		return EINVAL;
	if (cap->max_send_wr > limits->max_qp_wr || cap->max_recv_wr > limits->max_qp_wr ||
	    cap->max_send_sge > limits->max_sge || cap->max_recv_sge > limits->max_sge ||
	    cap->max_inline_data > limits->max_inline)
		return EINVAL;
	if (attr->send_cq->context->device != pd->context->device ||
	    attr->recv_cq->context->device != pd->context->device)
		return EINVAL;
	return 0;
}

static void make_rings(struct nic_qp *qp)
{
	qp->cap.max_send_wr = round_up(qp->cap.max_send_wr);
	qp->cap.max_recv_wr = round_up(qp->cap.max_recv_wr);
	qp->sends = nic_alloc(qp->cap.max_send_wr + 1, sizeof(*qp->sends));
	qp->recvs = nic_alloc(qp->cap.max_recv_wr + 1, sizeof(*qp->recvs));
	qp->inline_bytes = nic_alloc(qp->cap.max_send_wr + 1, qp->cap.max_inline_data + 1);
	for (uint32_t i = 0; i < qp->cap.max_send_wr; i++)
		qp->sends[i].inlined = qp->inline_bytes + (size_t)i * qp->cap.max_inline_data;
}

static void set_users(struct nic_qp *qp, unsigned int change)
{
	container(qp->ibv.pd, struct nic_pd, ibv)->users += change;
	container(qp->ibv.send_cq, struct nic_cq, ibv)->users += change;
	container(qp->ibv.recv_cq, struct nic_cq, ibv)->users += change;
}

int nic_qp_create(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct nic_qp **qp)
{
	int error = nic_scripted(FAKE_CREATE_QP);
	struct nic_qp *q;

	if (error == 0)
		error = check_wish(pd, attr);
	if (error != 0)
		return error;
	q = nic_alloc(1, sizeof(*q));
	q->ibv.context = pd->context;
	q->ibv.qp_context = attr->qp_context;
	q->ibv.pd = pd;
	q->ibv.send_cq = attr->send_cq;
	q->ibv.recv_cq = attr->recv_cq;
	q->ibv.qp_type = attr->qp_type;
	q->ibv.qp_num = ++nic.qp_numbers;
	q->ibv.state = IBV_QPS_RESET;
	q->cap = attr->cap;
	q->signal_all = attr->sq_sig_all != 0;
	make_rings(q);
	attr->cap = q->cap;
	set_users(q, 1);
	TAILQ_INSERT_TAIL(&nic.qps, q, link);
	nic.counts.live.qps++;
	nic_wire_start();
	*qp = q;
	return 0;
}

void nic_qp_free(struct nic_qp *qp)
{
	nic_qp_break(qp);
	nic_async_forget(qp->ibv.context, &qp->ibv);
	nic_settle(&qp->async_unacked,
		   "a queue pair destroyed with unacknowledged asynchronous events");
	if (qp->peer != NULL)
		qp->peer->peer = NULL;
	nic_cq_purge(qp->ibv.send_cq, qp);
	nic_cq_purge(qp->ibv.recv_cq, qp);
	TAILQ_REMOVE(&nic.qps, qp, link);
	set_users(qp, -1u);
	nic.counts.live.qps--;
	free(qp->sends);
	free(qp->recvs);
	free(qp->inline_bytes);
	free(qp);
}

struct ibv_qp *ibv_create_qp(struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	struct nic_qp *qp;
	int error;

	nic_lock();
	error = nic_qp_create(pd, attr, &qp);
	if (error != 0)
		return nic_null(error);
	nic_unlock();
	return &qp->ibv;
}

int ibv_destroy_qp(struct ibv_qp *qp)
{
	int error;

	nic_lock();
	error = nic_destroyed(qp->context);
	nic_qp_free(nic_qp_of(qp));
	nic_unlock();
	return error;
}

/* ---- completions ----------------------------------------------------------------------------- */

static enum ibv_wc_opcode opcode_of(enum ibv_wr_opcode opcode)
{
	switch (opcode) {
	case IBV_WR_RDMA_WRITE:
	case IBV_WR_RDMA_WRITE_WITH_IMM:
		return IBV_WC_RDMA_WRITE;
	case IBV_WR_RDMA_READ:
		return IBV_WC_RDMA_READ;
	default:
		return IBV_WC_SEND;
	}
}

static void spoil(struct ibv_wc *wc)
{
	wc->opcode = (enum ibv_wc_opcode)0x5a;
	wc->byte_len = UNDEFINED;
	wc->imm_data = UNDEFINED;
	wc->src_qp = UNDEFINED;
	wc->vendor_err = 0x57;
}

static void complete_send(struct nic_qp *qp, uint64_t index, enum ibv_wc_status status)
{
	const struct nic_send *send = &qp->sends[index % qp->cap.max_send_wr];
	struct nic_cqe cqe = {
		.qp = qp,
		.frees = index + 1,
		.wc = {.wr_id = send->wr_id, .status = status, .qp_num = qp->ibv.qp_num},
	};

	cqe.wc.opcode = opcode_of(send->opcode);
	if (status != IBV_WC_SUCCESS)
		spoil(&cqe.wc);
	nic_cq_push(qp->ibv.send_cq, &cqe, false);
}

void nic_qp_ack(struct nic_qp *qp, uint64_t index)
{
	for (; qp->acked < index; qp->acked++) {
		const struct nic_send *send = &qp->sends[qp->acked % qp->cap.max_send_wr];

		if (qp->signal_all || (send->flags & IBV_SEND_SIGNALED))
			complete_send(qp, qp->acked, IBV_WC_SUCCESS);
	}
}

void nic_qp_received(struct nic_qp *qp, const struct ibv_wc *wc, bool solicited)
{
	struct nic_cqe cqe = {.qp = qp, .receive = true, .wc = *wc};

	cqe.wc.wr_id = qp->recvs[qp->recv_next % qp->cap.max_recv_wr].wr_id;
	cqe.wc.qp_num = qp->ibv.qp_num;
	cqe.frees = ++qp->recv_next;
	if (wc->status != IBV_WC_SUCCESS)
		spoil(&cqe.wc);
	nic_cq_push(qp->ibv.recv_cq, &cqe, solicited);
}

/* ---- errors ---------------------------------------------------------------------------------- */

void nic_qp_flush(struct nic_qp *qp)
{
	const struct ibv_wc flushed = {.status = IBV_WC_WR_FLUSH_ERR};

	/*
	 * What was carried out and not yet acknowledged is flushed too: its fate is not known here.
	 */
	for (; !qp->executing && qp->acked < qp->posted; qp->acked++)
		complete_send(qp, qp->acked, IBV_WC_WR_FLUSH_ERR);
	if (!qp->executing)
		qp->next = qp->posted;
	while (qp->inbound == 0 && qp->recv_next < qp->recv_posted)
		nic_qp_received(qp, &flushed, false);
}

void nic_qp_error(struct nic_qp *qp)
{
	qp->ibv.state = IBV_QPS_ERR;
	nic_qp_flush(qp);
	/* The peer hears no answer any more: its clock starts. */
	nic_wire_kick();
}

void nic_qp_fail(struct nic_qp *qp, uint64_t index, enum ibv_wc_status status)
{
	nic_qp_ack(qp, index);
	complete_send(qp, index, status);
	qp->acked = index + 1;
	if (qp->next < qp->acked)
		qp->next = qp->acked;
	nic_qp_error(qp);
}

void nic_qp_break(struct nic_qp *qp)
{
	qp->dying = true;
	while (qp->executing || qp->inbound > 0)
		pthread_cond_wait(&nic.settled, &nic.lock);
	qp->dying = false;
	nic_qp_error(qp);
}

/* ---- modifying ------------------------------------------------------------------------------- */

static int modify_ready(struct nic_qp *qp, const struct ibv_qp_attr *attr, int mask)
{
	const int may =
		IBV_QP_STATE | IBV_QP_CUR_STATE | IBV_QP_ACCESS_FLAGS | IBV_QP_MIN_RNR_TIMER;

	/* The ack time-out, for one, cannot be changed any more. */
	if ((mask & ~may) || ((mask & IBV_QP_STATE) && attr->qp_state != IBV_QPS_RTS))
		return EINVAL;
	if ((mask & IBV_QP_ACCESS_FLAGS) && (attr->qp_access_flags & ~(unsigned int)ACCESS_ALL))
		return EINVAL;
	if ((mask & IBV_QP_MIN_RNR_TIMER) && attr->min_rnr_timer > RNR_TIMER_MAX)
		return EINVAL;
	if (mask & IBV_QP_ACCESS_FLAGS)
		qp->access = attr->qp_access_flags;
	if (mask & IBV_QP_MIN_RNR_TIMER)
		qp->min_rnr_timer = attr->min_rnr_timer;
	return 0;
}

static int modify(struct nic_qp *qp, const struct ibv_qp_attr *attr, int mask)
{
	if (nic_gone(qp->ibv.context))
		return EIO;
	if ((mask & IBV_QP_CUR_STATE) && attr->cur_qp_state != qp->ibv.state)
		return EINVAL;
	if ((mask & IBV_QP_STATE) && attr->qp_state == IBV_QPS_ERR) {
		if (mask & ~(IBV_QP_STATE | IBV_QP_CUR_STATE))
			return EINVAL;
		nic_qp_break(qp);
		return 0;
	}
	return qp->ibv.state == IBV_QPS_RTS ? modify_ready(qp, attr, mask) : EINVAL;
}

/* Everything up to RTS is rdma_cm's. */
int ibv_modify_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_MODIFY_QP);
	if (error == 0)
		error = modify(nic_qp_of(qp), attr, mask);
	nic_unlock();
	return error;
}

int ibv_query_qp(struct ibv_qp *qp, struct ibv_qp_attr *attr, int mask,
		 struct ibv_qp_init_attr *init)
{
	const struct nic_qp *our = nic_qp_of(qp);
	int error;

	(void)mask;
	nic_lock();
	error = nic_scripted(FAKE_QUERY_QP);
	if (error == 0) {
		*attr = (struct ibv_qp_attr){
			.qp_state = qp->state,
			.cur_qp_state = qp->state,
			.path_mtu = nic.limits.active_mtu,
			.dest_qp_num = our->peer == NULL ? 0 : our->peer->ibv.qp_num,
			.qp_access_flags = our->access,
			.cap = our->cap,
			.max_rd_atomic = our->reads_out,
			.max_dest_rd_atomic = our->reads_in,
			.min_rnr_timer = our->min_rnr_timer,
			.port_num = 1,
			.timeout = our->timeout,
			.retry_cnt = our->retry_count,
			.rnr_retry = our->rnr_retry,
		};
		*init = (struct ibv_qp_init_attr){
			.qp_context = qp->qp_context,
			.send_cq = qp->send_cq,
			.recv_cq = qp->recv_cq,
			.cap = our->cap,
			.qp_type = qp->qp_type,
			.sq_sig_all = our->signal_all,
		};
	}
	nic_unlock();
	return error;
}
