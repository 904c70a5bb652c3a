/* SPDX-License-Identifier: MIT */
/* RAM data of the migration stream: the list of blocks, and the records behind it. */
#include <stdio.h>
#include <string.h>

#include "bytes.h"
#include "stream_states.h"

#define RECORD_FLAGS	     (STREAM_PAGE_SIZE - 1ull) /* the low bits of a record's first word */
#define RECORD_FLAG_MEM_SIZE 0x004u
#define RECORD_FLAG_CONTINUE 0x020u
#define XBZRLE_ENCODING	     1u

int stream_read_block_name_length(struct stream *s)
{
	if (s->block_count == STREAM_BLOCKS_MAX)
		return stream_refuse(s, "more than %d blocks of memory", STREAM_BLOCKS_MAX);
	stream_enter_sized(s, STATE_BLOCK_NAME, s->field[0]);
	return STREAM_MORE;
}

static unsigned int find_block(const struct stream *s, const char *name)
{
	unsigned int i = 0;

	while (i < s->block_count && strcmp(s->blocks[i].name, name) != 0)
		i++;
	return i;
}

int stream_read_block_name(struct stream *s)
{
	struct stream_block *block = &s->blocks[s->block_count];

	if (!stream_field_to_name(s, block->name))
		return stream_refuse(s, "malformed name of a block of memory");
	if (find_block(s, block->name) < s->block_count)
		return stream_refuse(s, "two blocks of memory '%s'", block->name);
	/* With x-ignore-shared the block's guest-physical address follows. */
	stream_enter_sized(s, STATE_BLOCK_BYTES, s->ignore_shared ? 16 : 8);
	return STREAM_MORE;
}

int stream_read_block_bytes(struct stream *s)
{
	struct stream_block *block = &s->blocks[s->block_count];

	block->bytes = be64_get(s->field);
	if (block->bytes == 0 || block->bytes % STREAM_PAGE_SIZE != 0 || block->bytes > s->left)
		return stream_refuse(s, "block '%s' of %#jx bytes, with %#jx left of the total",
				     block->name, (uintmax_t)block->bytes, (uintmax_t)s->left);
	s->left -= block->bytes;
	s->block_count++;
	if (s->left > 0) {
		stream_enter(s, STATE_BLOCK_NAME_LENGTH);
		return STREAM_MORE;
	}
	stream_enter(s, STATE_RECORD);
	return STREAM_BLOCKS;
}

/* The records EOS and FLUSH, which are about no page. */
static int report_mark(struct stream *s)
{
	if (s->offset != 0)
		return stream_refuse(s, "record 0x%03x with the offset %#jx", s->flags,
				     (uintmax_t)s->offset);
	s->flushes += s->flags == STREAM_FLAG_FLUSH;
	be64_put(s->header, s->flags);
	s->header_length = 8;
	s->payload = 0;
	s->held_length = 0;
	stream_enter(s, s->flags == STREAM_FLAG_EOS ? STATE_FOOTER : STATE_RECORD);
	return STREAM_RECORD;
}

/* QEMU goes over the blocks in the order of the list, and each round begins at the first. */
static void count_round(struct stream *s)
{
	if (s->rounds == 0 || s->block < s->last_block ||
	    (s->block == s->last_block && s->offset <= s->last_offset))
		s->rounds++;
	s->last_block = s->block;
	s->last_offset = s->offset;
}

/* @field has the @bytes of the header that follow the block's name. */
static int report_page(struct stream *s, size_t bytes, size_t payload)
{
	be64_put(s->header, s->offset | s->flags);
	memcpy(s->header + s->header_name, s->field, bytes);
	s->header_length = s->header_name + bytes;
	s->payload = payload;
	s->held_length = 0;
	s->committed |= s->flags == STREAM_FLAG_PAGE || s->flags == STREAM_FLAG_ZERO;
	/* With compression, threads send all but a block's first page in any order. */
	if (s->flags == STREAM_FLAG_PAGE || s->flags == STREAM_FLAG_XBZRLE)
		count_round(s);
	stream_enter(s, STATE_RECORD);
	return STREAM_RECORD;
}

