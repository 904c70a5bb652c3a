/* SPDX-License-Identifier: MIT */
/*
 * What the two ends of the adaptor say to each other, as messages on a session's control
 * connection. Integers are big-endian, as in QEMU's own stream.
 *
 * The bytes of a QEMU connection travel as PEER_BYTES; pages that are offloaded travel by lanes.
 * PEER_FENCE in a connection's bytes says that those behind it may be given to QEMU only when all
 * lanes have reached that epoch.
 */
#ifndef QEMU_PEER_H
#define QEMU_PEER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "placement.h"
#include "stream.h"

#define PEER_VERSION	     1u
#define PEER_PATH_MAX	     108 /* of sockaddr_un, with its NUL */
#define PEER_REASON_MAX	     256
#define PEER_CONNECTIONS_MAX 32u
#define PEER_EXTENTS_MAX     256u

enum peer_message {
	PEER_HELLO = 1, /* source, first of all: struct peer_hello */
	PEER_BLOCKS,	/* source: struct peer_blocks; answered with PEER_PLACED */
	PEER_PLACED,	/* destination: struct peer_placed */
	PEER_STAGED,	/* source: struct peer_staged; answered with PEER_FREED */
	PEER_FREED,	/* destination: u32 reader, u32 segment */
	PEER_AHEAD,	/* source: u32 block, u32 page, u32 count: these will probably come soon */
	PEER_FENCED,	/* destination: u32 epoch of the last PEER_FENCE, which was passed */
	/* destination, last of all: its report as JSON text; answered with PEER_DONE */
	PEER_RESULT,
	PEER_DONE, /* source, last of all: it was completed, and the destination ends the session */
	PEER_BEAT, /* both, now and then */
	PEER_FAILED, /* both: the reason as text; the migration is over */
	/* Of a connection, whose number is added. */
	PEER_OPEN = 0x100,   /* source: no data */
	PEER_BYTES = 0x200,  /* both: bytes to be given to QEMU */
	PEER_CLOSE = 0x300,  /* both: QEMU has closed it; no data */
	PEER_CREDIT = 0x400, /* both: u32, so much of what was sent has been given to QEMU */
	PEER_FENCE = 0x500,  /* source: u32 epoch, u32 last: 1 behind the last page of all */
	PEER_MASK = 0xff00,
};

struct peer_hello {
	uint32_t version;
	char path[PEER_PATH_MAX]; /* of the source's socket, which libvirt uses on both hosts */
};

/* What the source has learned of the stream before the first page. */
struct peer_blocks {
	bool return_path; /* the stream has one, or it is not known whether it has */
	bool passing;	  /* nothing will be offloaded: @reason */
	char reason[PEER_REASON_MAX];
	unsigned int count;
	struct placement_block blocks[STREAM_BLOCKS_MAX];
};

struct peer_target {
	enum placement_kind kind;
	char reason[PLACEMENT_REASON_MAX];
	/* Where the memory may hold something other than zeroes before the first page comes. */
	unsigned int extent_count;
	struct placement_extent extents[PEER_EXTENTS_MAX];
};

struct peer_placed {
	/* QEMU was started without -S: it runs the guest as soon as it has loaded it */
	bool autostart;
	unsigned int count;
	struct peer_target targets[STREAM_BLOCKS_MAX];
};

/* Pages that were written to the staging memory and are to be copied from there, in this order. */
#define PEER_STAGED_MAX	 512u
#define PEER_STAGED_ZERO UINT32_MAX

struct peer_staged_page {
	uint32_t block;
	/* offset in the reader's staging memory, or PEER_STAGED_ZERO: a page of zeroes */
	uint32_t at;
	uint64_t offset; /* in the block */
};

struct peer_staged {
	uint32_t epoch; /* the pages are there when all lanes have reached it */
	uint32_t reader;
	uint32_t segment;
	uint32_t count;
	struct peer_staged_page pages[PEER_STAGED_MAX];
};

/*
 * Where memory is in the session. A reader is a QEMU connection of the source: what it reads goes
 * into segments of a ring, and for blocks that cannot be mapped into the same place of a ring at
 * the destination.
 */
#define PEER_SEGMENT_BYTES (1u << 20)
#define PEER_SEGMENTS	   8u
#define PEER_RING_BYTES	   ((uint64_t)PEER_SEGMENT_BYTES * PEER_SEGMENTS)

static inline uint64_t peer_block_address(unsigned int block)
{
	return (uint64_t)block << 44;
}

static inline uint64_t peer_staging_address(unsigned int reader)
{
	return ((uint64_t)STREAM_BLOCKS_MAX << 44) + reader * PEER_RING_BYTES;
}

#define PEER_STAGED_BYTES_MAX (16 + 16 * PEER_STAGED_MAX)

/*
 * Encoders write to @out, which has room for the largest, and return the length. Decoders return 0
 * or -EPROTO, and check every length and count; offsets and block numbers are the caller's to
 * check.
 */
size_t peer_hello_encode(const struct peer_hello *hello, uint8_t out[8 + PEER_PATH_MAX]);
int peer_hello_decode(const void *data, size_t length, struct peer_hello *hello);

/* These two allocate *@out, which the caller frees; 0 or -ENOMEM. */
int peer_blocks_encode(const struct peer_blocks *blocks, uint8_t **out, size_t *length);
int peer_blocks_decode(const void *data, size_t length, struct peer_blocks *blocks);
int peer_placed_encode(const struct peer_placed *placed, uint8_t **out, size_t *length);
int peer_placed_decode(const void *data, size_t length, struct peer_placed *placed);

size_t peer_staged_encode(const struct peer_staged *staged, uint8_t out[PEER_STAGED_BYTES_MAX]);
int peer_staged_decode(const void *data, size_t length, struct peer_staged *staged);

/* @count numbers of 32 bits. */
void peer_numbers_encode(const uint32_t *numbers, unsigned int count, uint8_t *out);
int peer_numbers_decode(const void *data, size_t length, uint32_t *numbers, unsigned int count);

#endif
