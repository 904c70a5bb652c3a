/* SPDX-License-Identifier: MIT */
/*
 * The threads that are the device. Each picks, at random, a queue pair with something to do, and
 * carries out its next request or acknowledges what was carried out before. The two are apart: as
 * on a real wire, the answer of a peer may overtake the acknowledgement.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <vmferry/vmferry.h>

#include "nic.h"

#define THREADS	       2
#define NS_PER_SECOND  1000000000ull
#define ACK_TIMEOUT_NS 4096ull /* << the attribute */

static struct {
	pthread_t threads[THREADS];
	bool running;
	bool stop;
} wire;

/* ---- what can be done ------------------------------------------------------------------------ */

static bool answers(const struct nic_qp *qp)
{
	const struct nic_qp *peer = qp->peer;

	return peer != NULL && !nic.script.cut &&
	       (peer->ibv.state == IBV_QPS_RTR || peer->ibv.state == IBV_QPS_RTS);
}

static uint64_t retries_end(const struct nic_qp *qp, uint64_t now)
{
	/* 0: waits for ever. */
	if (qp->timeout == 0)
		return NIC_NEVER;
	return now + (qp->retry_count + 1) * (ACK_TIMEOUT_NS << qp->timeout);
}

static bool is_fence(const struct nic_qp *qp)
{
	return qp->sends[qp->next % qp->cap.max_send_wr].opcode == IBV_WR_RDMA_WRITE_WITH_IMM;
}

static bool may_execute(const struct nic_qp *qp, uint64_t now)
{
	return qp->next < qp->posted && now >= qp->not_before &&
	       !(nic.script.hold_fences && is_fence(qp));
}

/* What was carried out and can be acknowledged. */
static bool has_unacked(const struct nic_qp *qp)
{
	return qp->acked < qp->next && nic.script.hold_acks_of != qp->ibv.qp_num;
}

/* Has something to do; else *@when is made the time at which it may have, if that is sooner. */
static bool ready(struct nic_qp *qp, uint64_t now, uint64_t *when)
{
	uint64_t later;

	if (qp->ibv.state != IBV_QPS_RTS || qp->executing || qp->dying || nic.script.hold_wire)
		return false;
	if (answers(qp)) {
		qp->give_up = 0;
		if (has_unacked(qp) || (may_execute(qp, now) && !qp->peer->dying))
			return true;
		later = qp->next < qp->posted && qp->not_before > now ? qp->not_before : NIC_NEVER;
	} else if (qp->acked == qp->posted) {
		return false;
	} else {
		/*
		 * The acknowledgements of what arrived are on their way already, unless it is the
		 * wire that is gone.
		 */
		if (!nic.script.cut && qp->acked < qp->next)
			return true;
		if (qp->give_up == 0)
			qp->give_up = retries_end(qp, now);
		if (now >= qp->give_up)
			return true;
		later = qp->give_up;
	}
	if (later < *when)
		*when = later;
	return false;
}

static struct nic_qp *choose(uint64_t now, uint64_t *when)
{
	struct nic_qp *chosen = NULL;
	unsigned int count = 0;
	struct nic_qp *qp;

	/* Each of those that are ready with the same probability, without a list of them. */
	TAILQ_FOREACH(qp, &nic.qps, link)
	if (ready(qp, now, when) && nic_random(++count) == 0)
		chosen = qp;
	return chosen;
}

/* ---- doing it -------------------------------------------------------------------------------- */

static bool scripted_failure(struct nic_qp *qp)
{
	const struct nic_send *send = &qp->sends[qp->next % qp->cap.max_send_wr];
	const struct fake_match *match = &nic.script.match;

	if (nic.script.wr_at == 0 || (match->qp_num != 0 && match->qp_num != qp->ibv.qp_num) ||
	    (match->opcodes != 0 && !(match->opcodes & FAKE_OPCODE(send->opcode))))
		return false;
	return --nic.script.wr_at == 0;
}

bool nic_is_refusal(enum ibv_wc_status status)
{
	return status == IBV_WC_REM_ACCESS_ERR || status == IBV_WC_REM_INV_REQ_ERR ||
	       status == IBV_WC_REM_OP_ERR;
}

