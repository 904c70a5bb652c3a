/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nic.h"

static struct nic_events *events_of(const struct rdma_event_channel *channel)
{
	return container(channel, struct nic_events, ibv);
}

static void update_latch(struct nic_events *events)
{
	latch_set(&events->latch, !TAILQ_EMPTY(&events->list) && !nic.script.hold_cm);
}

/* ---- channels -------------------------------------------------------------------------------- */

struct rdma_event_channel *rdma_create_event_channel(void)
{
	struct nic_events *events;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_CREATE_EVENT_CHANNEL);
	if (error != 0)
		return nic_null(error);
	events = nic_alloc(1, sizeof(*events));
	latch_open(&events->latch);
	events->ibv.fd = events->latch.fd;
	TAILQ_INIT(&events->list);
	nic.counts.live.event_channels++;
	nic_unlock();
	return &events->ibv;
}

void rdma_destroy_event_channel(struct rdma_event_channel *channel)
{
	struct nic_events *events = events_of(channel);

	nic_lock();
	if (events->ids > 0)
		nic_misuse("an event channel destroyed before its identifiers");
	nic.counts.live.event_channels--;
	nic_unlock();
	latch_close(&events->latch);
	free(events);
}

void fake_hold_cm(bool hold)
{
	struct nic_id *id;

	nic_lock();
	nic.script.hold_cm = hold;
	TAILQ_FOREACH(id, &nic.ids, link)
	update_latch(events_of(id->cm.channel));
	nic_unlock();
}

/* ---- events ---------------------------------------------------------------------------------- */

struct nic_event *nic_event_new(struct nic_id *id, enum rdma_cm_event_type type, int status)
{
	struct nic_event *event = nic_alloc(1, sizeof(*event));

	event->cm.id = &id->cm;
	event->cm.event = type;
	event->cm.status = status;
	event->owner = id;
	return event;
}

void nic_event_data(struct nic_event *event, const void *data, uint8_t length, uint8_t size)
{
	if (length > 0)
		memcpy(event->data, data, length);
	event->cm.param.conn.private_data = event->data;
	event->cm.param.conn.private_data_len = size;
}

void nic_event_post(struct nic_event *event)
{
	struct nic_events *events = events_of(event->owner->cm.channel);

	TAILQ_INSERT_TAIL(&events->list, event, link);
	update_latch(events);
}

static void take(struct nic_events *events, struct nic_event *event)
{
	TAILQ_REMOVE(&events->list, event, link);
	update_latch(events);
}

/*
 * What librdmacm does by itself when it hands an event over: on the active side it starts the queue
 * pair only now.
 */
static void process(struct nic_event *event)
{
	if (event->cm.event != RDMA_CM_EVENT_CONNECT_RESPONSE)
		return;
	if (event->owner->peer == NULL) {
		event->cm.event = RDMA_CM_EVENT_CONNECT_ERROR;
		event->cm.status = -ECONNRESET;
		event->owner->step = STEP_FAILED;
		return;
	}
	event->cm.event = RDMA_CM_EVENT_ESTABLISHED;
	nic_id_establish(event->owner);
}

int rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
	struct nic_events *events = events_of(channel);
	struct nic_event *first;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_GET_CM_EVENT);
	if (error == 0)
		error = nic_latch_wait(&events->latch);
	if (error != 0)
		return nic_minus(error);
	first = TAILQ_FIRST(&events->list);
	take(events, first);
	first->owner->unacked++;
	process(first);
	*event = &first->cm;
	nic_unlock();
	return 0;
}

int rdma_ack_cm_event(struct rdma_cm_event *event)
{
	struct nic_event *our = container(event, struct nic_event, cm);

	nic_lock();
	our->owner->unacked--;
	pthread_cond_broadcast(&nic.settled);
	nic_unlock();
	/* Nobody is to look at it any more, not even by mistake. */
	memset(our, 0x5a, sizeof(*our));
	free(our);
	return 0;
}

/* ---- identifiers ----------------------------------------------------------------------------- */

struct nic_id *nic_id_new(struct rdma_event_channel *channel, void *context,
			  enum rdma_port_space space)
{
	struct nic_id *id = nic_alloc(1, sizeof(*id));

	id->cm.channel = channel;
	id->cm.context = context;
	id->cm.ps = space;
	id->cm.qp_type = IBV_QPT_RC;
	events_of(channel)->ids++;
	TAILQ_INSERT_TAIL(&nic.ids, id, link);
	nic.counts.live.ids++;
	return id;
}

