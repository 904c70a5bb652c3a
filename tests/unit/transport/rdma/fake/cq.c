/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#include "nic.h"

/* Few cores carry many threads that poll here: let the wire's threads have one now and then. */
#define YIELD_EVERY 8

static struct nic_cq *cq_of(const struct ibv_cq *cq)
{
	return container(cq, struct nic_cq, ibv);
}

static struct nic_channel *channel_of(const struct ibv_comp_channel *channel)
{
	return container(channel, struct nic_channel, ibv);
}

/* ---- channels -------------------------------------------------------------------------------- */

struct ibv_comp_channel *ibv_create_comp_channel(struct ibv_context *context)
{
	struct nic_channel *channel;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_CREATE_COMP_CHANNEL);
	if (error == 0 && nic_gone(context))
		error = EIO;
	if (error != 0)
		return nic_null(error);
	channel = nic_alloc(1, sizeof(*channel));
	channel->ibv.context = context;
	nic_context_use(context);
	latch_open(&channel->latch);
	channel->ibv.fd = channel->latch.fd;
	TAILQ_INIT(&channel->ready);
	nic.counts.live.comp_channels++;
	nic_unlock();
	return &channel->ibv;
}

int ibv_destroy_comp_channel(struct ibv_comp_channel *channel)
{
	struct nic_channel *our = channel_of(channel);

	nic_lock();
	if (our->cqs > 0) {
		nic_unlock();
		return EBUSY;
	}
	nic_context_drop(channel->context);
	nic.counts.live.comp_channels--;
	nic_unlock();
	latch_close(&our->latch);
	free(our);
	return 0;
}

static void ring_bell(struct nic_cq *cq)
{
	struct nic_channel *channel;

	cq->armed = NIC_DISARMED;
	if (cq->ibv.channel == NULL)
		return;
	channel = channel_of(cq->ibv.channel);
	if (cq->events++ == 0)
		TAILQ_INSERT_TAIL(&channel->ready, cq, link);
	latch_set(&channel->latch, true);
}

static void take_bell(struct nic_cq *cq, unsigned int count)
{
	struct nic_channel *channel;

	if (cq->events == 0)
		return;
	channel = channel_of(cq->ibv.channel);
	cq->events -= count;
	if (cq->events == 0)
		TAILQ_REMOVE(&channel->ready, cq, link);
	latch_set(&channel->latch, !TAILQ_EMPTY(&channel->ready));
}

int ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context)
{
	struct nic_channel *our = channel_of(channel);
	struct nic_cq *first;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_GET_CQ_EVENT);
	if (error == 0)
		error = nic_latch_wait(&our->latch);
	if (error != 0)
		return nic_minus(error);
	first = TAILQ_FIRST(&our->ready);
	take_bell(first, 1);
	first->unacked++;
	*cq = &first->ibv;
	*context = first->ibv.cq_context;
	nic_unlock();
	return 0;
}

void ibv_ack_cq_events(struct ibv_cq *cq, unsigned int count)
{
	nic_lock();
	if (cq_of(cq)->unacked < count)
		nic_misuse("more completion events acknowledged than there were");
	cq_of(cq)->unacked -= count;
	pthread_cond_broadcast(&nic.settled);
	nic_unlock();
}

/* ---- queues ---------------------------------------------------------------------------------- */

struct ibv_cq *ibv_create_cq(struct ibv_context *context, int cqe, void *cq_context,
			     struct ibv_comp_channel *channel, int vector)
{
	struct nic_cq *cq;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_CREATE_CQ);
	if (error == 0 && nic_gone(context))
		error = EIO;
	if (error == 0 && (cqe < 1 || (uint32_t)cqe > nic.limits.max_cqe || vector < 0 ||
			   vector >= context->num_comp_vectors))
		error = EINVAL;
	if (error != 0)
		return nic_null(error);
	cq = nic_alloc(1, sizeof(*cq));
	cq->ring = nic_alloc((size_t)cqe, sizeof(*cq->ring));
	cq->ibv.context = context;
	nic_context_use(context);
	cq->ibv.channel = channel;
	cq->ibv.cq_context = cq_context;
	cq->ibv.cqe = cqe;
	if (channel != NULL)
		channel_of(channel)->cqs++;
	nic.counts.live.cqs++;
	nic_unlock();
	return &cq->ibv;
}

