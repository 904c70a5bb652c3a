/* SPDX-License-Identifier: MIT */
/*
 * A stream, or a part of one, given to the parser in pieces of any size. Kept are what was
 * reported, what a relay would hand on, and the same as QEMU wrote it, with CONTINUE in place of a
 * block's name: that must be the input.
 */
#ifndef TEST_QEMU_REPLAY_H
#define TEST_QEMU_REPLAY_H

#include "migrator/qemu/stream.h"

struct bytes {
	uint8_t *data;
	size_t length, room;
};

void bytes_add(struct bytes *b, const void *data, size_t length);
void bytes_free(struct bytes *b);

/* Everything that was reported but BYTES, and behind how many bytes of those handed on. */
struct replay_event {
	enum stream_kind kind;
	enum stream_section section;
	uint32_t flags;
	unsigned int block;
	uint64_t offset;
	size_t payload;
	size_t at;
};

struct replay {
	struct stream stream;
	struct bytes out;	/* handed on */
	struct bytes raw;	/* as QEMU wrote it */
	struct bytes events;	/* struct replay_event */
	size_t payload;		/* of the last record, still to come */
	bool payload_elsewhere; /* not in what is fed: keeps inputs short for fuzzing */
	unsigned int block;	/* of the last record that is about a page */
	int error;
};

struct replay *replay_new(void);
void replay_free(struct replay **r);

/* Asserts whatever must hold at any place of any stream. Ignores what comes after an error. */
void replay_feed(struct replay *r, const uint8_t *data, size_t length);

const struct replay_event *replay_events(const struct replay *r, size_t *count);
size_t replay_count(const struct replay *r, enum stream_kind kind, uint32_t flags);

/* Asserts that both have come to the same. */
void replay_expect_same(const struct replay *r, const struct replay *other, const char *what);

#endif
