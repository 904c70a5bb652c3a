/* SPDX-License-Identifier: MIT */
/*
 * One migration between the two ends of the adaptor: its session, and the connections of one QEMU,
 * which it reads, and writes what comes from the other end. It hands bytes on as they are, in order
 * and in both directions, and a close as a close. What else is done with the bytes of a source is
 * the owner's, see struct relay_ops.
 *
 * THREADS  A connection has a thread that reads it and one that writes to it; the session has one
 *          that receives messages and watches deadlines, and never waits for a QEMU, and one that
 *          sends signs of life.
 * FAILURE  relay_fail() ends it all: the connections are shut down at once, which both QEMUs see,
 *          and every wait returns.
 */
#ifndef QEMU_RELAY_H
#define QEMU_RELAY_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <vmferry/transport.h>

#include "peer.h"

#define RELAY_FAILURE_MAX 320
/*
 * Bytes of a connection that the other end's QEMU has not taken yet: back-pressure, and a bound on
 * the other end's memory.
 */
#define RELAY_WINDOW_BYTES (1u << 20)
/* Small pieces of a connection are sent together up to this size. */
#define RELAY_PENDING_BYTES (64u << 10)

struct relay;
struct piece;

struct connection {
	struct relay *relay;
	void *user; /* the owner's */
	unsigned int number;
	int fd;
	pthread_t reader;
	pthread_t writer;
	bool has_reader;
	bool has_writer;

	/* The relay's lock. */
	struct piece *first;
	struct piece **last;
	bool ended_here; /* QEMU has closed it, and the peer was told */
	bool read_over;	 /* its reading thread has ended */
	/* the peer's QEMU has closed it, and all it had sent before was written */
	bool ended_there;
	bool closed_there; /* a CLOSE has come, and may still be in the queue */
	uint64_t unpaid;   /* of what has come from the peer, how much it was given no credit for */
	uint64_t owed;	   /* bytes sent to the peer that its QEMU has not taken yet */

	/* The reader's. */
	uint8_t *pending;
	size_t pending_bytes;
	bool drains; /* reads on although the relay is over, see relay_be_lenient() */

	/* Written by one thread, read by any. */
	_Atomic uint64_t bytes_in;  /* read from QEMU and sent on */
	_Atomic uint64_t bytes_out; /* written to QEMU */
	atomic_bool lost;	    /* it was closed by QEMU with bytes left to be written */
};

/*
 * What message() returns for the peer's last one: nothing more is received, and the peer's end is
 * no surprise.
 */
#define RELAY_LAST 1

struct relay_ops {
	/* In the connection's own thread: reads it until it ends. NULL: relay_copy(). */
	int (*read)(void *ctx, struct connection *c);
	/*
	 * In the message thread: a message that is not the relay's own. An error ends the relay;
	 * RELAY_LAST ends the thread, since the peer will send no more.
	 */
	int (*message)(void *ctx, const struct vmferry_message *message);
	/*
	 * In the message thread: a connection's bytes have come from the peer. NULL: nobody looks.
	 */
	void (*seen)(void *ctx, struct connection *c, const uint8_t *data, size_t length);
	/* In the writer's thread: waits until all lanes have reached @epoch. */
	int (*fence)(void *ctx, uint32_t epoch, bool last);
	/*
	 * In the message thread, about ten times a second while it has nothing else to do:
	 * deadlines. An error ends the relay.
	 */
	int (*watch)(void *ctx);
};

struct relay {
	struct vmferry_session *session;
	const struct relay_ops *ops;
	void *ctx;
	const char *name; /* for the log; the owner's */
	int over_fd;	  /* eventfd, readable for good once the relay is over */

	pthread_mutex_t lock;
	pthread_cond_t changed; /* anything under the lock, also of the owner's */
	atomic_int error;	/* the first one; 0: none */
	bool failure_told;	/* the peer knows */
	bool finishing;		/* all connections have ended: the peer may go without a word */
	bool peer_gone;		/* which it has while finishing */
	bool lenient; /* QEMU's connections are not shut down on failure, see relay_be_lenient() */
	char failure[RELAY_FAILURE_MAX];
	struct connection *connections[PEER_CONNECTIONS_MAX];
	unsigned int connection_count;
	atomic_bool stop;

