/* SPDX-License-Identifier: MIT */
/*
 * Little-endian numbers in the byte streams that two VMMs exchange through the library. A reader
 * never passes its end: it returns zeroes and remembers that it failed.
 */
#ifndef VMM_CODEC_H
#define VMM_CODEC_H

#include <endian.h>
#include <string.h>

#include <vmferry/vmferry.h>

struct reader {
	const uint8_t *at;
	size_t left;
	bool failed;
};

static inline const void *read_bytes(struct reader *r, size_t length)
{
	const uint8_t *at = r->at;

	if (r->failed || length > r->left) {
		r->failed = true;
		return NULL;
	}
	r->at += length;
	r->left -= length;
	return at;
}

static inline uint32_t read_u32(struct reader *r)
{
	const void *p = read_bytes(r, sizeof(uint32_t));
	uint32_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static inline uint64_t read_u64(struct reader *r)
{
	const void *p = read_bytes(r, sizeof(uint64_t));
	uint64_t v = 0;

	if (p)
		memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

static inline int put_u32(struct vmferry_blob *blob, uint32_t v)
{
	v = htole32(v);
	return vmferry_blob_append(blob, &v, sizeof(v));
}

static inline int put_u64(struct vmferry_blob *blob, uint64_t v)
{
	v = htole64(v);
	return vmferry_blob_append(blob, &v, sizeof(v));
}

#endif
