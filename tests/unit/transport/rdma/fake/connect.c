/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "nic.h"

#define REQUEST_MAX 56 /* bytes of private data */
#define REPLY_MAX   196
#define REJECT_MAX  148
#define COUNT_MAX   7

/* Reasons of a rejection, as InfiniBand numbers them. */
#define NOBODY_LISTENS 8
#define CONSUMER_SAYS  28

/* What the passive side's device adds to the active side's ack time-out, on soft-RoCE. */
#define PASSIVE_TIMEOUT_MORE 2
#define TIMEOUT_MAX	     31

/* ---- asking ---------------------------------------------------------------------------------- */

static uint8_t at_most(uint8_t wish, uint8_t limit)
{
	return wish < limit ? wish : limit;
}

/* As librdmacm: the highest value means as many as the device can, other ones must be possible. */
static int take_reads(uint8_t wish, uint8_t limit, uint8_t *reads)
{
	if (wish != RDMA_MAX_RESP_RES && wish > limit)
		return EINVAL;
	*reads = at_most(wish, limit);
	return 0;
}

static int check_params(const struct rdma_conn_param *param, uint8_t data_max)
{
	if (param->private_data_len > data_max ||
	    (param->private_data_len > 0 && param->private_data == NULL))
		return EINVAL;
	return param->retry_count > COUNT_MAX || param->rnr_retry_count > COUNT_MAX ? EINVAL : 0;
}

static unsigned int waiting_at(const struct nic_id *listener)
{
	const struct nic_id *id;
	unsigned int count = 0;

	TAILQ_FOREACH(id, &nic.ids, link)
	count += id->step == STEP_ASKED && id->listener == listener;
	return count;
}

static struct nic_id *passive_new(struct nic_id *listener, struct nic_id *active)
{
	struct nic_id *id = nic_id_new(listener->cm.channel, listener->cm.context, listener->cm.ps);
	struct in6_addr ip;
	uint16_t port;

	nic_address_read(&active->cm.route.addr.dst_addr, &ip, &port);
	id->device = nic_device_of(&ip);
	nic_device_get(id->device);
	id->cm.verbs = &id->device->context->extended.context;
	id->cm.port_num = 1;
	id->cm.route.addr.src_storage = active->cm.route.addr.dst_storage;
	id->cm.route.addr.dst_storage = active->cm.route.addr.src_storage;
	id->step = STEP_ASKED;
	id->listener = listener;
	id->peer = active;
	active->peer = id;
	return id;
}

static void deliver_request(struct nic_id *active, const void *data, uint8_t length)
{
	struct nic_id *listener = nic_listener_at(&active->cm.route.addr.dst_addr);
	struct nic_event *event;
	struct nic_id *passive;
	struct in6_addr ip;
	uint16_t port;

	nic_address_read(&active->cm.route.addr.dst_addr, &ip, &port);
	if (nic.script.cut || nic_device_of(&ip) == NULL)
		return;
	if (listener == NULL) {
		active->step = STEP_FAILED;
		nic_event_post(nic_event_new(active, RDMA_CM_EVENT_REJECTED, NOBODY_LISTENS));
		return;
	}
	/* Not even a rejection: who asks asks again, until he gives up. */
	if (waiting_at(listener) >= (unsigned int)listener->backlog)
		return;
	passive = passive_new(listener, active);
	passive->asked = active->asked;
	/* The active side's initiator is the passive side's responder. */
	passive->asked.responder_resources = active->asked.initiator_depth;
	passive->asked.initiator_depth = active->asked.responder_resources;
	event = nic_event_new(passive, RDMA_CM_EVENT_CONNECT_REQUEST, 0);
	event->cm.listen_id = &listener->cm;
	event->owner = listener;
	event->cm.param.conn = passive->asked;
	nic_event_data(event, data, length, REQUEST_MAX);
	nic_event_post(event);
}