	bool has_threads;
	pthread_t receiver;
	pthread_t beater;
};

/*
 * Takes the session over, also on failure: relay_close() closes it. @ops, @ctx and @name must
 * outlive it.
 */
int relay_init(struct relay *relay, struct vmferry_session *session, const struct relay_ops *ops,
	       void *ctx, const char *name);
int relay_start(struct relay *relay);

/*
 * Adds a connection of QEMU, @fd is the relay's from here on. -ENOSPC beyond PEER_CONNECTIONS_MAX.
 * Any thread.
 */
int relay_add(struct relay *relay, int fd, void *user, struct connection **connection);

/* Whether all connections have ended. With the relay's lock held. */
bool relay_ended(const struct relay *relay);

/* Whether the lanes go over RDMA. */
bool relay_is_rdma(const struct relay *relay);

/* Waits until all connections have ended, 0, or the relay is over, its error. */
int relay_wait(struct relay *relay);

/*
 * Called after a completed migration, while the destination's QEMU loads the guest's devices:
 * unmapping memory and ending threads interrupt all processors, and can wait until the guest runs.
 */
void relay_rest(void);

/*
 * Ends it and joins all threads: nobody uses its session any more. Accepts one whose relay_init()
 * failed, as does close.
 */
void relay_join(struct relay *relay);

/* The same, and closes everything. */
void relay_close(struct relay *relay);

/* The error that it ended with, 0 while it goes on. Any thread. */
int relay_error(const struct relay *relay);

/*
 * Ends the relay, if it is not over yet, with the reason for log, report and peer. Returns the
 * error it ended with first. Any thread.
 */
__attribute__((format(printf, 3, 4))) int relay_fail(struct relay *relay, int error,
						     const char *fmt, ...);

/*
 * From now on a failure does not close QEMU's connections: they are read and the bytes dropped
 * until QEMU closes. For a source that would run on, while the destination may have begun to run
 * the guest by itself.
 */
void relay_be_lenient(struct relay *relay);

/* Of a relay that has failed and is lenient: waits until QEMU has closed its connections. */
void relay_drain(struct relay *relay);

/* To the peer; @type without a connection's number. Any thread. An error has ended the relay. */
int relay_send(struct relay *relay, uint32_t type, const void *data, size_t length);

/*
 * Waits for the relay's condition, with the lock held, at most until @deadline: 0, -ETIMEDOUT, or
 * the relay's error.
 */
int relay_await(struct relay *relay, uint64_t deadline);

/* ---- for whoever reads a connection, in its thread ------------------------------------------- */

/*
 * Up to @length bytes: how many, 0 when QEMU has closed it, the relay's error, or -EINTR when
 * nothing came before @deadline (an absolute time).
 */
ssize_t connection_recv(struct connection *c, void *data, size_t length, uint64_t deadline);

/*
 * Waits until there is something to read, or that QEMU has closed it: 0, the relay's error, or
 * -EINTR at @deadline.
 */
int connection_await(struct connection *c, uint64_t deadline);

/* Whether bytes are waiting to be read, without waiting for them. */
bool connection_readable(const struct connection *c);

/* Hands bytes on, in order: put gathers them, flush sends what was gathered, send sends at once. */
int connection_put(struct connection *c, const void *data, size_t length);
int connection_flush(struct connection *c);
int connection_send(struct connection *c, const void *data, size_t length);

/*
 * In order with the bytes: those behind it wait at the other end for this fence. @last: no page
 * follows anywhere.
 */
int connection_fence(struct connection *c, uint32_t epoch, bool last);

/* Hands all bytes on until QEMU closes: 0, or the relay's error. */
int relay_copy(struct connection *c);

#endif