int ibv_destroy_cq(struct ibv_cq *cq)
{
	struct nic_cq *our = cq_of(cq);
	int error;

	nic_lock();
	if (our->users > 0) {
		nic_unlock();
		return EBUSY;
	}
	take_bell(our, our->events);
	nic_async_forget(cq->context, cq);
	nic_settle(&our->unacked, "a completion queue destroyed with unacknowledged events");
	nic_settle(&our->async_unacked, "a completion queue destroyed with unacknowledged "
					"asynchronous events");
	if (cq->channel != NULL)
		channel_of(cq->channel)->cqs--;
	nic_context_drop(cq->context);
	nic.counts.live.cqs--;
	error = nic_destroyed(cq->context);
	nic_unlock();
	free(our->ring);
	free(our);
	return error;
}

static void overrun(struct nic_cq *cq)
{
	struct ibv_async_event event = {.event_type = IBV_EVENT_CQ_ERR, .element.cq = &cq->ibv};

	nic.counts.overruns++;
	cq->dead = true;
	nic_async_raise(nic_context_of(cq->ibv.context), &event);
}

void nic_cq_push(struct ibv_cq *ibv, const struct nic_cqe *cqe, bool solicited)
{
	struct nic_cq *cq = cq_of(ibv);
	unsigned int count = atomic_load_explicit(&cq->count, memory_order_relaxed);
	unsigned int size = (unsigned int)ibv->cqe;

	if (cq->dead)
		return;
	if (count == size) {
		overrun(cq);
		return;
	}
	cq->ring[(cq->first + count) % size] = *cqe;
	atomic_store_explicit(&cq->count, count + 1, memory_order_release);
	nic.counts.completions++;
	if (cq->armed == NIC_ARMED ||
	    (cq->armed == NIC_ARMED_SOLICITED && (solicited || cqe->wc.status != IBV_WC_SUCCESS)))
		ring_bell(cq);
}

void nic_cq_purge(struct ibv_cq *ibv, const struct nic_qp *qp)
{
	struct nic_cq *cq = cq_of(ibv);
	unsigned int count = atomic_load_explicit(&cq->count, memory_order_relaxed);
	unsigned int size = (unsigned int)ibv->cqe;
	unsigned int kept = 0;

	for (unsigned int i = 0; i < count; i++) {
		const struct nic_cqe *cqe = &cq->ring[(cq->first + i) % size];

		if (cqe->qp != qp)
			cq->ring[(cq->first + kept++) % size] = *cqe;
	}
	atomic_store_explicit(&cq->count, kept, memory_order_release);
}

static void free_slots(const struct nic_cqe *cqe)
{
	uint64_t *freed = cqe->receive ? &cqe->qp->recv_freed : &cqe->qp->freed;

	if (*freed < cqe->frees)
		*freed = cqe->frees;
}

static int take(struct nic_cq *cq, int most, struct ibv_wc *wc)
{
	unsigned int count = atomic_load_explicit(&cq->count, memory_order_relaxed);
	int n = 0;

	for (; n < most && count > 0; n++, count--) {
		const struct nic_cqe *cqe = &cq->ring[cq->first];

		wc[n] = cqe->wc;
		free_slots(cqe);
		cq->first = (cq->first + 1) % (unsigned int)cq->ibv.cqe;
	}
	atomic_store_explicit(&cq->count, count, memory_order_release);
	return n;
}

int nic_poll_cq(struct ibv_cq *ibv, int most, struct ibv_wc *wc)
{
	static _Thread_local unsigned int idle;
	struct nic_cq *cq = cq_of(ibv);
	int error, n = 0;

	/*
	 * Without the lock when there is nothing: who polls all the time must not keep the wire
	 * from it.
	 */
	if (atomic_load_explicit(&cq->count, memory_order_acquire) == 0) {
		if (++idle % YIELD_EVERY == 0)
			sched_yield();
		return 0;
	}
	nic_lock();
	error = nic_scripted(FAKE_POLL_CQ);
	if (error == 0)
		n = take(cq, most, wc);
	nic_unlock();
	return error == 0 ? n : -error;
}

int nic_req_notify_cq(struct ibv_cq *ibv, int solicited_only)
{
	struct nic_cq *cq = cq_of(ibv);
	int error;

	nic_lock();
	error = nic_scripted(FAKE_REQ_NOTIFY_CQ);
	if (error == 0 && cq->armed != NIC_ARMED)
		cq->armed = solicited_only ? NIC_ARMED_SOLICITED : NIC_ARMED;
	nic_unlock();
	return error;
}
