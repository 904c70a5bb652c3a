/* SPDX-License-Identifier: MIT */
/*
 * What a kind of lane must be able to do. Everything above this table is the same for all kinds.
 *
 * ERRORS   A function that sees a failure of the lane ends the session with session_fail(), which logs it, and
 *          returns what that returns. -EAGAIN and -ETIMEDOUT are no failures.
 */
#ifndef TRANSPORT_OPS_H
#define TRANSPORT_OPS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/transport.h>

#include "transport/handshake.h"

struct vmferry_session;
struct vmferry_memory;
struct transport_ops;
struct address;

/* Written by the lane's one thread, read by any: relaxed, they order nothing. */
struct lane_counters {
	_Atomic uint64_t bytes;
	_Atomic uint64_t wire_bytes;
	_Atomic uint64_t placed_bytes;
	_Atomic uint64_t writes;
	_Atomic uint64_t submissions;
	_Atomic uint64_t stall_ns;
	_Atomic uint64_t cpu_ns;
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

struct transport_ops {
	const char *name;

	/* How many lanes are of use between here and @peer. */
	unsigned int (*default_lanes)(const struct address *peer);

	/* Source: opens a lane to the session's peer with a hello that proves its right to it. */
	int (*connect)(struct vmferry_session *session, const struct hello_lane *hello,
		       uint64_t deadline, struct lane **lane);

	/* Destination: makes a lane of a connection that has proved itself. Takes @fd on success only. */
	int (*accept)(struct vmferry_session *session, unsigned int number, int fd,
		      struct lane **lane);

	/* Destination: from now on what comes in is placed. */
	int (*start)(struct lane *lane);

	/* As the public functions of these names, with arguments that were checked. */
	int (*write)(struct lane *lane, const struct vmferry_write *writes, unsigned int count,
		     uint64_t deadline);
	int (*fence)(struct lane *lane, uint32_t epoch, uint64_t deadline);
	int (*fence_wait)(struct lane *lane, uint32_t epoch, uint64_t deadline);
	int (*read)(struct lane *lane, uint8_t *to, uint64_t address, uint64_t length,
		    uint64_t deadline);
	int (*fd)(const struct lane *lane);

	/* May be NULL. The table of memory has it already, or no longer. */
	int (*register_memory)(struct vmferry_memory *memory);
	void (*deregister_memory)(struct vmferry_memory *memory);

	/* Makes every wait on the lane end; any thread. Then close(), which joins the lane's thread and frees. */
	void (*shutdown)(struct lane *lane);
	void (*close)(struct lane *lane);
};

extern const struct transport_ops tcp_ops;

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
