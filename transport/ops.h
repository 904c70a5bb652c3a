/* SPDX-License-Identifier: MIT */
/*
 * What a kind of lane must be able to do. Everything above this table is the same for all kinds.
 *
 * ERRORS   A function that sees a failure of the lane ends the session with session_fail(), which
 *          logs it, and returns what that returns. -EAGAIN and -ETIMEDOUT are no failures.
 */
#ifndef TRANSPORT_OPS_H
#define TRANSPORT_OPS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/transport.h>

#include "transport/handshake.h"
#include "transport/socket.h"

struct vmferry_session;
struct vmferry_memory;
struct transport_ops;

/* Written by the lane's one thread, read by any: relaxed, they order nothing. */
struct lane_counters {
	_Atomic uint64_t bytes;
	_Atomic uint64_t wire_bytes;
	_Atomic uint64_t placed_bytes;
	_Atomic uint64_t writes;
	_Atomic uint64_t submissions;
	_Atomic uint64_t stall_ns;
	_Atomic uint64_t cpu_ns;
	_Atomic uint64_t requests;
	_Atomic uint64_t signals;
	_Atomic uint64_t sleeps;
};

/* The part of a lane that all kinds have; a kind puts it first in its own structure. */
struct lane {
	struct vmferry_session *session;
	unsigned int number;
	struct lane_counters counters;

	/* Destination; under the session's lock. */
	uint64_t reached; /* epoch of the last fence that came + 1, 0: none yet */
	bool ended;
};

/* The number of the connection that carries the mailbox, where that is one of its own. */
#define LANE_MAILBOX 0xffffu

struct lane_listener;

/* What a kind's own listener asks of the session's. */
struct lane_admission {
	void *ctx;

	/* Who may come in: the session that waits for this lane, or NULL with @why set. */
	struct vmferry_session *(*admit)(void *ctx, const struct hello_lane *hello,
					 const char **why);

	/*
	 * One that was let in, and is in the session, is connected now. The last one may have the
	 * session handed out.
	 */
	void (*joined)(void *ctx, struct vmferry_session *session);

	/* One that was let in could not be connected: the session is given up and freed. */
	void (*failed)(void *ctx, struct vmferry_session *session, const char *why);
};

struct transport_ops {
	const char *name;

	enum vmferry_transport kind;

	/* How many lanes are of use between here and @peer, with these options. */
	unsigned int (*default_lanes)(const struct address *peer,
				      const struct vmferry_transport_options *options);

	/*
	 * Both sides, before any lane: what the kind keeps for a whole session, in session->kind.
	 * @addresses: where the lanes go, as the destination's listener_describe() said. May be
	 * NULL, as may detach(), which comes after the lanes are closed.
	 */
	int (*attach)(struct vmferry_session *session,
		      const struct vmferry_transport_options *options,
		      const struct lane_addresses *addresses);
	void (*detach)(struct vmferry_session *session);

	/*
	 * Both sides, all lanes have joined, before the session is given to the caller. May be
	 * NULL.
	 */
	int (*ready)(struct vmferry_session *session);

	/*
	 * Source: opens a lane to the session's peer with a hello that proves its right to it.
	 * @lane is the place in the session, NULL for the connection number LANE_MAILBOX of a kind
	 * that has one.
	 */
	int (*connect)(struct vmferry_session *session, const struct hello_lane *hello,
		       uint64_t deadline, struct lane **lane);
	bool has_mailbox; /* one more connection than lanes, see LANE_MAILBOX */

	/*
	 * Destination: makes a lane of a connection that has proved itself. Takes @fd on success
	 * only. NULL where a kind has its own listener.
	 */
	int (*accept)(struct vmferry_session *session, unsigned int number, int fd,
		      struct lane **lane);

