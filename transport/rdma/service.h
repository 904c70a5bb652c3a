/* SPDX-License-Identifier: MIT */
/* What the service thread consists of, see service.c; nobody else needs it. */
#ifndef RDMA_SERVICE_H
#define RDMA_SERVICE_H

#include "transport/rdma/rdma.h"

/* ---- poll.c ---------------------------------------------------------------------------------- */

/*
 * A session's connections: lanes by their numbers, then the mailbox, NULL in a session without
 * lanes.
 */
unsigned int rdma_connection_count(const struct rdma_session *session);
struct rdma_connection *rdma_connection_of(struct rdma_session *session, unsigned int index);
/* The peer may do with lanes as it likes once they are over. */
bool rdma_connection_revoked(struct rdma_session *session, unsigned int index);

/* As rdma_poll(), but waits for the lock: whether there was anything, and so may be more. */
bool rdma_poll_wait(struct rdma_session *session);
/* The same, with all completion queues armed before: what is not found makes an event. */
int rdma_poll_armed(struct rdma_session *session, bool *more);
/* Until there is nothing more. */
void rdma_poll_dry(struct rdma_session *session);

/* ---- device_events.c ------------------------------------------------------------------------- */

struct rdma_trouble;

/*
 * What a session's thread is told of its devices. Whoever makes it sets @session and @wake; the
 * rest is zero, and written by anybody.
 */
struct rdma_alarm {
	struct rdma_session *session;
	int wake; /* eventfd, written to when there is trouble */
	struct rdma_alarm *next;
	_Atomic(const struct rdma_trouble *) trouble;
	uint64_t ports_down
		[VMFERRY_RAILS_MAX]; /* by the session's rails, a bit a port; who distributes */
	_Atomic uint64_t port_down[VMFERRY_RAILS_MAX]; /* since when any is, 0: none is */
};

/* Between these two it is told of all that any thread fetches. */
void rdma_alarm_add(struct rdma_alarm *alarm);
void rdma_alarm_remove(struct rdma_alarm *alarm);

/* Fetches what this device has to tell, for whichever session it is. */
void rdma_take_device_events(const struct rdma_rail *rail);

/* The session's own thread: ends the session if it was told something that ends it. */
void rdma_alarm_heed(struct rdma_alarm *alarm, uint64_t now);

#endif