/* The block is known: checks the offset, and reads what follows the name. */
static int read_page(struct stream *s)
{
	if (s->offset > s->blocks[s->block].bytes - STREAM_PAGE_SIZE)
		return stream_refuse(s, "a page at %#jx of block '%s'", (uintmax_t)s->offset,
				     s->blocks[s->block].name);
	switch (s->flags) {
	case STREAM_FLAG_ZERO:
		stream_enter(s, STATE_RECORD_FILL);
		return STREAM_MORE;
	case STREAM_FLAG_XBZRLE:
		stream_enter(s, STATE_RECORD_XBZRLE);
		return STREAM_MORE;
	case STREAM_FLAG_COMPRESS:
		stream_enter(s, STATE_RECORD_COMPRESS);
		return STREAM_MORE;
	default:
		return report_page(s, 0, STREAM_PAGE_SIZE);
	}
}

/*
 * START's first record has the bytes of all blocks in place of the offset, and the list of the
 * blocks behind it.
 */
static int read_mem_size(struct stream *s)
{
	if (s->flags != RECORD_FLAG_MEM_SIZE || s->offset == 0)
		return stream_refuse(s, "section 'ram' without a list of blocks");
	s->left = s->offset;
	stream_enter(s, STATE_BLOCK_NAME_LENGTH);
	return STREAM_BYTES;
}

int stream_read_record(struct stream *s)
{
	uint64_t word = be64_get(s->field);
	bool same_block = word & RECORD_FLAG_CONTINUE;

	s->flags = (uint32_t)(word & RECORD_FLAGS);
	s->offset = word & ~RECORD_FLAGS;
	if (s->block_count == 0)
		return read_mem_size(s);
	if (s->flags == STREAM_FLAG_EOS || s->flags == STREAM_FLAG_FLUSH)
		return report_mark(s);
	s->flags &= ~RECORD_FLAG_CONTINUE;
	if (s->section == STREAM_START ||
	    (s->flags != STREAM_FLAG_ZERO && s->flags != STREAM_FLAG_PAGE &&
	     s->flags != STREAM_FLAG_XBZRLE && s->flags != STREAM_FLAG_COMPRESS))
		return stream_refuse(s, "record 0x%03x", (unsigned int)(word & RECORD_FLAGS));
	if (!same_block) {
		stream_enter(s, STATE_RECORD_NAME_LENGTH);
		return STREAM_MORE;
	}
	if (s->block == STREAM_BLOCKS_MAX)
		return stream_refuse(s, "the first page continues a block");
	return read_page(s);
}

int stream_read_record_name(struct stream *s)
{
	unsigned int block = s->block_count;
	char name[STREAM_ID_MAX];

	if (stream_field_to_name(s, name))
		block = find_block(s, name);
	if (block == s->block_count)
		return stream_refuse(s, "a page of the block '%s', which is not in the list", name);
	s->block = block;
	s->header[8] = (uint8_t)s->want;
	memcpy(s->header + 9, s->field, s->want);
	s->header_name = 9 + s->want;
	return read_page(s);
}

int stream_read_record_fill(struct stream *s)
{
	if (s->field[0] != 0)
		return stream_refuse(s, "a zero page filled with 0x%02x", s->field[0]);
	return report_page(s, 1, 0);
}

int stream_read_record_xbzrle(struct stream *s)
{
	uint16_t length = be16_get(s->field + 1);

	if (s->field[0] != XBZRLE_ENCODING || length > STREAM_PAGE_SIZE)
		return stream_refuse(s, "an XBZRLE page with encoding %u and %u bytes", s->field[0],
				     length);
	return report_page(s, 3, length);
}

int stream_read_record_compress(struct stream *s)
{
	uint32_t length = be32_get(s->field);

	if (length > STREAM_PAYLOAD_MAX)
		return stream_refuse(s, "a compressed page of %u bytes", length);
	return report_page(s, 4, length);
}
