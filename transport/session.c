/* SPDX-License-Identifier: MIT */
/* Life and death of a session, and its messages. */
#include "transport/session.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

int session_new(const struct transport_ops *ops, bool is_source, int fd, const struct address *peer,
		struct vmferry_session **session)
{
	struct vmferry_session *s = calloc(1, sizeof(*s));
	int ret;

	if (s == NULL)
		return -ENOMEM;
	ret = memory_table_init(&s->memory);
	if (ret < 0) {
		free(s);
		return ret;
	}
	s->ops = ops;
	s->is_source = is_source;
	s->peer = *peer;
	address_text(peer, s->peer_text, sizeof(s->peer_text));
	snprintf(s->name, sizeof(s->name), "new");
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->fenced, NULL);
	pthread_cond_init(&s->may_send, NULL);
	inbox_init(&s->inbox);
	channel_init(&s->control, fd);
	*session = s;
	return 0;
}

void session_identify(struct vmferry_session *session, const uint8_t id[SESSION_ID_BYTES],
		      const uint8_t secret[SECRET_BYTES])
{
	memcpy(session->id, id, SESSION_ID_BYTES);
	memcpy(session->secret, secret, SECRET_BYTES);
	snprintf(session->name, sizeof(session->name), "%02x%02x%02x%02x", id[0], id[1], id[2],
		 id[3]);
}

void session_forget_secret(struct vmferry_session *session)
{
	gnutls_memset(session->secret, 0, sizeof(session->secret));
}

int session_error(const struct vmferry_session *session)
{
	/* Acquire: who sees the error also sees what led to it. */
	return atomic_load_explicit(&session->error, memory_order_acquire);
}

static void wake_all(struct vmferry_session *session)
{
	channel_shutdown(&session->control);
	for (unsigned int i = 0; i < session->lane_count; i++)
		if (session->lanes[i] != NULL)
			session->ops->shutdown(session->lanes[i]);
	if (session->kind != NULL && session->ops->wake != NULL)
		session->ops->wake(session);
	/* Under the lock, so that nobody is between looking at the error and going to sleep. */
	pthread_mutex_lock(&session->lock);
	pthread_cond_broadcast(&session->fenced);
	pthread_cond_broadcast(&session->may_send);
	pthread_mutex_unlock(&session->lock);
	inbox_wake(&session->inbox);
}

static enum vmferry_log_level level_of(int error)
{
	switch (error) {
	case -ECANCELED:
		return VMFERRY_LOG_DEBUG;
	case -ECONNRESET:
		return VMFERRY_LOG_WARN;
	default:
		return VMFERRY_LOG_ERROR;
	}
}

int session_fail(struct vmferry_session *session, int error, const char *fmt, ...)
{
	va_list args;
	int before;

	pthread_mutex_lock(&session->lock);
	before = atomic_load_explicit(&session->error, memory_order_relaxed);
	if (before == 0) {
		va_start(args, fmt);
		vsnprintf(session->failure, sizeof(session->failure), fmt, args);
		va_end(args);
		/*
		 * release: who sees the error sees its text, which never changes again. -ETIMEDOUT
		 * would mean of a session that is over what it means of one that is not: try again.
		 */
		atomic_store_explicit(&session->error, error == -ETIMEDOUT ? -ECONNRESET : error,
				      memory_order_release);
	}
	pthread_mutex_unlock(&session->lock);
	if (before != 0)
		return before;
	log_line(error == -ECONNRESET && atomic_load(&session->bye) ? VMFERRY_LOG_DEBUG
								    : level_of(error),
		 "session %s with %s: %s: the session is over", session->name, session->peer_text,
		 session->failure);
	wake_all(session);
	return error;
}

const char *vmferry_session_failure(const struct vmferry_session *session)
{
	return session_error(session) != 0 ? session->failure : "";
}

void vmferry_session_shutdown(struct vmferry_session *session)
{
	session_fail(session, -ECANCELED, "shut down on this side");
}

void vmferry_session_close(struct vmferry_session **session)
{
	struct vmferry_session *s = *session;

	if (s == NULL)
		return;
	/* The last words of a session that ends well are on their way. */
	if (s->kind != NULL && s->ops->drain != NULL)
		s->ops->drain(s);
	session_fail(s, -ECANCELED, "closed on this side");
	if (s->kind != NULL && s->ops->quiesce != NULL)
		s->ops->quiesce(s);
	for (unsigned int i = 0; i < s->lane_count; i++)
		if (s->lanes[i] != NULL)
			s->ops->close(s->lanes[i]);
	if (s->kind != NULL)
		s->ops->detach(s);
	channel_close(&s->control);
	inbox_destroy(&s->inbox);
	memory_table_destroy(&s->memory);
	pthread_cond_destroy(&s->may_send);
	pthread_cond_destroy(&s->fenced);
	pthread_mutex_destroy(&s->lock);
	session_forget_secret(s);
	free(s);
	*session = NULL;
}

const char *vmferry_session_transport(const struct vmferry_session *session)
{
	return session->ops->name;
}

