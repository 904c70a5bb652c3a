/* SPDX-License-Identifier: MIT */
/*
 * Sessions whose first message has not come. Each has a thread of its own that waits for it, so
 * that a silent one delays no other. When there are too many, the oldest is closed.
 *
 * All calls are made by one thread, the listener's.
 */
#ifndef ENGINE_PENDING_H
#define ENGINE_PENDING_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <vmferry/transport.h>

#define PENDING_MAX 16

/* What is done with a session and its first message, in that session's thread. Takes both. */
typedef void (*pending_fn)(void *ctx, struct vmferry_session *session,
			   struct vmferry_message *first);

struct pending_session {
	struct pending *all;
	struct vmferry_session *session; /* @all->lock; NULL: it has spoken, or has gone */
	pthread_t thread;
	bool started;
	uint64_t since;
	atomic_bool done; /* the thread will end without waiting for anything */
};

struct pending {
	pending_fn fn;
	void *ctx;
	pthread_mutex_t lock;
	struct pending_session sessions[PENDING_MAX];
};

void pending_init(struct pending *pending, pending_fn fn, void *ctx);

/* Takes the session, also when no thread can be had for it. */
void pending_add(struct pending *pending, struct vmferry_session *session);

/* Closes all that have not spoken, and waits for those that have. */
void pending_close(struct pending *pending);
void pending_destroy(struct pending *pending);

#endif