	/*
	 * Destination: a listener of its own, where lanes of this kind arrive when that is not the
	 * listening socket; all NULL without one. listener_open() is -ENODEV when this host has no
	 * device for the kind. listener_fd() is readable when listener_event() has something to do:
	 * it deals with one event, has each hello admitted or refused, and tells what has joined,
	 * through @admission.
	 */
	int (*listener_open)(const struct vmferry_transport_options *options,
			     const struct address *bound, struct lane_listener **listener);
	int (*listener_fd)(const struct lane_listener *listener);
	void (*listener_describe)(const struct lane_listener *listener,
				  struct lane_addresses *addresses);
	void (*listener_event)(struct lane_listener *listener,
			       const struct lane_admission *admission);
	void (*listener_close)(struct lane_listener *listener);

	/*
	 * Destination: from now on what comes in is placed. NULL where that needs nothing of this
	 * side.
	 */
	int (*start)(struct lane *lane);

	/* As the public functions of these names, with arguments that were checked. */
	int (*write)(struct lane *lane, const struct vmferry_write *writes, unsigned int count,
		     uint64_t deadline);
	int (*fence)(struct lane *lane, uint32_t epoch, uint64_t deadline);
	int (*fence_wait)(struct lane *lane, uint32_t epoch, uint64_t deadline);
	int (*probe)(struct lane *lane); /* NULL: no matter */
	int (*read)(struct lane *lane, uint8_t *to, uint64_t address, uint64_t length,
		    uint64_t deadline);
	int (*fd)(const struct lane *lane);

	/* As vmferry_lane_numa_node(). NULL: no matter. */
	int (*node)(const struct lane *lane);

	/* May be NULL. The table of memory has it already, or no longer. */
	int (*register_memory)(struct vmferry_memory *memory);
	void (*deregister_memory)(struct vmferry_memory *memory);
	int (*prepare)(struct vmferry_memory *memory, uint64_t offset, uint64_t length);
	/* As vmferry_discard(). NULL: nothing is in the way. */
	int (*discard)(struct vmferry_memory *memory, uint64_t offset, uint64_t length);
	void (*registration_stats)(const struct vmferry_session *session,
				   struct vmferry_registration_stats *stats);

	/*
	 * NULL: messages go over the control connection, which the caller of vmferry_recv() reads.
	 * Else the kind reads the control connection itself and puts what comes on either channel
	 * into session->inbox.
	 */
	int (*send_mailbox)(struct vmferry_session *session, uint32_t type, const void *data,
			    size_t length, uint64_t deadline);

	/*
	 * Moves things on without waiting. True: whoever waits shall call again rather than sleep.
	 * May be NULL; any thread.
	 */
	bool (*poll)(struct vmferry_session *session);
	void (*busy_poll)(struct vmferry_session *session, uint64_t until);

	/*
	 * Of a kind that keeps something for the session; may be NULL. wake() ends all waits that
	 * are the kind's own when the session fails: any thread. drain() waits for what was sent,
	 * quiesce() ends the kind's thread: both when the session is closed, before the lanes are.
	 */
	void (*wake)(struct vmferry_session *session);
	void (*drain)(struct vmferry_session *session);
	void (*quiesce)(struct vmferry_session *session);

	/* As vmferry_session_revoke(). */
	int (*revoke)(struct vmferry_session *session);

	/*
	 * Makes every wait on the lane end; any thread. Then close(), which joins the lane's thread
	 * and frees.
	 */
	void (*shutdown)(struct lane *lane);
	void (*close)(struct lane *lane);
};

extern const struct transport_ops tcp_ops;
extern const struct transport_ops rdma_ops;

/* Whether there is anything that rdma_ops could use. */
bool rdma_has_device(void);

/*
 * Whether this process may pin so many bytes for each of the rails that the options name: false if
 * the kernel is sure to refuse, and then @why says what the limit is.
 */
bool rdma_may_pin(const struct vmferry_transport_options *options, uint64_t bytes, char *why,
		  size_t size);

static inline void counter_add(_Atomic uint64_t *counter, uint64_t n)
{
	uint64_t old = atomic_load_explicit(counter, memory_order_relaxed);

	atomic_store_explicit(counter, old + n, memory_order_relaxed);
}

static inline void counter_set(_Atomic uint64_t *counter, uint64_t value)
{
	atomic_store_explicit(counter, value, memory_order_relaxed);
}

static inline uint64_t counter_get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

#endif