const char *vmferry_session_transport_reason(const struct vmferry_session *session)
{
	return session->reason;
}

void vmferry_session_busy_poll(struct vmferry_session *session, uint64_t until)
{
	if (session->kind != NULL && session->ops->busy_poll != NULL)
		session->ops->busy_poll(session, until);
}

int vmferry_session_revoke(struct vmferry_session *session)
{
	atomic_store(&session->revoked, true);
	return session->ops->revoke(session);
}

unsigned int vmferry_session_lanes(const struct vmferry_session *session)
{
	return session->lane_count;
}

const char *vmferry_session_peer(const struct vmferry_session *session)
{
	return session->peer_text;
}

/* One message at a time; a mutex held over the sending itself would know no deadline. */
static int begin_sending(struct vmferry_session *session, uint64_t deadline)
{
	struct timespec until = deadline_timespec(deadline);
	int ret = 0;

	pthread_mutex_lock(&session->lock);
	while (ret == 0 && session->sending && session_error(session) == 0)
		ret = pthread_cond_clockwait(&session->may_send, &session->lock, CLOCK_MONOTONIC,
					     &until);
	if (session_error(session) != 0)
		ret = -session_error(session);
	if (ret == 0)
		session->sending = true;
	pthread_mutex_unlock(&session->lock);
	return -ret;
}

static void end_sending(struct vmferry_session *session)
{
	pthread_mutex_lock(&session->lock);
	session->sending = false;
	pthread_cond_signal(&session->may_send);
	pthread_mutex_unlock(&session->lock);
}

static int check_message(const struct vmferry_session *session, enum vmferry_channel channel,
			 uint32_t type, size_t length)
{
	if (length > VMFERRY_MESSAGE_MAX) {
		log_error("session %s: a message of %zu bytes cannot be sent: the most is %u",
			  session->name, length, VMFERRY_MESSAGE_MAX);
		return -EMSGSIZE;
	}
	if (type > VMFERRY_MESSAGE_TYPE_MAX ||
	    (channel != VMFERRY_CONTROL && channel != VMFERRY_MAILBOX)) {
		log_error("session %s: there is no message type %u on channel %d", session->name,
			  type, (int)channel);
		return -EINVAL;
	}
	return 0;
}

int session_send_control(struct vmferry_session *session, uint32_t type, const void *data,
			 size_t length, uint64_t deadline)
{
	int ret = begin_sending(session, deadline);

	if (ret < 0)
		return ret;
	ret = channel_send(&session->control, type, data, length, deadline);
	/* Before the next sender may begin: behind half a message he must not. */
	if (ret == -ETIME)
		ret = session_fail(session, -ETIMEDOUT,
				   "control: the peer did not take a whole message in time");
	else if (ret < 0 && ret != -ETIMEDOUT)
		ret = session_fail(session, ret, "control: cannot send: %s", strerror(-ret));
	end_sending(session);
	return ret;
}

int vmferry_send(struct vmferry_session *session, enum vmferry_channel channel, uint32_t type,
		 const void *data, size_t length, uint64_t deadline)
{
	int ret = check_message(session, channel, type, length);

	if (ret < 0)
		return ret;
	if (channel == VMFERRY_MAILBOX && session->kind != NULL &&
	    session->ops->send_mailbox != NULL)
		return session->ops->send_mailbox(session, type, data, length, deadline);
	return session_send_control(session, type, data, length, deadline);
}

/* Takes from the inbox, which somebody else fills: ours to move on only while it is busy polled. */
static int recv_inbox(struct vmferry_session *session, struct vmferry_message *message,
		      uint64_t deadline)
{
	for (;;) {
		/*
		 * Before it is looked into: what the peer said before it went away is put there
		 * until it is closed.
		 */
		bool closed = inbox_closed(&session->inbox);
		int error = session_error(session);

		if (inbox_take(&session->inbox, message) == 0)
			return 0;
		if (error != 0 && (closed || error == -ECANCELED))
			return error;
		if (vmferry_now() >= deadline)
			return -ETIMEDOUT;
		if (!session->ops->poll(session))
			inbox_wait(&session->inbox, deadline);
	}
}

int vmferry_recv(struct vmferry_session *session, struct vmferry_message *message,
		 uint64_t deadline)
{
	int ret;

	if (session_error(session) == -ECANCELED)
		return -ECANCELED;
	if (session->kind != NULL && session->ops->poll != NULL)
		return recv_inbox(session, message, deadline);
	/* What the peer said before it went away is still heard, whatever became of the lanes. */
	ret = channel_recv(&session->control, message, deadline);
	if (ret == 0 || (ret == -ETIMEDOUT && session_error(session) == 0))
		return ret;
	if (ret == -EMSGSIZE)
		return session_fail(session, ret, "control: a message is longer than %u bytes",
				    VMFERRY_MESSAGE_MAX);
	if (ret == -EPROTO)
		return session_fail(session, ret, "control: a message has an impossible type");
	return session_fail(session, ret, "control: cannot receive: %s", strerror(-ret));
}
