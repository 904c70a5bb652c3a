/* SPDX-License-Identifier: MIT */
/*
 * The destination's side of a fence: waiting until it has come on all lanes.
 *
 * ORDER    A lane's thread places bytes and then takes the session's lock to say that the fence has
 *          come; whoever waits sees it under the same lock. So all that was placed before the fence
 *          is visible to him.
 */
#include <errno.h>

#include "common/clock.h"
#include "transport/session.h"

void session_fence_reached(struct lane *lane, uint32_t epoch)
{
	struct vmferry_session *s = lane->session;

	pthread_mutex_lock(&s->lock);
	lane->reached = (uint64_t)epoch + 1;
	pthread_cond_broadcast(&s->fenced);
	pthread_mutex_unlock(&s->lock);
}

void session_lane_ended(struct lane *lane)
{
	struct vmferry_session *s = lane->session;

	pthread_mutex_lock(&s->lock);
	lane->ended = true;
	pthread_cond_broadcast(&s->fenced);
	pthread_mutex_unlock(&s->lock);
}

/* 0 when all lanes are there, -EAGAIN when that can still happen. */
static int fence_state(const struct vmferry_session *session, uint32_t epoch)
{
	int error = session_error(session);
	int ret = 0;

	for (unsigned int i = 0; i < session->lane_count; i++) {
		const struct lane *lane = session->lanes[i];

		if (lane->reached > epoch)
			continue;
		if (lane->ended)
			return error != 0 ? error : -ECONNRESET;
		ret = -EAGAIN;
	}
	/* When the peer has gone, what it sent before may still be on its way through the lanes. */
	if (ret == -EAGAIN && error != 0 && error != -ECONNRESET)
		return error;
	return ret;
}

/* Moves lanes on by this thread itself. */
static bool busy_polls(struct vmferry_session *session)
{
	return session->kind != NULL && session->ops->poll != NULL && session->ops->poll(session);
}

int vmferry_fence_wait(struct vmferry_session *session, uint32_t epoch, uint64_t deadline)
{
	struct timespec until = deadline_timespec(deadline);
	int ret = 0;
	int wait = 0;

	while (busy_polls(session) && vmferry_now() < deadline) {
		pthread_mutex_lock(&session->lock);
		ret = fence_state(session, epoch);
		pthread_mutex_unlock(&session->lock);
		if (ret != -EAGAIN)
			return ret;
	}
	pthread_mutex_lock(&session->lock);
	for (;;) {
		ret = fence_state(session, epoch);
		if (ret != -EAGAIN || wait != 0)
			break;
		wait = pthread_cond_clockwait(&session->fenced, &session->lock, CLOCK_MONOTONIC,
					      &until);
	}
	pthread_mutex_unlock(&session->lock);
	return ret == -EAGAIN ? -wait : ret;
}
