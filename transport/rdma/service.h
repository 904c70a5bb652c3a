/* SPDX-License-Identifier: MIT */
/* What the service thread consists of, see service.c; nobody else needs it. */
#ifndef RDMA_SERVICE_H
#define RDMA_SERVICE_H

#include "transport/rdma/rdma.h"

/* ---- poll.c -------------------------------------------------------------------------------------------------- */

/* A session's links: lanes by their numbers, then the mailbox, NULL in a session without lanes. */
unsigned int rdma_link_count(const struct rdma_session *session);
struct rdma_link *rdma_link_of(struct rdma_session *session, unsigned int index);
/* The peer may do with lanes as it likes once they are over. */
bool rdma_link_revoked(struct rdma_session *session, unsigned int index);

/* As rdma_poll(), but waits for the lock: whether there was anything, and so may be more. */
bool rdma_poll_wait(struct rdma_session *session);
/* The same, with all completion queues armed before: what is not found makes an event. */
int rdma_poll_armed(struct rdma_session *session, bool *more);
/* Until there is nothing more. */
void rdma_poll_dry(struct rdma_session *session);

/* ---- trouble.c ----------------------------------------------------------------------------------------------- */

/* How a session has to end. */
struct rdma_trouble {
	int error;
	const char *what;
};

/* Of an event of @context: NULL if it is not about this session, or does no harm. */
const struct rdma_trouble *rdma_trouble_of(struct rdma_session *session,
					   const struct ibv_context *context,
					   const struct ibv_async_event *event);

/* Whether the event tells that a port of one of the session's links went down or is up again. */
bool rdma_has_port(struct rdma_session *session, const struct ibv_context *context,
		   const struct ibv_async_event *event);

#endif