int rdma_create_id(struct rdma_event_channel *channel, struct rdma_cm_id **id, void *context,
		   enum rdma_port_space space)
{
	struct nic_id *our;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_CREATE_ID);
	/* Without a channel it would be one of the synchronous kind. */
	if (error == 0 && (channel == NULL || space != RDMA_PS_TCP))
		error = EINVAL;
	if (error != 0)
		return nic_minus(error);
	our = nic_id_new(channel, context, space);
	*id = &our->cm;
	nic_unlock();
	return 0;
}

/* Requests that nobody has seen go with the listener that they came to. */
static void drop_events(struct nic_id *id)
{
	struct nic_events *events = events_of(id->cm.channel);
	struct nic_event *event = TAILQ_FIRST(&events->list);

	while (event != NULL) {
		struct nic_event *next = TAILQ_NEXT(event, link);

		if (event->owner == id) {
			TAILQ_REMOVE(&events->list, event, link);
			if (event->cm.event == RDMA_CM_EVENT_CONNECT_REQUEST) {
				nic_id_drop(nic_id_of(event->cm.id));
				/* That may have been the next one's. */
				next = TAILQ_FIRST(&events->list);
			}
			free(event);
		}
		event = next;
	}
	update_latch(events);
}

void nic_id_drop(struct nic_id *id)
{
	struct nic_id *other;

	if (id->cm.qp != NULL)
		nic_misuse("an identifier destroyed before its queue pair");
	nic_id_leave(id);
	drop_events(id);
	nic_settle(&id->unacked, "an identifier destroyed with unacknowledged events");
	TAILQ_REMOVE(&nic.ids, id, link);
	TAILQ_FOREACH(other, &nic.ids, link)
	if (other->listener == id)
		other->listener = NULL;
	events_of(id->cm.channel)->ids--;
	if (id->device != NULL)
		nic_device_put(id->device);
	nic.counts.live.ids--;
	free(id);
}

int rdma_destroy_id(struct rdma_cm_id *id)
{
	nic_lock();
	nic_id_drop(nic_id_of(id));
	nic_unlock();
	return 0;
}

static void move_events(struct nic_id *id, struct nic_events *from, struct nic_events *to)
{
	struct nic_event *event = TAILQ_FIRST(&from->list);

	while (event != NULL) {
		struct nic_event *next = TAILQ_NEXT(event, link);

		if (event->owner == id) {
			TAILQ_REMOVE(&from->list, event, link);
			TAILQ_INSERT_TAIL(&to->list, event, link);
		}
		event = next;
	}
	update_latch(from);
	update_latch(to);
}

int rdma_migrate_id(struct rdma_cm_id *id, struct rdma_event_channel *channel)
{
	struct nic_id *our = nic_id_of(id);
	int error;

	nic_lock();
	error = nic_scripted(FAKE_MIGRATE_ID);
	if (error == 0 && channel == NULL)
		error = EINVAL;
	if (error != 0)
		return nic_minus(error);
	nic_settle(&our->unacked, "an identifier migrated with unacknowledged events");
	move_events(our, events_of(id->channel), events_of(channel));
	events_of(id->channel)->ids--;
	events_of(channel)->ids++;
	id->channel = channel;
	nic_unlock();
	return 0;
}

/* ---- their queue pairs ----------------------------------------------------------------------- */

int rdma_create_qp(struct rdma_cm_id *id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr)
{
	struct nic_qp *qp;
	int error;

	nic_lock();
	if (id->verbs == NULL || id->qp != NULL || pd == NULL || pd->context != id->verbs)
		return nic_minus(EINVAL);
	error = nic_qp_create(pd, attr, &qp);
	if (error != 0)
		return nic_minus(error);
	qp->ibv.state = IBV_QPS_INIT;
	id->qp = &qp->ibv;
	id->pd = pd;
	id->send_cq = attr->send_cq;
	id->recv_cq = attr->recv_cq;
	id->send_cq_channel = attr->send_cq->channel;
	id->recv_cq_channel = attr->recv_cq->channel;
	nic_unlock();
	return 0;
}

void rdma_destroy_qp(struct rdma_cm_id *id)
{
	struct ibv_qp *qp;

	nic_lock();
	qp = id->qp;
	id->qp = NULL;
	nic_qp_free(nic_qp_of(qp));
	nic_unlock();
}
