/* SPDX-License-Identifier: MIT */
/*
 * A reader's registered memory: bytes are read from QEMU's connection into segments, and pages are
 * written from there by lanes. A segment is used again when all that was written from it is placed.
 *
 * QEMU takes what it could write for what the link has moved, and predicts the blackout from that.
 * So the ring keeps no more under way than the link moves in about a millisecond: its window
 * shrinks while even the fastest segments of some time wait longer than that (a standing queue, as
 * CoDel, RFC 8289, tells it from a burst), and grows while they do not.
 *
 * THREADS  A ring is its reader's, but for ring_freed().
 */
#ifndef QEMU_RING_H
#define QEMU_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "offload.h"

#define RING_BATCH 128u

struct segment {
	uint32_t *epochs; /* of the fence behind it on each lane, 0: nothing was written there */
	uint64_t bytes;	  /* of pages */
	bool waits;	  /* it was given to the lanes and is not known to be placed */
	uint64_t given_ns;
	bool staged;	     /* it is free when the destination has copied its pages */
	unsigned int copies; /* lists that it still has to copy: the relay's lock */
};

struct lane_batch {
	struct vmferry_write writes[RING_BATCH];
	unsigned int count;
	bool touched; /* the segment has writes on this lane */
};

struct ring {
	struct offload *offload;
	unsigned int reader;
	uint8_t *base;
	struct vmferry_memory *memory;
	struct segment segments[PEER_SEGMENTS];
	unsigned int current;
	unsigned int oldest;  /* of those that wait */
	uint64_t under_way;   /* bytes of those */
	uint64_t window;      /* what that may be */
	uint64_t fastest_ns;  /* a segment's way, ever */
	uint64_t interval_ns; /* when the present interval of the window's control began */
	uint64_t interval_fastest_ns;
	struct lane_batch *batches;
	struct peer_staged staged;
	struct ring_counts {
		uint64_t pages;
		uint64_t zero_pages;
		uint64_t zero_written;
	} counts; /* not yet in offload->counters */
};

/* Allocates and registers; an error has ended the relay. */
int ring_open(struct offload *offload, unsigned int reader, struct ring **ring);
void ring_close(struct ring **ring);

/* The current segment's memory, PEER_SEGMENT_BYTES of it. */
uint8_t *ring_segment(const struct ring *ring);

/* How much of a segment should be used before it is given to the lanes. */
size_t ring_segment_fill(const struct ring *ring);

/*
 * A page in the current segment at @data goes to its block, which is not a FORWARD one. An error
 * has ended the relay.
 */
int ring_page(struct ring *ring, const uint8_t *data, unsigned int block, uint64_t offset);

/* A page of zeroes. */
int ring_zero(struct ring *ring, unsigned int block, uint64_t offset);

/* Gives what was gathered to the lanes. */
int ring_flush(struct ring *ring);

/*
 * The same, and tells the destination of what was staged: from here on other readers may write
 * newer copies.
 */
int ring_sync(struct ring *ring);

/*
 * The current segment is done: sets its fences, and makes another one current as soon as there is a
 * free one.
 */
int ring_next(struct ring *ring);

/*
 * The destination has copied what was staged in this segment. Any thread, with the relay's lock
 * held.
 */
int ring_freed(struct ring *ring, unsigned int segment);

#endif
