/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrator/qemu/bytes.h"
#include "must.h"
#include "replay.h"

#define FLAG_CONTINUE 0x20u

#define FLAGS_PAGE (STREAM_FLAG_ZERO | STREAM_FLAG_PAGE | STREAM_FLAG_XBZRLE | STREAM_FLAG_COMPRESS)

void bytes_add(struct bytes *b, const void *data, size_t length)
{
	if (b->length + length > b->room) {
		b->room = 2 * (b->length + length);
		b->data = realloc(b->data, b->room);
		must(b->data != NULL);
	}
	if (length > 0)
		memcpy(b->data + b->length, data, length);
	b->length += length;
}

void bytes_free(struct bytes *b)
{
	free(b->data);
	*b = (struct bytes){0};
}

struct replay *replay_new(void)
{
	struct replay *r = calloc(1, sizeof(*r));

	must(r != NULL);
	/* The parser must not count on memory that was zeroed. */
	memset(&r->stream, 0xa5, sizeof(r->stream));
	stream_init(&r->stream);
	r->block = STREAM_BLOCKS_MAX;
	return r;
}

void replay_free(struct replay **r)
{
	if (*r != NULL) {
		bytes_free(&(*r)->out);
		bytes_free(&(*r)->raw);
		bytes_free(&(*r)->events);
	}
	free(*r);
	*r = NULL;
}

static void expect_sound_record(const struct replay *r, const struct stream_record *record)
{
	const struct stream *s = &r->stream;
	const struct stream_block *block = &s->blocks[record->block];
	size_t name;

	must(s->block_count > 0);
	must(!s->passing && !s->finished);
	must(be64_get(record->header) == (record->offset | record->flags));
	if ((record->flags & FLAGS_PAGE) == 0) {
		must(record->flags == STREAM_FLAG_EOS || record->flags == STREAM_FLAG_FLUSH);
		must(record->offset == 0);
		must(record->header_length == 8);
		must(record->payload == 0);
		return;
	}
	must(record->section != STREAM_START);
	must((record->flags & (record->flags - 1)) == 0);
	must(record->block < s->block_count);
	must(record->offset % STREAM_PAGE_SIZE == 0);
	must(record->offset < block->bytes);
	must(record->payload <= STREAM_PAYLOAD_MAX);
	must(record->header_length <= STREAM_HEADER_MAX);
	name = strlen(block->name);
	must(record->header[8] == name);
	must(memcmp(record->header + 9, block->name, name) == 0);
	must(!(record->flags & (STREAM_FLAG_PAGE | STREAM_FLAG_ZERO)) || s->committed);
}

/* QEMU names a block only if the record before it was about another one. */
static void add_as_written(struct replay *r, const struct stream_record *record)
{
	size_t named = 9 + strlen(r->stream.blocks[record->block].name);
	uint8_t word[8];

	if ((record->flags & FLAGS_PAGE) == 0 || record->block != r->block) {
		bytes_add(&r->raw, record->header, record->header_length);
	} else {
		be64_put(word, record->offset | record->flags | FLAG_CONTINUE);
		bytes_add(&r->raw, word, sizeof(word));
		bytes_add(&r->raw, record->header + named, record->header_length - named);
	}
	if (record->flags & FLAGS_PAGE)
		r->block = record->block;
}

static void add_item(struct replay *r, const struct stream_item *item)
{
	const struct stream_record *record = &item->record;
	struct replay_event event;

	/* Compared as bytes, padding and all. */
	memset(&event, 0, sizeof(event));
	event.kind = item->kind;
	event.at = r->out.length;
	if (item->kind == STREAM_BYTES) {
		must(item->length > 0);
		bytes_add(&r->out, item->bytes, item->length);
		bytes_add(&r->raw, item->bytes, item->length);
		return;
	}
	if (item->kind == STREAM_RECORD) {
		expect_sound_record(r, record);
		event.section = record->section;
		event.flags = record->flags;
		event.block = record->flags & FLAGS_PAGE ? record->block : 0;
		event.offset = record->offset;
		event.payload = record->payload;
		r->payload = r->payload_elsewhere ? 0 : record->payload;
		add_as_written(r, record);
		bytes_add(&r->out, record->header, record->header_length);
	}
	bytes_add(&r->events, &event, sizeof(event));
}

static size_t take_payload(struct replay *r, const uint8_t *data, size_t length)
{
	size_t part = length < r->payload ? length : r->payload;

	bytes_add(&r->out, data, part);
	bytes_add(&r->raw, data, part);
	r->payload -= part;
	return part;
}

static void expect_failed(struct replay *r, ssize_t ret)
{
	struct stream_item item;

	must(ret == -EPROTO);
	/* Before that it could have passed. */
	must_for(r->stream.committed, r->stream.reason);
	must(!r->stream.passing && r->stream.reason[0] != '\0');
	must(stream_next(&r->stream, NULL, 0, &item) == -EPROTO);
	r->error = (int)ret;
}

void replay_feed(struct replay *r, const uint8_t *data, size_t length)
{
	struct stream_item item;
	size_t used = 0;

	while (r->error == 0) {
		ssize_t ret;

		used += take_payload(r, data + used, length - used);
		if (r->payload > 0)
			break;
		ret = stream_next(&r->stream, data + used, length - used, &item);
		if (ret < 0) {
			expect_failed(r, ret);
			return;
		}
		must((size_t)ret <= length - used);
		used += (size_t)ret;
		if (item.kind == STREAM_MORE)
			break;
		add_item(r, &item);
	}
	must(r->error != 0 || used == length);
}

const struct replay_event *replay_events(const struct replay *r, size_t *count)
{
	*count = r->events.length / sizeof(struct replay_event);
	return (const struct replay_event *)(const void *)r->events.data;
}

size_t replay_count(const struct replay *r, enum stream_kind kind, uint32_t flags)
{
	size_t events, count = 0;
	const struct replay_event *event = replay_events(r, &events);

	for (size_t i = 0; i < events; i++)
		count += event[i].kind == kind && event[i].flags == flags;
	return count;
}

static void expect_same_bytes(const struct bytes *b, const struct bytes *other, const char *what)
{
	must_for(b->length == other->length, what);
	must_for(b->length == 0 || memcmp(b->data, other->data, b->length) == 0, what);
}

void replay_expect_same(const struct replay *r, const struct replay *other, const char *what)
{
	expect_same_bytes(&r->out, &other->out, what);
	expect_same_bytes(&r->raw, &other->raw, what);
	expect_same_bytes(&r->events, &other->events, what);
	must_for(r->error == other->error, what);
	must_for(strcmp(r->stream.reason, other->stream.reason) == 0, what);
	must_for(r->stream.finished == other->stream.finished, what);
	must_for(r->stream.rounds == other->stream.rounds, what);
}