static void next_request(struct nic_qp *qp)
{
	/* A request that is tried again has been counted. */
	if (qp->rnr_tries > 0 || !scripted_failure(qp)) {
		nic_execute(qp);
		return;
	}
	if (nic_is_refusal(nic.script.status))
		nic_qp_error(qp->peer);
	nic_qp_fail(qp, qp->next, nic.script.status);
}

static void step(struct nic_qp *qp, uint64_t now)
{
	bool unacked = has_unacked(qp);

	if (!answers(qp) && (nic.script.cut || !unacked)) {
		nic_qp_fail(qp, qp->acked, IBV_WC_RETRY_EXC_ERR);
		return;
	}
	if (unacked &&
	    (!answers(qp) || !may_execute(qp, now) || qp->peer->dying || nic_random(4) == 0))
		nic_qp_ack(qp, qp->acked + 1 + nic_random(qp->next - qp->acked));
	else
		next_request(qp);
}

static void sleep_until(uint64_t when)
{
	struct timespec until = {
		.tv_sec = (time_t)(when / NS_PER_SECOND),
		.tv_nsec = (long)(when % NS_PER_SECOND),
	};

	if (when == NIC_NEVER)
		pthread_cond_wait(&nic.wire, &nic.lock);
	else
		pthread_cond_clockwait(&nic.wire, &nic.lock, CLOCK_MONOTONIC, &until);
}

static void *run(void *unused)
{
	(void)unused;
	nic_lock();
	while (!wire.stop) {
		uint64_t now = vmferry_now();
		uint64_t when = NIC_NEVER;
		struct nic_qp *qp = choose(now, &when);

		if (qp != NULL)
			step(qp, now);
		else
			sleep_until(when);
	}
	nic_unlock();
	return NULL;
}

void nic_wire_start(void)
{
	if (wire.running)
		return;
	wire.running = true;
	wire.stop = false;
	for (unsigned int i = 0; i < THREADS; i++)
		if (pthread_create(&wire.threads[i], NULL, run, NULL) != 0)
			nic_misuse("no thread");
}

void nic_wire_stop(void)
{
	if (!wire.running)
		return;
	nic_lock();
	wire.stop = true;
	nic_wire_kick();
	nic_unlock();
	for (unsigned int i = 0; i < THREADS; i++)
		pthread_join(wire.threads[i], NULL);
	wire.running = false;
}

void nic_wire_kick(void)
{
	pthread_cond_broadcast(&nic.wire);
}

/* ---- the script ------------------------------------------------------------------------------ */

void fake_fail_wr(const struct fake_match *match, unsigned int nth, enum ibv_wc_status status)
{
	nic_lock();
	nic.script.match = *match;
	nic.script.wr_at = nth;
	nic.script.status = status;
	nic_unlock();
}

static void set(bool *what, bool value)
{
	nic_lock();
	*what = value;
	nic_wire_kick();
	nic_unlock();
}

void fake_hold_wire(bool hold)
{
	set(&nic.script.hold_wire, hold);
}

void fake_hold_acks(uint32_t qp_num)
{
	nic_lock();
	nic.script.hold_acks_of = qp_num;
	nic_wire_kick();
	nic_unlock();
}

void fake_hold_fences(bool hold)
{
	set(&nic.script.hold_fences, hold);
}

void fake_cut_wire(bool cut)
{
	set(&nic.script.cut, cut);
}

void fake_double_fences(unsigned int count)
{
	nic_lock();
	nic.script.double_fences = count;
	nic_unlock();
}

void fake_rnr(unsigned int count)
{
	nic_lock();
	nic.script.rnr = count;
	nic_unlock();
}

static bool quiet(void)
{
	struct nic_qp *qp;

	TAILQ_FOREACH(qp, &nic.qps, link)
	if (qp->executing || qp->acked < qp->posted)
		return false;
	return true;
}

bool fake_quiet(unsigned int ms)
{
	uint64_t deadline = vmferry_now() + ms * 1000000ull;
	const struct timespec while_at_it = {.tv_nsec = 100000};
	bool is_quiet;

	do {
		nic_lock();
		is_quiet = quiet();
		nic_unlock();
		if (!is_quiet)
			nanosleep(&while_at_it, NULL);
	} while (!is_quiet && vmferry_now() < deadline);
	return is_quiet;
}
