/* SPDX-License-Identifier: MIT */
/* What a device's events mean for a session. */
#include <errno.h>

#include "transport/rdma/service.h"

static bool uses(struct rdma_session *session, const struct ibv_context *context)
{
	for (unsigned int i = 0; i < session->rail_count; i++)
		if (session->rails[i] != NULL && session->rails[i]->context == context)
			return true;
	return false;
}

/* By comparing pointers alone: others in the process may have queues on this device too. */
static bool owns_qp(struct rdma_session *session, const struct ibv_qp *qp)
{
	for (unsigned int i = 0; i < rdma_link_count(session); i++) {
		struct rdma_link *link = rdma_link_of(session, i);

		if (link != NULL && link->id->qp == qp)
			return !rdma_link_revoked(session, i);
	}
	return false;
}

static bool owns_cq(struct rdma_session *session, const struct ibv_cq *cq)
{
	for (unsigned int i = 0; i < rdma_link_count(session); i++) {
		struct rdma_link *link = rdma_link_of(session, i);

		if (link != NULL && (link->send_cq == cq || link->recv_cq == cq))
			return true;
	}
	return false;
}

bool rdma_has_port(struct rdma_session *session, const struct ibv_context *context,
		   const struct ibv_async_event *event)
{
	if (event->event_type != IBV_EVENT_PORT_ERR && event->event_type != IBV_EVENT_PORT_ACTIVE)
		return false;
	for (unsigned int i = 0; i < rdma_link_count(session); i++) {
		const struct rdma_link *link = rdma_link_of(session, i);

		if (link != NULL && link->id->verbs == context &&
		    link->id->port_num == event->element.port_num)
			return true;
	}
	return false;
}

/* That a port is down is no harm yet: it may come back. */
const struct rdma_trouble *rdma_trouble_of(struct rdma_session *session,
					   const struct ibv_context *context,
					   const struct ibv_async_event *event)
{
	static const struct rdma_trouble fatal = {-EIO, "the RDMA device has failed"};
	static const struct rdma_trouble access = {-EACCES,
						   "the peer was refused access to memory"};
	static const struct rdma_trouble qp = {-EIO, "the RDMA device gave a queue pair up"};
	static const struct rdma_trouble cq = {-EIO, "the RDMA device gave a completion queue up"};

	switch (event->event_type) {
	case IBV_EVENT_DEVICE_FATAL:
		return uses(session, context) ? &fatal : NULL;
	case IBV_EVENT_QP_ACCESS_ERR:
		return owns_qp(session, event->element.qp) ? &access : NULL;
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
		return owns_qp(session, event->element.qp) ? &qp : NULL;
	case IBV_EVENT_CQ_ERR:
		return owns_cq(session, event->element.cq) ? &cq : NULL;
	default:
		return NULL;
	}
}
