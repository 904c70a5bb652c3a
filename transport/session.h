/* SPDX-License-Identifier: MIT */
/*
 * A session: control connection, lanes, registered memory, and the first error, which stays.
 *
 * THREADS  Made and filled by one thread before anybody else sees it. Afterwards lanes and fds do
 *          not change until vmferry_session_close(), so that session_fail() may be called from any
 *          thread.
 */
#ifndef TRANSPORT_SESSION_H
#define TRANSPORT_SESSION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <vmferry/transport.h>

#include "transport/channel.h"
#include "transport/handshake.h"
#include "transport/inbox.h"
#include "transport/memory.h"
#include "transport/ops.h"
#include "transport/socket.h"

#define REASON_MAX 200

struct vmferry_session {
	const struct transport_ops *ops;
	bool is_source;
	char name[9]; /* the beginning of the identity, for the log */
	uint8_t id[SESSION_ID_BYTES];
	uint8_t secret[SECRET_BYTES]; /* wiped when all lanes have joined */
	struct address peer;
	char peer_text[ADDRESS_TEXT_MAX];

	struct channel control;
	atomic_int error;  /* the first one, 0: none; written under the lock */
	char failure[256]; /* what it was; written before it */

	pthread_mutex_t lock; /* for the fields below and the lanes' fence state */
	pthread_cond_t
		fenced; /* a lane has reached a fence or has ended, or the session has failed */
	pthread_cond_t may_send; /* nobody is sending any more */
	bool sending;

	struct memory_table memory;
	struct inbox inbox; /* of a kind that reads the control connection itself */
	void *kind;	    /* what the lanes' kind keeps for the session; NULL: nothing */
	/* why it is this transport; of lanes that could not be had, why not */
	char reason[REASON_MAX];
	atomic_bool revoked;
	atomic_bool bye; /* the peer has said that it closes: its end is no surprise */
	unsigned int lane_count;
	struct lane *lanes[VMFERRY_LANES_MAX];
};

/* Takes @fd, the control connection, on success only. */
int session_new(const struct transport_ops *ops, bool is_source, int fd, const struct address *peer,
		struct vmferry_session **session);

/* Sets the identity and the name that comes of it. */
void session_identify(struct vmferry_session *session, const uint8_t id[SESSION_ID_BYTES],
		      const uint8_t secret[SECRET_BYTES]);

/* No further lane can prove itself. */
void session_forget_secret(struct vmferry_session *session);

/*
 * Ends the session with @error (negative), if it has not ended before: logs the reason, closes all
 * connections for reading and writing and wakes all waits. Returns the error that the session ended
 * with first; -ETIMEDOUT, of the call whose deadline it was, is -ECONNRESET for all others, who
 * might try again.
 */
__attribute__((format(printf, 3, 4))) int session_fail(struct vmferry_session *session, int error,
						       const char *fmt, ...);

/*
 * Sends a message on the control connection, also one of the transport's own, see CHANNEL_TYPE_MAX.
 * Any thread. As vmferry_send().
 */
int session_send_control(struct vmferry_session *session, uint32_t type, const void *data,
			 size_t length, uint64_t deadline);

/* The error that it ended with, 0 if it has not. */
int session_error(const struct vmferry_session *session);

/*
 * Destination, lane threads: a fence has come and everything before it is placed; nothing more will
 * come.
 */
void session_fence_reached(struct lane *lane, uint32_t epoch);
void session_lane_ended(struct lane *lane);

#endif
