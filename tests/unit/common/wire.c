/* SPDX-License-Identifier: MIT */
/*
 * Wire integers: golden bytes, round trips, and every stream that is too short for what is read
 * from it.
 */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include <vmferry/vmferry.h>

#include "common/wire.h"

/* One of each width, 15 bytes. */
#define RECORD_BYTES 15

static const uint8_t golden[RECORD_BYTES] = {
	0x01, 0x03, 0x02, 0x07, 0x06, 0x05, 0x04, 0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x88,
};

struct record {
	uint8_t u8;
	uint16_t u16;
	uint32_t u32;
	uint64_t u64;
};

static const struct record expected = {0x01, 0x0203, 0x04050607, 0x88090a0b0c0d0e0f};

static struct record read_record(struct wire_reader *r)
{
	struct record record;

	record.u8 = wire_read_u8(r);
	record.u16 = wire_read_u16(r);
	record.u32 = wire_read_u32(r);
	record.u64 = wire_read_u64(r);
	return record;
}

TestSuite(wire, .timeout = 20);

Test(wire, append__golden_bytes)
{
	struct vmferry_blob *blob;

	cr_assert_eq(vmferry_blob_new(&blob), 0);
	cr_assert_eq(wire_append_u8(blob, expected.u8), 0);
	cr_assert_eq(wire_append_u16(blob, expected.u16), 0);
	cr_assert_eq(wire_append_u32(blob, expected.u32), 0);
	cr_assert_eq(wire_append_u64(blob, expected.u64), 0);
	cr_assert_eq(vmferry_blob_size(blob), RECORD_BYTES);
	cr_assert_eq(memcmp(vmferry_blob_data(blob), golden, RECORD_BYTES), 0);
	vmferry_blob_free(&blob);
}

Test(wire, put__golden_bytes)
{
	uint8_t bytes[14];

	wire_put_u16(bytes, expected.u16);
	wire_put_u32(bytes + 2, expected.u32);
	wire_put_u64(bytes + 6, expected.u64);
	cr_assert_eq(memcmp(bytes, golden + 1, sizeof(bytes)), 0);
}

Test(wire, read__golden_values)
{
	struct wire_reader r;
	struct record record;

	wire_reader_init(&r, golden, RECORD_BYTES);
	cr_assert_eq(wire_left(&r), RECORD_BYTES);
	cr_assert(!wire_done(&r));
	record = read_record(&r);
	cr_assert_eq(record.u8, expected.u8);
	cr_assert_eq(record.u16, expected.u16);
	cr_assert_eq(record.u32, expected.u32);
	cr_assert_eq(record.u64, expected.u64);
	cr_assert(wire_done(&r));
	cr_assert_eq(wire_left(&r), 0);
}

/* The stream lies in a buffer of exactly its size, so that a sanitizer sees any read beyond it. */
Test(wire, read_short_stream__zeroes_and_failed_for_every_length)
{
	static const size_t ends[] = {1, 3, 7, 15};

	for (size_t length = 0; length < RECORD_BYTES; length++) {
		uint8_t *copy = malloc(length + (length == 0));
		struct wire_reader r;
		struct record record;

		cr_assert_not_null(copy);
		memcpy(copy, golden, length);
		wire_reader_init(&r, copy, length);
		record = read_record(&r);
		cr_assert(r.failed, "length %zu", length);
		cr_assert(!wire_done(&r), "length %zu", length);
		cr_assert_eq(record.u8, length >= ends[0] ? expected.u8 : 0);
		cr_assert_eq(record.u16, length >= ends[1] ? expected.u16 : 0);
		cr_assert_eq(record.u32, length >= ends[2] ? expected.u32 : 0);
		cr_assert_eq(record.u64, 0);
		free(copy);
	}
}

Test(wire, read_after_failure__stays_failed)
{
	struct wire_reader r;

	wire_reader_init(&r, golden, 3);
	cr_assert_eq(wire_read_u32(&r), 0);
	/* A byte is there, but the fields are out of step by now. */
	cr_assert_eq(wire_read_u8(&r), 0);
	cr_assert_null(wire_read_bytes(&r, 0));
	cr_assert(r.failed);
}

Test(wire, read_bytes__points_into_the_stream)
{
	struct wire_reader r;

	wire_reader_init(&r, golden, RECORD_BYTES);
	cr_assert_eq(wire_read_bytes(&r, 4), golden);
	cr_assert_eq(wire_read_bytes(&r, 0), golden + 4);
	cr_assert_eq(wire_read_bytes(&r, 11), golden + 4);
	cr_assert(wire_done(&r));
	cr_assert_eq(wire_read_bytes(&r, 0), golden + RECORD_BYTES);
	cr_assert(wire_done(&r));
}

Test(wire, read_bytes_oversized__refused_without_wrapping)
{
	static const size_t lengths[] = {RECORD_BYTES + 1, SIZE_MAX / 2, SIZE_MAX - 1, SIZE_MAX};

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		struct wire_reader r;

		wire_reader_init(&r, golden, RECORD_BYTES);
		cr_assert_null(wire_read_bytes(&r, lengths[i]));
		cr_assert(r.failed);
		cr_assert_eq(wire_left(&r), RECORD_BYTES);
	}
}

Test(wire, empty_stream__done_until_read)
{
	struct wire_reader r;

	wire_reader_init(&r, NULL, 0);
	cr_assert(wire_done(&r));
	cr_assert_eq(wire_read_u8(&r), 0);
	cr_assert(!wire_done(&r));
}

Test(wire, trailing_byte__not_done)
{
	struct wire_reader r;

	wire_reader_init(&r, golden, 9);
	wire_read_u64(&r);
	cr_assert(!r.failed);
	cr_assert(!wire_done(&r));
}
