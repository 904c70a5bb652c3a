/* SPDX-License-Identifier: MIT */
/*
 * Polling for all that the service thread polls for: the destination's lanes and the mailbox.
 * Everything here, and whatever it calls, happens under poll_lock, so that it does not matter who
 * polls.
 */
#include <sched.h>

#include "common/clock.h"
#include "transport/rdma/service.h"

/* So that a peer who talks without end cannot keep anybody here. */
#define DRY_TURNS 4096
/*
 * Yielding at each turn costs as much as what is waited for (soft-RoCE, two processors: a fence
 * took half as long again).
 */
#define YIELD_NS (50 * NS_PER_US)

void rdma_spin(uint64_t now)
{
	static _Thread_local uint64_t yielded;

	if (now - yielded >= YIELD_NS) {
		sched_yield();
		yielded = now;
		return;
	}
#if defined(__x86_64__)
	__builtin_ia32_pause();
#endif
}

unsigned int rdma_connection_count(const struct rdma_session *session)
{
	return session->session->lane_count + 1;
}

struct rdma_connection *rdma_connection_of(struct rdma_session *session, unsigned int index)
{
	if (index == session->session->lane_count)
		return rdma_mailbox_connection(session);
	return rdma_lane_connection(session->session->lanes[index]);
}

bool rdma_connection_revoked(struct rdma_session *session, unsigned int index)
{
	return index != session->session->lane_count && atomic_load(&session->session->revoked);
}

/* poll_lock is held. */
static bool poll_all(struct rdma_session *session)
{
	struct vmferry_session *s = session->session;
	int any = 0;

	for (unsigned int i = 0; !s->is_source && i < s->lane_count; i++)
		any |= rdma_lane_poll(s->lanes[i]);
	if (session->mailbox != NULL)
		any |= rdma_mailbox_poll(session);
	return any != 0;
}

bool rdma_poll(struct vmferry_session *session)
{
	struct rdma_session *s = rdma_session_of(session);
	bool any = false;
	uint64_t now;

	/* Who has the lock does it just now. */
	if (pthread_mutex_trylock(&s->poll_lock) == 0) {
		any = poll_all(s);
		pthread_mutex_unlock(&s->poll_lock);
	}
	now = vmferry_now();
	if (!rdma_busy_polls(s, now))
		return false;
	if (!any)
		rdma_spin(now);
	return true;
}

void rdma_poll_dry(struct rdma_session *session)
{
	pthread_mutex_lock(&session->poll_lock);
	for (int i = 0; i < DRY_TURNS && poll_all(session); i++)
		;
	pthread_mutex_unlock(&session->poll_lock);
}

/* The source's lanes are slept for by their own threads. */
static bool is_polled(const struct rdma_session *session, unsigned int index)
{
	return !session->session->is_source || index == session->session->lane_count;
}

static int arm(struct rdma_session *session)
{
	int error = 0;

	for (unsigned int i = 0; error == 0 && i < rdma_connection_count(session); i++) {
		struct rdma_connection *conn =
			is_polled(session, i) ? rdma_connection_of(session, i) : NULL;

		if (conn == NULL)
			continue;
		error = ibv_req_notify_cq(conn->recv_cq, 0);
		if (error == 0 && i == session->session->lane_count)
			error = ibv_req_notify_cq(conn->send_cq, 0);
	}
	return -error;
}

int rdma_poll_armed(struct rdma_session *session, bool *more)
{
	int ret;

	pthread_mutex_lock(&session->poll_lock);
	ret = arm(session);
	/* Behind arming, so that nothing that came before goes without an event. */
	*more = poll_all(session);
	pthread_mutex_unlock(&session->poll_lock);
	return ret;
}

bool rdma_poll_wait(struct rdma_session *session)
{
	bool any;

	pthread_mutex_lock(&session->poll_lock);
	any = poll_all(session);
	pthread_mutex_unlock(&session->poll_lock);
	return any;
}
