/* SPDX-License-Identifier: MIT */
#include "peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/*
 * A decoder that never leaves its bytes: past the end it returns zeroes and remembers that it
 * failed.
 */
struct cursor {
	const uint8_t *at;
	size_t left;
	bool failed;
};

static uint64_t take(struct cursor *c, unsigned int bytes)
{
	uint64_t value = 0;

	if (c->left < bytes) {
		c->failed = true;
		c->left = 0;
		return 0;
	}
	for (unsigned int i = 0; i < bytes; i++)
		value = value << 8 | c->at[i];
	c->at += bytes;
	c->left -= bytes;
	return value;
}

/*
 * A string with its length in front of it; it has to fit into @room with its NUL and have no NUL
 * inside.
 */
static void take_text(struct cursor *c, char *text, size_t room)
{
	size_t length = (size_t)take(c, 2);

	if (length >= room || length > c->left || memchr(c->at, '\0', length) != NULL) {
		c->failed = true;
		length = 0;
	}
	if (length > 0)
		memcpy(text, c->at, length);
	text[length] = '\0';
	c->at += length;
	c->left -= length;
}

static int done(const struct cursor *c)
{
	return c->failed || c->left > 0 ? -EPROTO : 0;
}

static uint8_t *put(uint8_t *at, uint64_t value, unsigned int bytes)
{
	for (unsigned int i = 0; i < bytes; i++)
		at[i] = (uint8_t)(value >> (8 * (bytes - 1 - i)));
	return at + bytes;
}

static uint8_t *put_text(uint8_t *at, const char *text)
{
	size_t length = strlen(text);

	at = put(at, length, 2);
	for (size_t i = 0; i < length; i++)
		at[i] = (uint8_t)text[i];
	return at + length;
}

size_t peer_hello_encode(const struct peer_hello *hello, uint8_t out[8 + PEER_PATH_MAX])
{
	uint8_t *at = put(out, hello->version, 4);

	return (size_t)(put_text(at, hello->path) - out);
}

int peer_hello_decode(const void *data, size_t length, struct peer_hello *hello)
{
	struct cursor c = {data, length, false};

	hello->version = (uint32_t)take(&c, 4);
	take_text(&c, hello->path, sizeof(hello->path));
	return done(&c);
}

int peer_blocks_encode(const struct peer_blocks *blocks, uint8_t **out, size_t *length)
{
	uint8_t *bytes = malloc(8 + sizeof(blocks->reason) +
				blocks->count * (10 + sizeof(blocks->blocks[0].name)));
	uint8_t *at;

	if (bytes == NULL)
		return -ENOMEM;
	at = put(bytes, blocks->return_path, 1);
	at = put(at, blocks->passing, 1);
	at = put_text(at, blocks->reason);
	at = put(at, blocks->count, 4);
	for (unsigned int i = 0; i < blocks->count; i++) {
		at = put_text(at, blocks->blocks[i].name);
		at = put(at, blocks->blocks[i].bytes, 8);
	}
	*out = bytes;
	*length = (size_t)(at - bytes);
	return 0;
}

int peer_blocks_decode(const void *data, size_t length, struct peer_blocks *blocks)
{
	struct cursor c = {data, length, false};

	blocks->return_path = take(&c, 1) != 0;
	blocks->passing = take(&c, 1) != 0;
	take_text(&c, blocks->reason, sizeof(blocks->reason));
	blocks->count = (unsigned int)take(&c, 4);
	if (blocks->count > STREAM_BLOCKS_MAX)
		return -EPROTO;
	for (unsigned int i = 0; i < blocks->count; i++) {
		struct placement_block *block = &blocks->blocks[i];

		take_text(&c, block->name, sizeof(block->name));
		block->bytes = take(&c, 8);
		/* Blocks are 1 << 44 bytes apart in the session, see peer_block_address(). */
		if (block->bytes % STREAM_PAGE_SIZE != 0 || block->bytes > 1ull << 44)
			return -EPROTO;
	}
	return done(&c);
}

static size_t placed_bytes(const struct peer_placed *placed)
{
	size_t bytes = 5;

	for (unsigned int i = 0; i < placed->count; i++)
		bytes += 1 + 2 + strlen(placed->targets[i].reason) + 4 +
			 16 * (size_t)placed->targets[i].extent_count;
	return bytes;
}

