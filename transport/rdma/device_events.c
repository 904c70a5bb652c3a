/* SPDX-License-Identifier: MIT */
/*
 * Asynchronous events of devices, and what they mean for sessions. librdmacm opens a device once,
 * so its events are for all sessions of the process: whichever session's thread fetches one leaves
 * a note for those that it is about, and their own threads end them.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/rdma/service.h"

/*
 * A port that is down may come back; how long retries take is up to the device, and some stretch
 * them to seconds.
 */
#define PORT_DOWN_NS (500 * NS_PER_MS)

/* How a session has to end. */
struct rdma_trouble {
	int error;
	const char *what;
};

/* Innermost: nothing else of ours is taken under it. For the list, and for fetching events. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rdma_alarm *alarms;

/* ---- what an event means --------------------------------------------------------------------- */

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
	for (unsigned int i = 0; i < rdma_connection_count(session); i++) {
		struct rdma_connection *conn = rdma_connection_of(session, i);

		if (conn != NULL && conn->id->qp == qp)
			return !rdma_connection_revoked(session, i);
	}
	return false;
}

static bool owns_cq(struct rdma_session *session, const struct ibv_cq *cq)
{
	for (unsigned int i = 0; i < rdma_connection_count(session); i++) {
		struct rdma_connection *conn = rdma_connection_of(session, i);

		if (conn != NULL && (conn->send_cq == cq || conn->recv_cq == cq))
			return true;
	}
	return false;
}

/* Whether a port of one of the session's connections went down or is up again. */
static bool has_port(struct rdma_session *session, const struct ibv_context *context,
		     const struct ibv_async_event *event)
{
	if (event->event_type != IBV_EVENT_PORT_ERR && event->event_type != IBV_EVENT_PORT_ACTIVE)
		return false;
	for (unsigned int i = 0; i < rdma_connection_count(session); i++) {
		const struct rdma_connection *conn = rdma_connection_of(session, i);

		if (conn != NULL && conn->id->verbs == context &&
		    conn->id->port_num == event->element.port_num)
			return true;
	}
	return false;
}

/* That a port is down is no harm yet: it may come back. */
static const struct rdma_trouble *trouble_of(struct rdma_session *session,
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

/* ---- who is told ----------------------------------------------------------------------------- */

void rdma_alarm_add(struct rdma_alarm *alarm)
{
	pthread_mutex_lock(&lock);
	alarm->next = alarms;
	alarms = alarm;
	pthread_mutex_unlock(&lock);
}

void rdma_alarm_remove(struct rdma_alarm *alarm)
{
	struct rdma_alarm **at = &alarms;

	pthread_mutex_lock(&lock);
	while (*at != alarm)
		at = &(*at)->next;
	*at = alarm->next;
	pthread_mutex_unlock(&lock);
}

/*
 * Lanes of one rail may go through two ports of its device. Relaxed: the time is all there is to
 * know.
 */
static void note_port_of(struct rdma_alarm *alarm, unsigned int rail,
			 const struct ibv_async_event *event)
{
	uint64_t bit = 1ull << (event->element.port_num % 64), before = alarm->ports_down[rail];

	if (event->event_type == IBV_EVENT_PORT_ERR)
		alarm->ports_down[rail] |= bit;
	else
		alarm->ports_down[rail] &= ~bit;
	if (alarm->ports_down[rail] == 0)
		atomic_store_explicit(&alarm->port_down[rail], 0, memory_order_relaxed);
	else if (before == 0)
		atomic_store_explicit(&alarm->port_down[rail], vmferry_now(), memory_order_relaxed);
}

static void note_port(struct rdma_alarm *alarm, const struct ibv_context *context,
		      const struct ibv_async_event *event)
{
	for (unsigned int i = 0; i < alarm->session->rail_count; i++) {
		const struct rdma_rail *rail = alarm->session->rails[i];

		if (rail != NULL && rail->context == context)
			note_port_of(alarm, i, event);
	}
}

/* The lock is held. */
static void distribute(const struct ibv_context *context, const struct ibv_async_event *event)
{
	for (struct rdma_alarm *alarm = alarms; alarm != NULL; alarm = alarm->next) {
		const struct rdma_trouble *trouble = trouble_of(alarm->session, context, event);

		if (has_port(alarm->session, context, event))
			note_port(alarm, context, event);
		if (trouble == NULL)
			continue;
		atomic_store_explicit(&alarm->trouble, trouble, memory_order_release);
		(void)eventfd_write(alarm->wake, 1);
	}
}

/*
 * Under one lock with its distribution: else a port that is up again could be noted before it was
 * down, and stay so.
 */
static bool take_event(const struct rdma_rail *rail, struct ibv_async_event *event)
{
	bool taken;

	pthread_mutex_lock(&lock);
	taken = ibv_get_async_event(rail->context, event) == 0;
	if (taken)
		distribute(rail->context, event);
	pthread_mutex_unlock(&lock);
	return taken;
}

void rdma_take_device_events(const struct rdma_rail *rail)
{
	struct ibv_async_event event;

	while (take_event(rail, &event)) {
		log_debug("rail %s: %s", rail->name, ibv_event_type_str(event.event_type));
		if (event.event_type == IBV_EVENT_PORT_ERR)
			log_warn("rail %s: port %d is down: see to its link", rail->name,
				 event.element.port_num);
		/* Only now: whose it is cannot be destroyed before. */
		ibv_ack_async_event(&event);
	}
}

/* ---- the session's own thread ---------------------------------------------------------------- */

static void heed_trouble(struct rdma_alarm *alarm)
{
	struct vmferry_session *session = alarm->session->session;
	const struct rdma_trouble *trouble =
		atomic_exchange_explicit(&alarm->trouble, NULL, memory_order_acquire);

	if (trouble == NULL)
		return;
	session_fail(session, trouble->error, "%s", trouble->what);
	/*
	 * What came of it may be noticed sooner, also just now: then this is the reason for that.
	 */
	if (strcmp(vmferry_session_failure(session), trouble->what) != 0)
		log_warn("session %s: %s", session->name, trouble->what);
}

/*
 * A cable was pulled here, which is told at once; one that was pulled elsewhere shows by retries
 * alone.
 */
static void heed_ports(struct rdma_alarm *alarm, uint64_t now)
{
	struct rdma_session *session = alarm->session;

	for (unsigned int i = 0; i < session->rail_count; i++) {
		uint64_t since = atomic_load_explicit(&alarm->port_down[i], memory_order_relaxed);

		if (since == 0 || now < since + PORT_DOWN_NS)
			continue;
		session_fail(session->session, -ENETDOWN,
			     "rail %s: its port has been down for %llu ms: see to its link",
			     session->rails[i]->name,
			     (unsigned long long)((now - since) / NS_PER_MS));
	}
}

void rdma_alarm_heed(struct rdma_alarm *alarm, uint64_t now)
{
	heed_trouble(alarm);
	if (session_error(alarm->session->session) == 0)
		heed_ports(alarm, now);
}
