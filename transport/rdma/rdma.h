/* SPDX-License-Identifier: MIT */
/*
 * Lanes over RDMA: reliable-connected queue pairs of rdma_cm. The source writes from guest memory
 * into guest memory; the destination's CPU only hears of fences and messages.
 *
 *   connection.c  a queue pair with its completion queues and its CM identifier
 *   rail.c        a device as one session uses it: protection domain, limits, NUMA node
 *   listener.c    where the destination's connections arrive
 *   lane.c        the source's half of a lane: posting, credits, completions
 *   arrive.c      the destination's half
 *   memory.c      chunks of registered memory
 *   registrar.c   the threads that pin them
 *   keys.c        the destination's keys at the source
 *   mailbox.c     messages over a connection of their own, with receive credits
 *   service.c     a session's thread: control connection, CM events, heartbeat, and completions
 *                 that somebody sleeps for
 *
 * THREADS  A lane of the source belongs to the thread that uses it. Everything that polls for the
 *          destination's lanes and for either side's mailbox happens in rdma_poll(), under
 *          rdma_session.poll_lock: by the service thread when a completion event wakes it, and by
 *          whoever waits while it is busy polled.
 * ERRORS   The first failure of any connection ends the session by session_fail(); completions
 *          flushed after it are only counted.
 */
#ifndef RDMA_RDMA_H
#define RDMA_RDMA_H

#include <infiniband/verbs.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "transport/session.h"

/* The device's limits as far as they bind us, see rail.c. */
struct rdma_limits {
	uint32_t max_wr; /* work requests in one queue */
	uint32_t max_cqe;
	uint64_t max_message; /* bytes of one work request */
	uint64_t max_mr;      /* bytes of one memory region */
	uint8_t max_reads_in; /* RDMA reads under way, as the responder and as the initiator */
	uint8_t max_reads_out;
	bool odp; /* the device can, and the options ask for it */
};

/*
 * A device as one session uses it. Not shared with other sessions: a key of one is worth nothing to
 * another.
 */
struct rdma_rail {
	struct rdma_session *session;
	unsigned int index; /* in rdma_session.rails */
	struct ibv_context
		*context; /* librdmacm's; lives as long as any identifier of the device */
	/* of a connection that is closed: keeps the context for what is left of the rail */
	struct rdma_cm_id *context_ref;
	struct rdma_event_channel *context_ref_events;
	struct ibv_pd *pd;
	struct ibv_comp_channel
		*channel; /* of all queues that the service thread sleeps for; does not block */
	struct rdma_limits limits;
	int node; /* NUMA, -1: not known */
	char name[IBV_SYSFS_NAME_MAX];
};

/* What a connection is made with. Queues whose channel is NULL cannot be slept for. */
struct rdma_shape {
	uint32_t send_depth;
	uint32_t recv_depth;
	uint32_t inline_bytes; /* a wish */
	struct ibv_comp_channel *send_channel;
	struct ibv_comp_channel *recv_channel;
};

struct rdma_connection {
	struct rdma_rail *rail;
	struct rdma_cm_id *id;		   /* owned, with its queue pair */
	struct rdma_event_channel *events; /* owned: of this identifier alone; does not block */
	struct ibv_cq *send_cq;		   /* owned */
	struct ibv_cq *recv_cq;		   /* owned */
	uint32_t send_depth;		   /* that are sure to be had */
	uint32_t recv_depth;
	uint32_t inline_bytes;
	/*
	 * completion events taken from the channel and not acknowledged: destroying waits for that
	 */
	unsigned int unacked_send;
	unsigned int unacked_recv;
};

struct rdma_session {
	struct vmferry_session *session;
	struct vmferry_transport_options
		options; /* completed: no zero stands for a default; rails[] not to be used */
	struct lane_addresses addresses;	 /* the destination's rails: one entry for each */
	struct address local[VMFERRY_RAILS_MAX]; /* source: the rails that were asked for */
	unsigned int local_count;
	/*
	 * The source's devices; at the destination rails[i] is what listens at addresses.rails[i].
	 * All are there once all lanes have joined, and none is added later.
	 */
	struct rdma_rail *rails[VMFERRY_RAILS_MAX];
	unsigned int rail_count;
	struct rdma_mailbox *mailbox; /* NULL in a session without lanes */
	struct rdma_registrar *registrar;
	struct rdma_keys *keys; /* source */
	struct rdma_service *service;
	pthread_mutex_t poll_lock;
	_Atomic uint64_t busy_poll_until; /* relaxed: a hint */
	/* When a request was first found flushed, 0: none was. */
	_Atomic uint64_t lane_flushed;
	_Atomic uint64_t mailbox_flushed;
};

static inline struct rdma_session *rdma_session_of(const struct vmferry_session *session)
{
	return session->kind;
}

/* ---- rail.c ---------------------------------------------------------------------------------- */

/*
 * The rail of this device, made if there is none yet. @listener_rail: the number, at the
 * destination's listener, that it is connected to.
 */
