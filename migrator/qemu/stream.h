/* SPDX-License-Identifier: MIT */
/*
 * Parser of the main channel of QEMU's migration stream, to move RAM by another road than the
 * stream. It takes the stream in pieces of any size, allocates nothing, and reports RAM records and
 * all other bytes in their order. Whatever it does not know, it reports before the first page,
 * while the whole migration can still be passed through as it is.
 */
#ifndef QEMU_STREAM_H
#define QEMU_STREAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define STREAM_ID_MAX	   256 /* block names: u8 length, plus NUL */
#define STREAM_BLOCKS_MAX  256
#define STREAM_REASON_MAX  320
#define STREAM_PAGE_SIZE   4096u /* a migration with another target page size passes */
#define STREAM_PAYLOAD_MAX 8192u /* of a record */
/* be64 offset and flags, u8 length and name, be32 length of compressed data */
#define STREAM_HEADER_MAX (8 + 1 + (STREAM_ID_MAX - 1) + 4)

#define STREAM_FLAG_ZERO     0x002u
#define STREAM_FLAG_PAGE     0x008u
#define STREAM_FLAG_EOS	     0x010u
#define STREAM_FLAG_XBZRLE   0x040u
#define STREAM_FLAG_COMPRESS 0x100u
#define STREAM_FLAG_FLUSH    0x200u

struct stream_block {
	char name[STREAM_ID_MAX];
	uint64_t bytes; /* a multiple of STREAM_PAGE_SIZE, not 0 */
};

enum stream_section { STREAM_START, STREAM_PART, STREAM_END };

enum stream_kind {
	/* All input was consumed, more is needed. */
	STREAM_MORE,
	/* item.bytes are to be handed on as they are, in order. */
	STREAM_BYTES,
	/* The list of blocks in ram's START is complete; its bytes were given as BYTES before. */
	STREAM_BLOCKS,
	/* A record of RAM data: its header was consumed and not given as BYTES. */
	STREAM_RECORD,
	/* This migration cannot be offloaded, stream.reason says why. Only BYTES follow. */
	STREAM_PASS,
	/* Behind the footer of ram's END: only BYTES, opaque device state, follow. */
	STREAM_TAIL,
};

struct stream_record {
	enum stream_section section;
	uint32_t flags; /* exactly one STREAM_FLAG_* */
	/* For ZERO, PAGE, XBZRLE, COMPRESS: offset + STREAM_PAGE_SIZE <= the block's bytes. */
	unsigned int block;
	uint64_t offset;
	/*
	 * How the record's head reads when it is handed on: CONTINUE cleared and the block's name
	 * written, with the byte of ZERO and the length fields of XBZRLE and COMPRESS. In the
	 * parser, until the next call.
	 */
	const uint8_t *header;
	size_t header_length;
	/*
	 * Bytes that follow in the input. The caller takes them: the parser must not be given them.
	 */
	size_t payload;
};

struct stream_item {
	enum stream_kind kind;
	const uint8_t *bytes; /* in the input or in the parser, until the next call */
	size_t length;
	struct stream_record record;
};

struct stream {
	/* For reports, valid at any time. */
	char machine[STREAM_ID_MAX];	/* the machine type, e.g. "pc-i440fx-10.0" */
	char reason[STREAM_REASON_MAX]; /* why it passes or has failed, e.g. "section 'vfio'" */
	bool return_path_known;		/* a section has begun: commands come before */
	bool return_path;		/* the source expects answers (COMMAND 1) */
	bool switchover_start;		/* COMMAND 11 came: machine types 10.0 and later send it */
	bool ignore_shared;		/* x-ignore-shared: pages of shared blocks do not come */
	bool passing;			/* PASS was reported */
	bool finished;			/* TAIL was reported */
	bool committed;	   /* a PAGE or ZERO record was reported: the unknown is an error now */
	uint32_t ram_id;   /* number of the ram section */
	uint64_t sections; /* PART sections of ram */
	uint64_t flushes;  /* FLUSH records */
	uint64_t rounds;   /* passes over memory, told by the order of pages; 0 with multifd */
	unsigned int block_count;
	struct stream_block blocks[STREAM_BLOCKS_MAX];

	/* The parser's own: @have of the @want bytes that @state reads are in @field. */
	unsigned int state;
	size_t want;
	size_t have;
	uint8_t field[STREAM_ID_MAX];
	enum stream_kind pending; /* to be reported next */
	int error;
	uint8_t type;			 /* of the element that is read */
	unsigned int body;		 /* the state that reads the subsection's data */
	uint32_t capabilities;		 /* still to come */
	uint64_t left;			 /* bytes of blocks still to come in the list */
	uint8_t held[STREAM_HEADER_MAX]; /* the record's header as it came, given back by PASS */
	size_t held_length;

	/* The record that is read or was reported last. */
	enum stream_section section;
	uint32_t flags;
	uint64_t offset;
	unsigned int block; /* STREAM_BLOCKS_MAX: no record has named one */
	uint64_t last_offset;
	unsigned int last_block;
	uint8_t header[STREAM_HEADER_MAX]; /* always has the name of @block */
	size_t header_name;		   /* the length of its fields up to the name's end */
	size_t header_length;
	size_t payload;
};

void stream_init(struct stream *s);

/*
 * Consumes bytes of @data, returns how many (possibly 0 with an item) and fills @item. Must be
 * called again with the bytes that were not consumed until it reports MORE; after a RECORD, with
 * the bytes behind the record's payload. Returns -EPROTO with the cause in s->reason, also in all
 * later calls, for what is unknown after a PAGE or ZERO record was reported.
 */
ssize_t stream_next(struct stream *s, const uint8_t *data, size_t length, struct stream_item *item);

#endif
