/* SPDX-License-Identifier: MIT */
/*
 * Inside the parser of the migration stream: its states, and the handlers of those that read RAM
 * data.
 */
#ifndef QEMU_STREAM_STATES_H
#define QEMU_STREAM_STATES_H

#include "stream.h"

enum state {
	STATE_MAGIC,
	STATE_VERSION,
	STATE_CONFIGURATION,
	STATE_MACHINE,
	STATE_AFTER_CONFIGURATION,
	STATE_SUBSECTION_NAME_LENGTH,
	STATE_SUBSECTION_NAME,
	STATE_SUBSECTION_VERSION,
	STATE_PAGE_BITS,
	STATE_CAPABILITY_COUNT,
	STATE_CAPABILITY_LENGTH,
	STATE_CAPABILITY,
	STATE_UUID,
	STATE_ELEMENT,
	STATE_COMMAND,
	STATE_COMMAND_DATA,
	STATE_SECTION_NUMBER,
	STATE_SECTION_NAME_LENGTH,
	STATE_SECTION_NAME,
	STATE_SECTION_VERSION,
	STATE_BLOCK_NAME_LENGTH,
	STATE_BLOCK_NAME,
	STATE_BLOCK_BYTES,
	STATE_PART_NUMBER,
	STATE_RECORD,
	STATE_RECORD_NAME_LENGTH,
	STATE_RECORD_NAME,
	STATE_RECORD_FILL,
	STATE_RECORD_XBZRLE,
	STATE_RECORD_COMPRESS,
	STATE_FOOTER,
	STATE_OPAQUE,
};

struct rule {
	size_t bytes;			 /* of the field; 0: the handler before announces it */
	bool held;			 /* part of a record's header */
	int (*handle)(struct stream *s); /* returns the kind to report, MORE for none, or -EPROTO */
};

/* Reads the field that the state has a fixed length for, or one of @bytes. */
void stream_enter(struct stream *s, enum state state);
void stream_enter_sized(struct stream *s, enum state state, size_t bytes);

/*
 * To be returned for whatever is unknown or malformed: passes the whole migration through while
 * that is possible, fails it after that.
 */
__attribute__((format(printf, 2, 3))) int stream_refuse(struct stream *s, const char *format, ...);

/*
 * The field as a string; false if it is empty or has a NUL inside. The field's length is below
 * STREAM_ID_MAX.
 */
bool stream_field_to_name(const struct stream *s, char name[STREAM_ID_MAX]);

int stream_read_block_name_length(struct stream *s);
int stream_read_block_name(struct stream *s);
int stream_read_block_bytes(struct stream *s);
int stream_read_record(struct stream *s);
int stream_read_record_name(struct stream *s);
int stream_read_record_fill(struct stream *s);
int stream_read_record_xbzrle(struct stream *s);
int stream_read_record_compress(struct stream *s);

#endif