int rdma_rail_get(struct rdma_session *session, unsigned int listener_rail,
		  struct ibv_context *context, uint8_t port, struct rdma_rail **rail);
void rdma_rails_free(struct rdma_session *session);

/*
 * Takes the identifier, and its channel if it has one of its own, of a connection whose queues are
 * destroyed: it ends with the rail at the latest.
 */
void rdma_rail_retire(struct rdma_rail *rail, struct rdma_cm_id *id,
		      struct rdma_event_channel *events);

/*
 * Where threads that work for this rail are at home; -1 also where there is no rail, as a
 * destination that no lane came to has gaps.
 */
static inline int rdma_rail_node(const struct rdma_rail *rail)
{
	return rail == NULL ? -1 : rail->node;
}

/*
 * On-demand paging as lanes want it: writes of a reliable connection to memory that is not pinned.
 */
static inline bool rdma_has_odp(const struct ibv_odp_caps *caps)
{
	return (caps->general_caps & IBV_ODP_SUPPORT) != 0 &&
	       (caps->per_transport_caps.rc_odp_caps & IBV_ODP_SUPPORT_WRITE) != 0;
}

/* ---- connection.c ---------------------------------------------------------------------------- */

/* Private data of a connection request: all of the 56 bytes that there are. */
#define RDMA_HELLO_BYTES 56
void rdma_hello_encode(const struct hello_lane *hello, uint8_t bytes[RDMA_HELLO_BYTES]);
int rdma_hello_decode(const uint8_t bytes[RDMA_HELLO_BYTES], struct hello_lane *hello);

/*
 * Source: connects to the rail that @hello's number falls to. Once the queue pair exists and before
 * the peer can send, @prepare is called to post receives. The shape's channels are chosen by
 * @prepare's owner through @shape(), because the rail is known only then.
 */
struct rdma_connection_ops {
	int (*shape)(void *ctx, const struct rdma_rail *rail, struct rdma_shape *shape);
	int (*prepare)(void *ctx, struct rdma_connection *conn);
};

int rdma_connection_connect(struct rdma_session *session, const struct hello_lane *hello,
			    uint64_t deadline, const struct rdma_connection_ops *ops, void *ctx,
			    struct rdma_connection *conn);

/*
 * Destination: makes a queue pair on @id, which asked for a connection, and answers; the rest comes
 * as a CM event. @id is the connection's on success only, and its context is the connection then.
 */
int rdma_connection_accept(struct rdma_session *session, unsigned int listener_rail,
			   struct rdma_cm_id *id, const struct rdma_connection_ops *ops, void *ctx,
			   struct rdma_connection *conn);

/*
 * Established: timers that only now can be set, no more access than is needed; the identifier gets
 * a channel of its own.
 */
int rdma_connection_settle(struct rdma_connection *conn, unsigned int access);

/*
 * Access of the peer to this side's memory over this connection, IBV_ACCESS_REMOTE_*. Any time
 * after settling.
 */
int rdma_connection_allow(struct rdma_connection *conn, unsigned int access);

/*
 * Ends all that is under way and all that comes: it is flushed. Any thread. An error when the
 * device refuses: then it goes on.
 */
int rdma_connection_break(struct rdma_connection *conn);

/* Breaks the connection if need be, and frees. Accepts a connection that is all zero. */
void rdma_connection_close(struct rdma_connection *conn);

/* The CM's news of it: 0, or the error that ends the session, with @what saying why. */
int rdma_connection_event(struct rdma_connection *conn, const char **what);

/* ---- lane.c, arrive.c ------------------------------------------------------------------------ */

struct rdma_lane;

struct rdma_connection *rdma_lane_connection(struct lane *lane);
int rdma_lane_connect(struct vmferry_session *session, const struct hello_lane *hello,
		      uint64_t deadline, struct lane **lane);
/* Destination: @id asked to be this lane. */
int rdma_lane_accept(struct rdma_session *session, unsigned int number, struct rdma_cm_id *id,
		     struct lane **lane);
int rdma_lane_write(struct lane *lane, const struct vmferry_write *writes, unsigned int count,
		    uint64_t deadline);
int rdma_lane_fence(struct lane *lane, uint32_t epoch, uint64_t deadline);
int rdma_lane_fence_wait(struct lane *lane, uint32_t epoch, uint64_t deadline);
int rdma_lane_probe(struct lane *lane);
int rdma_lane_read(struct lane *lane, uint8_t *to, uint64_t address, uint64_t length,
		   uint64_t deadline);
int rdma_lane_fd(const struct lane *lane);
int rdma_lane_node(const struct lane *lane);
void rdma_lane_shutdown(struct lane *lane);
void rdma_lane_close(struct lane *lane);

/* Destination, poll_lock held: takes in fences that have come; 1 if there was anything. */
int rdma_lane_poll(struct lane *lane);

/* ---- memory.c, registrar.c, keys.c ----------------------------------------------------------- */

