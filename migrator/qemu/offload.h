/* SPDX-License-Identifier: MIT */
/*
 * The source's way of pages to the destination QEMU's memory: which block is where, and the lanes,
 * which several readers share.
 *
 * ORDER    A page always goes over the same lane, chosen by its place, so that a newer copy cannot
 *          be overtaken by an older one. Whoever writes a newer copy does so after the older one
 *          was given to the lane, see sync.h.
 * THREADS  A lane belongs to one thread at a time: each has a lock. What is set up by
 *          offload_place() does not change.
 */
#ifndef QEMU_OFFLOAD_H
#define QEMU_OFFLOAD_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/transport.h>

#include "peer.h"
#include "relay.h"

/*
 * Pages next to each other share a lane in stripes: as long as the longest write of RDMA, or a few
 * of them.
 */
#define OFFLOAD_STRIPE_SHIFT 18u
#define OFFLOAD_ZEROES_BYTES (1u << OFFLOAD_STRIPE_SHIFT)

struct offload_target {
	enum placement_kind kind;
	uint64_t bytes;
	/*
	 * A bit for each page: it may hold something other than zeroes at the destination. Any
	 * reader's.
	 */
	_Atomic uint64_t *written;
	struct vmferry_memory
		*live; /* the source QEMU's own memory, NULL: pages are written from rings */
	/*
	 * Where first writes go on in one piece, the destination is told ahead. Readers share this
	 * without a lock: a number that is lost now and then costs a hint.
	 */
	_Atomic uint64_t chunk;	      /* where the last first write was */
	_Atomic uint32_t chunk_pages; /* first writes there */
	_Atomic uint32_t run;	      /* chunks before it that were mostly written */
};

/* Any thread adds, any reads. */
struct offload_counters {
	_Atomic uint64_t pages;	       /* written by lanes */
	_Atomic uint64_t zero_pages;   /* pages of zeroes that came */
	_Atomic uint64_t zero_written; /* of these, how many had to be written */
	_Atomic uint64_t stall_ns;     /* readers waited for a free segment */
};

struct offload {
	struct relay *relay;
	struct vmferry_session *session;
	unsigned int lanes;
	pthread_mutex_t *lane_locks;
	/*
	 * The last fence's, of all lanes: drawn with the lane's lock held, so that it grows on
	 * each.
	 */
	_Atomic uint32_t epoch;
	bool over;		       /* behind the last fence, all lanes' locks */
	pthread_mutex_t register_lock; /* registering is one thread's at a time */
	uint8_t *zeroes;
	struct vmferry_memory *zeroes_memory;
	unsigned int target_count;
	struct offload_target *targets;
	struct offload_counters counters;
};

int offload_init(struct offload *o, struct relay *relay);
void offload_free(struct offload *o);

/* Where the destination has said that the blocks are. -EPROTO for what does not fit to @blocks. */
int offload_place(struct offload *o, const struct stream_block *blocks, unsigned int count,
		  const struct peer_placed *placed);

/* Whether pages of any block are offloaded at all. */
bool offload_any(const struct offload *o);

/* Registers @bytes at @base as a source of writes. An error has ended the relay. */
int offload_register(struct offload *o, void *base, uint64_t bytes, uint64_t address,
		     struct vmferry_memory **memory);

unsigned int offload_lane_of(const struct offload *o, uint64_t address);

/* A page is about to be written. An error has ended the relay. */
int offload_page_comes(struct offload *o, unsigned int block, uint64_t offset);

/* Whether the page may hold something else than zeroes at the destination. */
bool offload_page_written(struct offload *o, unsigned int block, uint64_t offset);

/* Gives all writes to the lane; the array is the callee's scratch. An error has ended the relay. */
int offload_write(struct offload *o, unsigned int lane, struct vmferry_write *writes,
		  unsigned int count);

/* A fence behind all that was given to this lane; behind all on all lanes, with the same epoch. */
int offload_fence(struct offload *o, unsigned int lane, uint32_t *epoch);
int offload_fence_all(struct offload *o, uint32_t *epoch);

/*
 * The last one. The destination revokes the lanes when it has reached it, and over RDMA a probe
 * behind that would end the session: from here on none is sent.
 */
int offload_fence_last(struct offload *o, uint32_t *epoch);

/*
 * Asks lanes that nobody uses at this moment for a sign of life of their path. An error has ended
 * the relay.
 */
int offload_probe(struct offload *o);

/* Waits until the destination has said that the lane's fence was reached. */
int offload_fence_wait(struct offload *o, unsigned int lane, uint32_t epoch);

#endif
