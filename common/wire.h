/* SPDX-License-Identifier: MIT */
/*
 * Fixed-width little-endian integers in byte streams. A reader never passes its end: it returns
 * zeroes and remembers that it failed, so that a decoder checks once, behind its last field.
 */
#ifndef COMMON_WIRE_H
#define COMMON_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct vmferry_blob;

static inline void wire_put_u16(uint8_t *p, uint16_t v)
{
	for (unsigned int i = 0; i < 2; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline void wire_put_u32(uint8_t *p, uint32_t v)
{
	for (unsigned int i = 0; i < 4; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline void wire_put_u64(uint8_t *p, uint64_t v)
{
	for (unsigned int i = 0; i < 8; i++)
		p[i] = (uint8_t)(v >> (8 * i));
}

static inline uint64_t wire_get(const uint8_t *p, unsigned int bytes)
{
	uint64_t v = 0;

	for (unsigned int i = 0; i < bytes; i++)
		v |= (uint64_t)p[i] << (8 * i);
	return v;
}

struct wire_reader {
	const uint8_t *at;
	const uint8_t *end;
	bool failed;
};

void wire_reader_init(struct wire_reader *r, const void *data, size_t length);
uint8_t wire_read_u8(struct wire_reader *r);
uint16_t wire_read_u16(struct wire_reader *r);
uint32_t wire_read_u32(struct wire_reader *r);
uint64_t wire_read_u64(struct wire_reader *r);

/*
 * A pointer to the next @length bytes of the stream itself, NULL (and failed) if there are not so
 * many.
 */
const void *wire_read_bytes(struct wire_reader *r, size_t length);

size_t wire_left(const struct wire_reader *r);

/* True when nothing failed and every byte was read. */
bool wire_done(const struct wire_reader *r);

/* Appending: 0 or -ENOMEM, as vmferry_blob_append(). */
int wire_append_u8(struct vmferry_blob *b, uint8_t v);
int wire_append_u16(struct vmferry_blob *b, uint16_t v);
int wire_append_u32(struct vmferry_blob *b, uint32_t v);
int wire_append_u64(struct vmferry_blob *b, uint64_t v);

#endif
