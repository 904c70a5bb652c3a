/* SPDX-License-Identifier: MIT */
/*
 * A source's connection, read into the segments of a ring. What was read and not consumed yet lies
 * in the current segment in one piece; when that is full, the rest is carried over to the next one.
 */
#ifndef QEMU_READER_H
#define QEMU_READER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "relay.h"
#include "ring.h"

struct reader {
	struct connection *connection;
	struct ring *ring;
	size_t at;   /* in the current segment: what is consumed */
	size_t have; /* what is there */
};

/* The bytes that are there, and how many. */
static inline const uint8_t *reader_data(const struct reader *r)
{
	return ring_segment(r->ring) + r->at;
}

static inline size_t reader_left(const struct reader *r)
{
	return r->have - r->at;
}

/*
 * Gives all that was gathered to lanes and peer, then reads some more: 1, 0 when QEMU has closed,
 * or the relay's error.
 */
int reader_fill(struct reader *r);

/* Reads until @length bytes are there, at most STREAM_PAYLOAD_MAX of them: as above. */
int reader_need(struct reader *r, size_t length);

/* Hands on what is there, and then all that follows. */
int reader_copy(struct reader *r);

#endif