static int ask(struct nic_id *id, const struct rdma_conn_param *param)
{
	const struct rdma_conn_param none = {
		.responder_resources = RDMA_MAX_RESP_RES,
		.initiator_depth = RDMA_MAX_INIT_DEPTH,
		.retry_count = COUNT_MAX,
		.rnr_retry_count = COUNT_MAX,
	};
	int error;

	if (param == NULL)
		param = &none;
	if (id->step != STEP_ROUTE || id->cm.qp == NULL)
		return EINVAL;
	error = check_params(param, REQUEST_MAX);
	id->asked = *param;
	if (error == 0)
		error = take_reads(param->responder_resources, nic.limits.max_reads_in,
				   &id->asked.responder_resources);
	if (error == 0)
		error = take_reads(param->initiator_depth, nic.limits.max_reads_out,
				   &id->asked.initiator_depth);
	if (error != 0)
		return error;
	id->asked.qp_num = id->cm.qp->qp_num;
	if (nic_step_done(id, RDMA_CM_EVENT_CONNECT_REQUEST, STEP_CONNECTING))
		deliver_request(id, param->private_data, param->private_data_len);
	return 0;
}

int rdma_connect(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_CONNECT);
	if (error == 0 && id->verbs != NULL && nic_gone(id->verbs))
		error = ENODEV;
	if (error == 0)
		error = ask(nic_id_of(id), param);
	return nic_minus(error);
}

/* ---- answering ------------------------------------------------------------------------------- */

static void set_connection(struct nic_qp *qp, uint8_t reads_in, uint8_t reads_out,
			   uint8_t rnr_retry, uint8_t retry, uint8_t timeout)
{
	qp->reads_in = reads_in;
	qp->reads_out = reads_out;
	qp->rnr_retry = rnr_retry;
	qp->retry_count = retry;
	qp->timeout = timeout;
	/* As the kernel gives it: everything that the connection has room for. */
	qp->access = IBV_ACCESS_REMOTE_WRITE;
	if (reads_in > 0)
		qp->access |= IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_ATOMIC;
}

/* The passive side's queue pair starts at once; the active side's is ready, but for its state. */
static void pair_up(struct nic_id *passive, const struct rdma_conn_param *answer)
{
	struct nic_id *active = passive->peer;
	struct nic_qp *here = nic_qp_of(passive->cm.qp);
	struct nic_qp *there = nic_qp_of(active->cm.qp);
	uint8_t timeout = passive->timeout_set ? passive->timeout_option
					       : active->timeout + PASSIVE_TIMEOUT_MORE;

	set_connection(here, answer->responder_resources, answer->initiator_depth,
		       active->asked.rnr_retry_count, active->asked.retry_count,
		       at_most(timeout, TIMEOUT_MAX));
	set_connection(there, answer->initiator_depth, answer->responder_resources,
		       answer->rnr_retry_count, active->asked.retry_count, active->timeout);
	here->peer = there;
	there->peer = here;
	here->ibv.state = IBV_QPS_RTS;
}

static void reply(struct nic_id *passive, struct rdma_conn_param *answer)
{
	struct nic_event *event;

	passive->step = STEP_ACCEPTED;
	/* Who asked may be gone: then nothing comes of this, as with a reply that is lost. */
	if (passive->peer == NULL || passive->peer->cm.qp == NULL)
		return;
	pair_up(passive, answer);
	if (nic.script.cut)
		return;
	event = nic_event_new(passive->peer, RDMA_CM_EVENT_CONNECT_RESPONSE, 0);
	event->cm.param.conn = *answer;
	event->cm.param.conn.qp_num = passive->cm.qp->qp_num;
	nic_event_data(event, answer->private_data, answer->private_data_len, REPLY_MAX);
	nic_event_post(event);
}

static int accept_request(struct nic_id *id, const struct rdma_conn_param *param)
{
	struct rdma_conn_param answer = {
		.responder_resources = RDMA_MAX_RESP_RES,
		.initiator_depth = RDMA_MAX_INIT_DEPTH,
		.rnr_retry_count = COUNT_MAX,
	};
	int error;

	if (id->step != STEP_ASKED || id->cm.qp == NULL)
		return EINVAL;
	if (param != NULL)
		answer = *param;
	error = check_params(&answer, REPLY_MAX);
	/* The highest value: as many as were asked for. */
	if (error == 0)
		error = take_reads(
			answer.responder_resources,
			answer.responder_resources == RDMA_MAX_RESP_RES
				? at_most(id->asked.responder_resources, nic.limits.max_reads_in)
				: nic.limits.max_reads_in,
			&answer.responder_resources);
	if (error == 0)
		error = take_reads(
			answer.initiator_depth,
			answer.initiator_depth == RDMA_MAX_INIT_DEPTH
				? at_most(id->asked.initiator_depth, nic.limits.max_reads_out)
				: nic.limits.max_reads_out,
			&answer.initiator_depth);
	if (error == 0)
		reply(id, &answer);
	return error;
}