int rdma_registrar_new(struct rdma_session *session);
void rdma_registrar_free(struct rdma_session *session);
int rdma_keys_new(struct rdma_session *session);
void rdma_keys_free(struct rdma_session *session);

int rdma_memory_register(struct vmferry_memory *memory);
void rdma_memory_deregister(struct vmferry_memory *memory);
int rdma_memory_discard(struct vmferry_memory *memory, uint64_t offset, uint64_t length);
int rdma_memory_prepare(struct vmferry_memory *memory, uint64_t offset, uint64_t length);
void rdma_registration_stats(const struct vmferry_session *session,
			     struct vmferry_registration_stats *stats);

/*
 * Source, lane threads: the key for @offset on @rail, pinning its chunk now if nobody has; *@end is
 * the first offset that the key does not cover.
 */
int rdma_local_key(struct vmferry_memory *memory, const struct rdma_rail *rail, uint64_t offset,
		   uint32_t *key, uint64_t *end);

/*
 * Source, lane threads: the destination's key for @address on its rail number @rail; *@end is the
 * first address that it does not cover (0: the end of all addresses). Where there is none yet it is
 * asked for and waited for: -ETIMEDOUT at the deadline, -EACCES if the destination has no such
 * memory (the session has failed then), or the session's error. *@generation changes when any key
 * becomes invalid.
 */
int rdma_remote_key(struct rdma_session *session, unsigned int rail, uint64_t address,
		    uint64_t deadline, uint32_t *key, uint64_t *end);
uint64_t rdma_remote_generation(const struct rdma_session *session);

/*
 * Messages of the transport's own on the control connection, above the callers' types. Each side
 * checks every field.
 *   KEYS     destination: {u64 address, u64 length, u32 count, u32 key x count} ... these addresses
 *            can be written to
 *   GONE     destination: {u64 address, u64 length} these not any more
 *   WANT     source: {u64 address}	a key for this address, please
 *   NONE     destination: {u64 address}	there is no memory that may be written to
 *   BEAT     both: nothing		alive
 *   BYE      both: nothing		the session is closed on this side, and nothing is wrong
 */
enum rdma_control {
	RDMA_CONTROL_KEYS = 0x10000,
	RDMA_CONTROL_GONE,
	RDMA_CONTROL_WANT,
	RDMA_CONTROL_NONE,
	RDMA_CONTROL_BEAT,
	RDMA_CONTROL_BYE,
};

/* Service thread: a message of KEYS to NONE has come. Ends the session if it makes no sense. */
int rdma_keys_take(struct rdma_session *session, const struct vmferry_message *message);
int rdma_registrar_take(struct rdma_session *session, const struct vmferry_message *message);
/* The session has failed: wakes who waits for keys or chunks. Any thread. */
void rdma_keys_wake(struct rdma_session *session);

/* ---- mailbox.c ------------------------------------------------------------------------------- */

int rdma_mailbox_connect(struct rdma_session *session, const struct hello_lane *hello,
			 uint64_t deadline);
int rdma_mailbox_accept(struct rdma_session *session, struct rdma_cm_id *id);
struct rdma_connection *rdma_mailbox_connection(struct rdma_session *session);
int rdma_mailbox_send(struct vmferry_session *session, uint32_t type, const void *data,
		      size_t length, uint64_t deadline);
/* poll_lock held: takes in messages and completions; 1 if there was anything. */
int rdma_mailbox_poll(struct rdma_session *session);
/*
 * What was sent has been acknowledged by the peer's NIC, or @deadline has passed, or the session
 * has failed otherwise.
 */
void rdma_mailbox_drain(struct rdma_session *session, uint64_t deadline);
void rdma_mailbox_wake(struct rdma_session *session);
/* Before busy polling: what the next long message needs is made ready. */
void rdma_mailbox_prepare(struct rdma_session *session);
void rdma_mailbox_free(struct rdma_session *session);

/* ---- service.c, poll.c ----------------------------------------------------------------------- */

int rdma_service_start(struct vmferry_session *session); /* ops->ready */
void rdma_service_stop(struct rdma_session *session);
void rdma_service_wake(struct rdma_session *session);
bool rdma_poll(struct vmferry_session *session); /* ops->poll */
/*
 * A turn of spinning in vain. Now and then it yields: who has nothing to do may stand in the way of
 * who has, of the peer where both are on one host, or of a soft device's thread.
 */
void rdma_spin(uint64_t now);
void rdma_busy_poll(struct vmferry_session *session, uint64_t until);
static inline bool rdma_busy_polls(const struct rdma_session *session, uint64_t now)
{
	return atomic_load_explicit(&session->busy_poll_until, memory_order_relaxed) > now;
}

/* ---- error.c --------------------------------------------------------------------------------- */

/*
 * Ends the session with a completion's error. One that was only flushed does not end it at once: it
 * is noted in the session and counts as -ECONNRESET.
 */
int rdma_wc_failed(struct vmferry_session *session, const char *part, unsigned int number,
		   const struct ibv_wc *wc);

#endif
