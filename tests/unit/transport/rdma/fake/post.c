/* SPDX-License-Identifier: MIT */
/* Posting work requests: what a library checks before it rings the doorbell. */
#include <errno.h>
#include <string.h>

#include "nic.h"

static int copy_inline(struct nic_qp *qp, struct nic_send *send, const struct ibv_send_wr *wr)
{
	uint64_t length = 0;

	if (wr->opcode == IBV_WR_RDMA_READ)
		return EINVAL;
	for (int i = 0; i < wr->num_sge; i++)
		length += wr->sg_list[i].length;
	if (length > qp->cap.max_inline_data)
		return EINVAL;
	send->inline_length = 0;
	for (int i = 0; i < wr->num_sge; i++) {
		const struct ibv_sge *sge = &wr->sg_list[i];

		if (sge->length > 0)
			memcpy(send->inlined + send->inline_length,
			       (const void *)(uintptr_t)sge->addr, sge->length);
		send->inline_length += sge->length;
	}
	return 0;
}

static bool known(enum ibv_wr_opcode opcode)
{
	return opcode == IBV_WR_RDMA_WRITE || opcode == IBV_WR_RDMA_WRITE_WITH_IMM ||
	       opcode == IBV_WR_SEND || opcode == IBV_WR_SEND_WITH_IMM ||
	       opcode == IBV_WR_RDMA_READ;
}

static int post_one(struct nic_qp *qp, const struct ibv_send_wr *wr)
{
	struct nic_send *send = &qp->sends[qp->posted % qp->cap.max_send_wr];

	/* Only a completion that was polled makes room. */
	if (qp->posted - qp->freed >= qp->cap.max_send_wr) {
		nic.counts.enomem++;
		return ENOMEM;
	}
	if (!known(wr->opcode) || wr->num_sge < 0 || (uint32_t)wr->num_sge > qp->cap.max_send_sge)
		return EINVAL;
	send->wr_id = wr->wr_id;
	send->opcode = wr->opcode;
	send->flags = wr->send_flags;
	send->imm = wr->imm_data;
	send->remote = wr->wr.rdma.remote_addr;
	send->rkey = wr->wr.rdma.rkey;
	send->sges = (unsigned int)wr->num_sge;
	if (wr->send_flags & IBV_SEND_INLINE) {
		int error = copy_inline(qp, send, wr);

		if (error != 0)
			return error;
	} else if (wr->num_sge > 0) {
		memcpy(send->sge, wr->sg_list, send->sges * sizeof(*send->sge));
	}
	qp->posted++;
	nic.counts.wrs++;
	nic.counts.signalled += (wr->send_flags & IBV_SEND_SIGNALED) != 0;
	return 0;
}

static int post_sends(struct nic_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	int error = nic_scripted(FAKE_POST_SEND);

	if (error == 0 && qp->ibv.state != IBV_QPS_RTS && qp->ibv.state != IBV_QPS_ERR)
		error = EINVAL;
	for (; error == 0 && wr != NULL; wr = wr->next) {
		error = post_one(qp, wr);
		if (error != 0)
			break;
	}
	/* What stands before the bad one is on its way. */
	if (error != 0)
		*bad = wr;
	return error;
}

int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	struct nic_qp *our = nic_qp_of(qp);
	int error;

	nic_lock();
	nic.counts.doorbells++;
	error = post_sends(our, wr, bad);
	if (qp->state == IBV_QPS_ERR)
		nic_qp_flush(our);
	nic_wire_kick();
	nic_unlock();
	return error;
}

static int receive_one(struct nic_qp *qp, const struct ibv_recv_wr *wr)
{
	struct nic_recv *recv = &qp->recvs[qp->recv_posted % qp->cap.max_recv_wr];

	if (qp->recv_posted - qp->recv_freed >= qp->cap.max_recv_wr) {
		nic.counts.enomem++;
		return ENOMEM;
	}
	if (wr->num_sge < 0 || (uint32_t)wr->num_sge > qp->cap.max_recv_sge)
		return EINVAL;
	/* Accepted, and never heard of again. */
	if (qp->ibv.state == IBV_QPS_ERR && nic.limits.loses_receives)
		return 0;
	recv->wr_id = wr->wr_id;
	recv->sges = (unsigned int)wr->num_sge;
	if (recv->sges > 0)
		memcpy(recv->sge, wr->sg_list, recv->sges * sizeof(*recv->sge));
	qp->recv_posted++;
	return 0;
}

int fake_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	struct nic_qp *our = nic_qp_of(qp);
	int error;

	nic_lock();
	error = nic_scripted(FAKE_POST_RECV);
	if (error == 0 && qp->state == IBV_QPS_RESET)
		error = EINVAL;
	for (; error == 0 && wr != NULL; wr = wr->next) {
		error = receive_one(our, wr);
		if (error != 0)
			break;
	}
	if (error != 0)
		*bad = wr;
	if (qp->state == IBV_QPS_ERR)
		nic_qp_flush(our);
	nic_unlock();
	return error;
}
