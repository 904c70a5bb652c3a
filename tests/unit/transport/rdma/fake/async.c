/* SPDX-License-Identifier: MIT */
/* Asynchronous events of a context: errors that belong to no work request. */
#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "nic.h"

void nic_async_raise(struct nic_context *context, const struct ibv_async_event *event)
{
	struct nic_async *one = nic_alloc(1, sizeof(*one));

	one->event = *event;
	TAILQ_INSERT_TAIL(&context->events, one, link);
	latch_set(&context->latch, true);
}

void nic_async_forget(struct ibv_context *context, const void *element)
{
	struct nic_context *our = nic_context_of(context);
	struct nic_async *event = TAILQ_FIRST(&our->events);

	while (event != NULL) {
		struct nic_async *next = TAILQ_NEXT(event, link);

		/* Port numbers are in the same place, but no pointer is that small. */
		if (event->event.element.qp == element) {
			TAILQ_REMOVE(&our->events, event, link);
			free(event);
		}
		event = next;
	}
	latch_set(&our->latch, !TAILQ_EMPTY(&our->events));
}

/* Where it is counted that an event of this object has not been acknowledged; NULL: nowhere. */
static unsigned int *unacked_of(const struct ibv_async_event *event)
{
	switch (event->event_type) {
	case IBV_EVENT_CQ_ERR:
		return &container(event->element.cq, struct nic_cq, ibv)->async_unacked;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
	case IBV_EVENT_COMM_EST:
	case IBV_EVENT_SQ_DRAINED:
	case IBV_EVENT_QP_LAST_WQE_REACHED:
		return &nic_qp_of(event->element.qp)->async_unacked;
	default:
		return NULL;
	}
}

static struct timespec delay_of(enum ibv_event_type type)
{
	unsigned int ms = type == nic.script.slow_async ? nic.script.slow_async_ms : 0;

	return (struct timespec){.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000l};
}

int ibv_get_async_event(struct ibv_context *context, struct ibv_async_event *event)
{
	struct nic_context *our = nic_context_of(context);
	struct nic_async *first;
	struct timespec delay;
	unsigned int *unacked;
	int error;

	nic_lock();
	nic_gone(context);
	error = nic_scripted(FAKE_GET_ASYNC_EVENT);
	if (error == 0)
		error = nic_latch_wait(&our->latch);
	if (error != 0)
		return nic_minus(error);
	first = TAILQ_FIRST(&our->events);
	TAILQ_REMOVE(&our->events, first, link);
	latch_set(&our->latch, !TAILQ_EMPTY(&our->events));
	*event = first->event;
	unacked = unacked_of(event);
	if (unacked != NULL)
		(*unacked)++;
	delay = delay_of(event->event_type);
	nic_unlock();
	free(first);
	nanosleep(&delay, NULL);
	return 0;
}

void ibv_ack_async_event(struct ibv_async_event *event)
{
	unsigned int *unacked;

	nic_lock();
	unacked = unacked_of(event);
	if (unacked != NULL && (*unacked)-- == 0)
		nic_misuse("an asynchronous event acknowledged twice");
	pthread_cond_broadcast(&nic.settled);
	nic_unlock();
}

void fake_async(unsigned int device, enum ibv_event_type type)
{
	struct ibv_async_event event = {.event_type = type, .element.port_num = 1};
	struct nic_context *context;

	nic_lock();
	LIST_FOREACH(context, &nic.devices[device].contexts, link)
	nic_async_raise(context, &event);
	nic_unlock();
}

void fake_slow_async(enum ibv_event_type type, unsigned int ms)
{
	nic_lock();
	nic.script.slow_async = type;
	nic.script.slow_async_ms = ms;
	nic_unlock();
}

void fake_qp_fatal(uint32_t qp_num)
{
	struct ibv_async_event event = {.event_type = IBV_EVENT_QP_FATAL};
	struct nic_qp *qp;

	nic_lock();
	TAILQ_FOREACH(qp, &nic.qps, link)
	if (qp->ibv.qp_num == qp_num)
		break;
	if (qp != NULL) {
		event.element.qp = &qp->ibv;
		nic_async_raise(nic_context_of(qp->ibv.context), &event);
		nic_qp_error(qp);
	}
	nic_unlock();
}

void fake_device_remove(unsigned int number)
{
	struct ibv_async_event event = {.event_type = IBV_EVENT_DEVICE_FATAL};
	struct nic_device *device = &nic.devices[number];
	struct nic_context *context;
	struct nic_qp *qp;
	struct nic_id *id;

	nic_lock();
	device->removed = true;
	TAILQ_FOREACH(qp, &nic.qps, link)
	if (nic_context_of(qp->ibv.context)->device == device)
		nic_qp_error(qp);
	TAILQ_FOREACH(id, &nic.ids, link)
	if (id->device == device)
		nic_event_post(nic_event_new(id, RDMA_CM_EVENT_DEVICE_REMOVAL, 0));
	LIST_FOREACH(context, &device->contexts, link)
	nic_async_raise(context, &event);
	nic_unlock();
}