int peer_placed_encode(const struct peer_placed *placed, uint8_t **out, size_t *length)
{
	uint8_t *bytes = malloc(placed_bytes(placed));
	uint8_t *at;

	if (bytes == NULL)
		return -ENOMEM;
	at = put(bytes, placed->autostart, 1);
	at = put(at, placed->count, 4);
	for (unsigned int i = 0; i < placed->count; i++) {
		const struct peer_target *t = &placed->targets[i];

		at = put(at, t->kind, 1);
		at = put_text(at, t->reason);
		at = put(at, t->extent_count, 4);
		for (unsigned int k = 0; k < t->extent_count; k++) {
			at = put(at, t->extents[k].offset, 8);
			at = put(at, t->extents[k].bytes, 8);
		}
	}
	*out = bytes;
	*length = (size_t)(at - bytes);
	return 0;
}

static int take_target(struct cursor *c, struct peer_target *t)
{
	uint64_t kind = take(c, 1);

	take_text(c, t->reason, sizeof(t->reason));
	t->extent_count = (unsigned int)take(c, 4);
	if (c->failed || kind > PLACEMENT_MAPPED || t->extent_count > PEER_EXTENTS_MAX)
		return -EPROTO;
	t->kind = (enum placement_kind)kind;
	for (unsigned int i = 0; i < t->extent_count; i++) {
		t->extents[i].offset = take(c, 8);
		t->extents[i].bytes = take(c, 8);
	}
	return c->failed ? -EPROTO : 0;
}

int peer_placed_decode(const void *data, size_t length, struct peer_placed *placed)
{
	struct cursor c = {data, length, false};

	placed->autostart = take(&c, 1) != 0;
	placed->count = (unsigned int)take(&c, 4);
	if (placed->count > STREAM_BLOCKS_MAX)
		return -EPROTO;
	for (unsigned int i = 0; i < placed->count; i++)
		if (take_target(&c, &placed->targets[i]) < 0)
			return -EPROTO;
	return done(&c);
}

size_t peer_staged_encode(const struct peer_staged *staged, uint8_t out[PEER_STAGED_BYTES_MAX])
{
	uint8_t *at = put(out, staged->epoch, 4);

	at = put(at, staged->reader, 4);
	at = put(at, staged->segment, 4);
	at = put(at, staged->count, 4);
	for (unsigned int i = 0; i < staged->count; i++) {
		at = put(at, staged->pages[i].block, 4);
		at = put(at, staged->pages[i].at, 4);
		at = put(at, staged->pages[i].offset, 8);
	}
	return (size_t)(at - out);
}

int peer_staged_decode(const void *data, size_t length, struct peer_staged *staged)
{
	struct cursor c = {data, length, false};

	staged->epoch = (uint32_t)take(&c, 4);
	staged->reader = (uint32_t)take(&c, 4);
	staged->segment = (uint32_t)take(&c, 4);
	staged->count = (uint32_t)take(&c, 4);
	if (staged->count > PEER_STAGED_MAX || staged->reader >= PEER_CONNECTIONS_MAX ||
	    staged->segment >= PEER_SEGMENTS)
		return -EPROTO;
	for (unsigned int i = 0; i < staged->count; i++) {
		struct peer_staged_page *page = &staged->pages[i];

		page->block = (uint32_t)take(&c, 4);
		page->at = (uint32_t)take(&c, 4);
		page->offset = take(&c, 8);
		if (page->at != PEER_STAGED_ZERO && page->at > PEER_RING_BYTES - STREAM_PAGE_SIZE)
			return -EPROTO;
	}
	return done(&c);
}

void peer_numbers_encode(const uint32_t *numbers, unsigned int count, uint8_t *out)
{
	for (unsigned int i = 0; i < count; i++)
		out = put(out, numbers[i], 4);
}

int peer_numbers_decode(const void *data, size_t length, uint32_t *numbers, unsigned int count)
{
	struct cursor c = {data, length, false};

	for (unsigned int i = 0; i < count; i++)
		numbers[i] = (uint32_t)take(&c, 4);
	return done(&c);
}
