/* SPDX-License-Identifier: MIT */
/*
 * Registered memory as its own parts see it: cut into chunks, each of them made known to the
 * devices by itself, so that writing can begin with the first and what is never written to is never
 * pinned.
 *
 *   memory.c     where chunks begin and end, and what the rest of the transport calls
 *   registrar.c  what is to be pinned, the threads that do it, and what the peer is told of it
 *   chunk.c      populating, pinning and letting go of one chunk
 *   memlock.c    how much this process may pin
 *
 * LOCKS    rdma_registrar.lock is for all that is said to be under it. Whoever takes it may hold
 *          the lock of the session's table of memory, and nothing is taken under it. It is never
 *          held while a device or the peer is at work, nor over session_fail(), which takes it to
 *          wake those who wait.
 * ORDER    A chunk's regions and @pinned are written by who has set it to PINNING and are read by
 *          others once they have seen it READY: hence release and acquire. Lanes look at the state
 *          without the lock.
 */
#ifndef RDMA_CHUNK_H
#define RDMA_CHUNK_H

#include <sys/queue.h>

#include "transport/rdma/rdma.h"

#define REGISTRAR_THREADS_MAX 4

enum chunk_state {
	CHUNK_EMPTY,
	CHUNK_QUEUED,
	CHUNK_PINNING, /* one thread's; at the destination until the source has been told */
	CHUNK_READY,
	/* and with it the session, unless the memory was deregistered or revoked meanwhile */
	CHUNK_FAILED,
};

struct rdma_chunk {
	struct rdma_memory *memory;
	uint64_t offset; /* in the memory */
	uint64_t length;
	_Atomic enum chunk_state state; /* written under the lock */
	bool wanted;			/* which queue it is in; under the lock */
	TAILQ_ENTRY(rdma_chunk) queued; /* under the lock */
	struct ibv_mr *regions[VMFERRY_RAILS_MAX];
	bool pinned; /* by any of the regions: on demand, none is */
};

TAILQ_HEAD(chunk_queue, rdma_chunk);

/* vmferry_memory.transport */
struct rdma_memory {
	struct vmferry_memory *memory;
	struct rdma_registrar *registrar;
	unsigned int shift;   /* a chunk covers 1 << shift session addresses, aligned to that */
	unsigned int running; /* chunks that are PINNING; under the lock */
	atomic_bool going;
	size_t count;
	struct rdma_chunk chunks[];
};

struct rdma_registrar {
	struct rdma_session *session;
	_Atomic uint64_t bytes; /* relaxed, as the next three */
	_Atomic uint64_t regions;
	_Atomic uint64_t ns;
	_Atomic unsigned int begun; /* threads */
	atomic_bool odp_refused;
	atomic_bool stop; /* written under the lock */
	bool warned;	  /* of the limit; who registers memory, one thread at a time */

	pthread_mutex_t lock; /* for the fields below */
	pthread_cond_t work;  /* something is queued, or the threads have to end */
	pthread_cond_t done;  /* a chunk is not PINNING any more, or the session has failed */
	struct chunk_queue wanted;
	struct chunk_queue prepared;
	uint64_t registered; /* bytes of all memory */
	uint64_t taken;	     /* bytes of all chunks that are not EMPTY */
	bool refused;	     /* the peer has asked for what is not there */
	unsigned int thread_count;
	pthread_t threads[REGISTRAR_THREADS_MAX];
};

static inline enum chunk_state chunk_state(const struct rdma_chunk *chunk)
{
	return atomic_load_explicit(&chunk->state, memory_order_acquire);
}

/* ---- registrar.c ----------------------------------------------------------------------------- */

/* Starts the threads if they do not run. The rails are there. */
int registrar_start(struct rdma_registrar *registrar);

/*
 * Lock held. To be pinned by one of the threads; one that is @wanted before all that are not. Does
 * nothing if it is past that.
 */
void registrar_queue(struct rdma_registrar *registrar, struct rdma_chunk *chunk, bool wanted);

/*
 * Lock held, given up meanwhile. Pins a chunk that is EMPTY or QUEUED and tells the source; the
 * session has failed otherwise.
 */
int registrar_pin(struct rdma_registrar *registrar, struct rdma_chunk *chunk);

/*
 * Lock held, given up meanwhile. From its return on nobody works on this memory, and nobody will.
 */
void registrar_withdraw(struct rdma_registrar *registrar, struct rdma_memory *memory);

/* Destination: the source shall not write to it any more. */
void registrar_tell_gone(struct rdma_registrar *registrar, const struct vmferry_memory *memory);

void registrar_wake(struct rdma_registrar *registrar);

/* ---- chunk.c --------------------------------------------------------------------------------- */

/*
 * Populates (destination) and registers on every rail. Ends the session if it cannot, and logs why.
 */
int chunk_pin(struct rdma_chunk *chunk);

/* Takes it from the devices, as far as it was there. */
void chunk_unpin(struct rdma_chunk *chunk);

/* ---- memlock.c ------------------------------------------------------------------------------- */

#define MEMLOCK_REMEDY                                                                        \
	"each rail's pages count: raise it (ulimit -l unlimited, LimitMEMLOCK=infinity in a " \
	"unit) or give CAP_IPC_LOCK"
#define MEMLOCK_TEXT 32

/*
 * Whether so many bytes, all that is pinned together, can be pinned on every rail: false if the
 * kernel is sure to refuse.
 */
bool memlock_allows(const struct rdma_session *session, uint64_t bytes);

/* The limit, in words. */
void memlock_text(char text[MEMLOCK_TEXT]);

#endif
