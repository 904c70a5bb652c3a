/* SPDX-License-Identifier: MIT */
/* One work request, from the requester's checks over the responder's to the completions. */
#include <string.h>

#include <vmferry/vmferry.h>

#include "nic.h"

#define RNR_FOR_EVER 7

struct operation {
	struct nic_qp *qp;
	struct nic_qp *peer;
	const struct nic_send *send;
	struct span local[NIC_SGES];
	unsigned int locals;
	struct span far[NIC_SGES]; /* the peer's memory */
	unsigned int fars;
	struct nic_mr *mrs[2 * NIC_SGES];
	unsigned int mr_count;
	uint64_t length;
	enum ibv_wc_status
		failure; /* of the requester, and of the peer's RECV if that is to blame */
	enum ibv_wc_status recv_failure;
};

static bool is_write(const struct operation *op)
{
	return op->send->opcode == IBV_WR_RDMA_WRITE ||
	       op->send->opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

static bool is_read(const struct operation *op)
{
	return op->send->opcode == IBV_WR_RDMA_READ;
}

static bool takes_recv(const struct operation *op)
{
	return !is_read(op) && op->send->opcode != IBV_WR_RDMA_WRITE;
}

/* ---- checks ---------------------------------------------------------------------------------- */

static bool use(struct operation *op, const struct ibv_pd *pd, const struct ibv_sge *sge,
		unsigned int access, struct span *span)
{
	struct nic_mr *mr = nic_mr_use(pd, sge->lkey, sge->addr, sge->length, access, &span->at);

	if (mr == NULL)
		return false;
	span->length = sge->length;
	op->mrs[op->mr_count++] = mr;
	return true;
}

static bool local_memory(struct operation *op)
{
	const struct nic_send *send = op->send;

	if (send->flags & IBV_SEND_INLINE) {
		op->local[op->locals++] = (struct span){send->inlined, send->inline_length};
		return true;
	}
	for (unsigned int i = 0; i < send->sges; i++) {
		const struct ibv_sge *sge = &send->sge[i];

		/* Nothing is to be read or written there: no key is looked at. */
		if (sge->length == 0)
			continue;
		/* An rkey, which has its lowest bit set, is nothing that a local key could be. */
		if ((sge->lkey & 1) ||
		    !use(op, op->qp->ibv.pd, sge, is_read(op) ? IBV_ACCESS_LOCAL_WRITE : 0,
			 &op->local[op->locals]))
			return false;
		op->locals++;
	}
	return true;
}

static enum ibv_wc_status check_local(struct operation *op)
{
	if (!local_memory(op))
		return IBV_WC_LOC_PROT_ERR;
	for (unsigned int i = 0; i < op->locals; i++)
		op->length += op->local[i].length;
	return op->length > nic.limits.max_message ? IBV_WC_LOC_LEN_ERR : IBV_WC_SUCCESS;
}

/*
 * A queue pair that does not allow the operation at all calls it invalid; a key that does not, a
 * violation.
 */
static enum ibv_wc_status check_remote(struct operation *op)
{
	unsigned int access = is_read(op) ? IBV_ACCESS_REMOTE_READ : IBV_ACCESS_REMOTE_WRITE;
	const struct ibv_sge sge = {
		.addr = op->send->remote,
		.length = (uint32_t)op->length,
		.lkey = op->send->rkey,
	};

	if (!(op->peer->access & access) || (is_read(op) && op->peer->reads_in == 0))
		return IBV_WC_REM_INV_REQ_ERR;
	if (op->length == 0)
		return IBV_WC_SUCCESS;
	if (!(sge.lkey & 1) || !use(op, op->peer->ibv.pd, &sge, access, &op->far[0]))
		return IBV_WC_REM_ACCESS_ERR;
	op->fars = 1;
	return IBV_WC_SUCCESS;
}

static enum ibv_wc_status check_recv(struct operation *op)
{
	const struct nic_qp *peer = op->peer;
	const struct nic_recv *recv = &peer->recvs[peer->recv_next % peer->cap.max_recv_wr];
	uint64_t room = 0;

	for (unsigned int i = 0; i < recv->sges; i++) {
		const struct ibv_sge *sge = &recv->sge[i];

		if (sge->length == 0)
			continue;
		if ((sge->lkey & 1) ||
		    !use(op, peer->ibv.pd, sge, IBV_ACCESS_LOCAL_WRITE, &op->far[op->fars])) {
			op->recv_failure = IBV_WC_LOC_PROT_ERR;
			return IBV_WC_REM_OP_ERR;
		}
		room += op->far[op->fars++].length;
	}
	if (room >= op->length)
		return IBV_WC_SUCCESS;
	op->recv_failure = IBV_WC_LOC_LEN_ERR;
	return IBV_WC_REM_INV_REQ_ERR;
}

/* ---- receiver not ready ---------------------------------------------------------------------- */

static uint64_t rnr_ns(uint8_t timer)
{
	/* In hundredths of a millisecond, as InfiniBand has them. */
	static const uint32_t table[] = {65536, 1,    2,    3,	   4,	  6,	 8,	12,
					 16,	24,   32,   48,	   64,	  96,	 128,	192,
					 256,	384,  512,  768,   1024,  1536,	 2048,	3072,
					 4096,	6144, 8192, 12288, 16384, 24576, 32768, 49152};

	return table[timer] * 10000ull;
}

/* True: it has to wait, or has waited too often. */
static bool receiver_not_ready(struct operation *op)
{
	struct nic_qp *qp = op->qp;

	if (!takes_recv(op))
		return false;
	if (nic.script.rnr > 0)
		nic.script.rnr--;
	else if (op->peer->recv_next < op->peer->recv_posted)
		return false;
	nic.counts.rnr++;
	if (qp->rnr_retry != RNR_FOR_EVER && qp->rnr_tries >= qp->rnr_retry) {
		op->failure = IBV_WC_RNR_RETRY_EXC_ERR;
		return true;
	}
	qp->rnr_tries++;
	qp->not_before = vmferry_now() + rnr_ns(op->peer->min_rnr_timer);
	return true;
}

/* ---- doing it -------------------------------------------------------------------------------- */

static void copy(const struct span *to, const struct span *from, uint64_t length)
{
	uint64_t to_at = 0, from_at = 0;

	while (length > 0) {
		uint64_t part = to->length - to_at;

		if (part > from->length - from_at)
			part = from->length - from_at;
		if (part > length)
			part = length;
		fake_copy(to->at + to_at, from->at + from_at, part);
		length -= part;
		to_at += part;
		from_at += part;
		if (to_at == to->length) {
			to++;
			to_at = 0;
		}
		if (from_at == from->length) {
			from++;
			from_at = 0;
		}
	}
}

static void move(struct operation *op)
{
	op->qp->executing = true;
	op->peer->inbound++;
	nic_unlock();
	if (is_read(op))
		copy(op->local, op->far, op->length);
	else
		copy(op->far, op->local, op->length);
	nic_lock();
	op->peer->inbound--;
	op->qp->executing = false;
	nic.counts.bytes += op->length;
}

static void receive(struct operation *op)
{
	bool imm = op->send->opcode == IBV_WR_RDMA_WRITE_WITH_IMM ||
		   op->send->opcode == IBV_WR_SEND_WITH_IMM;
	struct ibv_wc wc = {
		.status = op->recv_failure,
		.opcode = is_write(op) ? IBV_WC_RECV_RDMA_WITH_IMM : IBV_WC_RECV,
		.byte_len = (uint32_t)op->length,
		.imm_data = imm ? op->send->imm : 0,
		.wc_flags = imm ? IBV_WC_WITH_IMM : 0,
		.src_qp = op->qp->ibv.qp_num,
	};

	nic_qp_received(op->peer, &wc, op->send->flags & IBV_SEND_SOLICITED);
	if (is_write(op) && nic.script.double_fences > 0 &&
	    op->peer->recv_next < op->peer->recv_posted) {
		nic.script.double_fences--;
		nic_qp_received(op->peer, &wc, op->send->flags & IBV_SEND_SOLICITED);
	}
}

/*
 * Both sides of a request that failed. The peer is to know nothing of what was wrong at the
 * requester.
 */
static void fail(struct operation *op)
{
	bool peer_too = nic_is_refusal(op->failure);

	if (op->recv_failure != IBV_WC_SUCCESS)
		receive(op);
	if (peer_too)
		nic_qp_error(op->peer);
	nic_qp_fail(op->qp, op->qp->next, op->failure);
}

static void succeed(struct operation *op)
{
	struct nic_qp *qp = op->qp;

	if (op->length > 0)
		move(op);
	if (takes_recv(op))
		receive(op);
	qp->next++;
	qp->rnr_tries = 0;
	/* Either half may have fallen into error meanwhile, and could not be flushed then. */
	if (op->peer->ibv.state == IBV_QPS_ERR)
		nic_qp_flush(op->peer);
	if (qp->ibv.state == IBV_QPS_ERR)
		nic_qp_flush(qp);
	nic_wire_kick();
}

static void release(struct operation *op)
{
	for (unsigned int i = 0; i < op->mr_count; i++)
		nic_mr_release(op->mrs[i]);
	pthread_cond_broadcast(&nic.settled);
}

static void attempt(struct operation *op)
{
	op->failure = check_local(op);
	if (op->failure == IBV_WC_SUCCESS && receiver_not_ready(op) &&
	    op->failure == IBV_WC_SUCCESS)
		return;
	if (op->failure == IBV_WC_SUCCESS)
		op->failure = is_write(op) || is_read(op) ? check_remote(op) : check_recv(op);
	if (op->failure == IBV_WC_SUCCESS)
		succeed(op);
	else
		fail(op);
}

void nic_execute(struct nic_qp *qp)
{
	struct operation op = {
		.qp = qp,
		.peer = qp->peer,
		.send = &qp->sends[qp->next % qp->cap.max_send_wr],
	};

	/* Nobody answers a read that the queue pair has no room to await. */
	if (is_read(&op) && qp->reads_out == 0) {
		qp->not_before = NIC_NEVER;
		return;
	}
	attempt(&op);
	release(&op);
}