int rdma_accept(struct rdma_cm_id *id, struct rdma_conn_param *param)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_ACCEPT);
	if (error == 0 && nic_gone(id->verbs))
		error = ENODEV;
	if (error == 0)
		error = accept_request(nic_id_of(id), param);
	return nic_minus(error);
}

/*
 * The other side's step has failed, or its connection has ended; it hears of it unless packets are
 * lost.
 */
static void tell_peer(struct nic_id *peer, enum rdma_cm_event_type type, enum nic_step step)
{
	if (nic.script.cut)
		return;
	peer->step = step;
	nic_event_post(
		nic_event_new(peer, type, type == RDMA_CM_EVENT_REJECTED ? CONSUMER_SAYS : 0));
}

static void part(struct nic_id *id)
{
	if (id->peer == NULL)
		return;
	id->peer->peer = NULL;
	id->peer = NULL;
}

int rdma_reject(struct rdma_cm_id *id, const void *data, uint8_t length)
{
	struct nic_id *our = nic_id_of(id);
	struct nic_event *event;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_REJECT);
	if (error == 0 && (our->step != STEP_ASKED || length > REJECT_MAX))
		error = EINVAL;
	if (error != 0)
		return nic_minus(error);
	our->step = STEP_FAILED;
	if (our->peer != NULL && !nic.script.cut) {
		our->peer->step = STEP_FAILED;
		event = nic_event_new(our->peer, RDMA_CM_EVENT_REJECTED, CONSUMER_SAYS);
		nic_event_data(event, data, length, REJECT_MAX);
		nic_event_post(event);
	}
	part(our);
	nic_unlock();
	return 0;
}

void nic_id_establish(struct nic_id *id)
{
	struct nic_id *peer = id->peer;

	if (id->cm.qp == NULL)
		return;
	id->step = STEP_CONNECTED;
	id->cm.qp->state = IBV_QPS_RTS;
	nic_wire_kick();
	if (nic.script.cut)
		return;
	peer->step = STEP_CONNECTED;
	nic_event_post(nic_event_new(peer, RDMA_CM_EVENT_ESTABLISHED, 0));
}

/* ---- ending ---------------------------------------------------------------------------------- */

void nic_id_leave(struct nic_id *id)
{
	struct nic_id *peer = id->peer;

	if (peer == NULL)
		return;
	/* An answer that the active side has not fetched yet turns into an error when it does. */
	if (peer->step == STEP_CONNECTED)
		tell_peer(peer, RDMA_CM_EVENT_DISCONNECTED, STEP_DISCONNECTED);
	else if (id->step != STEP_ACCEPTED)
		tell_peer(peer, RDMA_CM_EVENT_REJECTED, STEP_FAILED);
	part(id);
}

int rdma_disconnect(struct rdma_cm_id *id)
{
	struct nic_id *our = nic_id_of(id);

	nic_lock();
	if (our->step != STEP_CONNECTED && our->step != STEP_ACCEPTED &&
	    our->step != STEP_DISCONNECTED)
		return nic_minus(EINVAL);
	if (id->qp != NULL)
		nic_qp_break(nic_qp_of(id->qp));
	if (our->step != STEP_DISCONNECTED) {
		nic_id_leave(our);
		our->step = STEP_DISCONNECTED;
		nic_event_post(nic_event_new(our, RDMA_CM_EVENT_DISCONNECTED, 0));
		nic_event_post(nic_event_new(our, RDMA_CM_EVENT_TIMEWAIT_EXIT, 0));
	}
	nic_unlock();
	return 0;
}
