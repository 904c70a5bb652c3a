/* SPDX-License-Identifier: MIT */
#include "wire.h"

#include <vmferry/vmferry.h>

void wire_reader_init(struct wire_reader *r, const void *data, size_t length)
{
	/* An empty message has no data, and adding even nothing to a null pointer is undefined. */
	static const uint8_t nothing[1];

	r->at = length > 0 ? data : nothing;
	r->end = r->at + length;
	r->failed = false;
}

size_t wire_left(const struct wire_reader *r)
{
	return (size_t)(r->end - r->at);
}

const void *wire_read_bytes(struct wire_reader *r, size_t length)
{
	const uint8_t *p = r->at;

	if (r->failed || wire_left(r) < length) {
		r->failed = true;
		return NULL;
	}
	r->at += length;
	return p;
}

static uint64_t read_integer(struct wire_reader *r, unsigned int bytes)
{
	const uint8_t *p = wire_read_bytes(r, bytes);

	return p == NULL ? 0 : wire_get(p, bytes);
}

uint8_t wire_read_u8(struct wire_reader *r)
{
	return (uint8_t)read_integer(r, 1);
}

uint16_t wire_read_u16(struct wire_reader *r)
{
	return (uint16_t)read_integer(r, 2);
}

uint32_t wire_read_u32(struct wire_reader *r)
{
	return (uint32_t)read_integer(r, 4);
}

uint64_t wire_read_u64(struct wire_reader *r)
{
	return read_integer(r, 8);
}

bool wire_done(const struct wire_reader *r)
{
	return !r->failed && r->at == r->end;
}

int wire_append_u8(struct vmferry_blob *b, uint8_t v)
{
	return vmferry_blob_append(b, &v, 1);
}

int wire_append_u16(struct vmferry_blob *b, uint16_t v)
{
	uint8_t bytes[2];

	wire_put_u16(bytes, v);
	return vmferry_blob_append(b, bytes, sizeof(bytes));
}

int wire_append_u32(struct vmferry_blob *b, uint32_t v)
{
	uint8_t bytes[4];

	wire_put_u32(bytes, v);
	return vmferry_blob_append(b, bytes, sizeof(bytes));
}

int wire_append_u64(struct vmferry_blob *b, uint64_t v)
{
	uint8_t bytes[8];

	wire_put_u64(bytes, v);
	return vmferry_blob_append(b, bytes, sizeof(bytes));
}
