/* SPDX-License-Identifier: MIT */
/* RAM's records: what is one, and that its page is in its block. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "made.h"
#include "migrator/qemu/bytes.h"

TestSuite(stream_records, .timeout = 60);

/* The block that CONTINUE means is one of an earlier section. */
Test(stream_records, continue__names_its_block_when_handed_on)
{
	struct replay *r;
	size_t count;
	const struct replay_event *event;

	put_start();
	put_part(2);
	put_zero("second", 0);
	put_eos();
	put_part(2);
	put64(STREAM_PAGE_SIZE | STREAM_FLAG_ZERO | MADE_FLAG_CONTINUE);
	put8(0);
	put_eos();
	r = parse();
	event = replay_events(r, &count);
	cr_assert_eq(count, 6);
	cr_assert(event[4].flags == STREAM_FLAG_ZERO && event[4].block == 1 &&
		  event[4].offset == STREAM_PAGE_SIZE);
	cr_assert_eq(be64_get(r->out.data + event[4].at), STREAM_PAGE_SIZE | STREAM_FLAG_ZERO);
	cr_assert_eq(memcmp(r->out.data + event[4].at + 8, "\6second\0", 8), 0);
	cr_assert_eq(event[5].at, event[4].at + 16);
	end(&r);
}

Test(stream_records, xbzrle_and_compress__payload_left_to_the_caller)
{
	struct replay *r;
	size_t count;
	const struct replay_event *event;

	put_start();
	put_part(2);
	put64(STREAM_FLAG_XBZRLE);
	put_name("first");
	put8(1);
	put16(5);
	put("bytes", 5);
	put64(STREAM_PAGE_SIZE | STREAM_FLAG_COMPRESS | MADE_FLAG_CONTINUE);
	put32(4);
	put("data", 4);
	put_eos();
	r = parse();
	event = replay_events(r, &count);
	cr_assert_eq(count, 6);
	cr_assert(event[2].flags == STREAM_FLAG_XBZRLE && event[2].payload == 5);
	cr_assert_eq(memcmp(r->out.data + event[2].at + 14, "\1\0\5bytes", 8), 0);
	cr_assert(event[3].flags == STREAM_FLAG_COMPRESS && event[3].payload == 4);
	cr_assert_eq(memcmp(r->out.data + event[3].at + 8, "\5first\0\0\0\4data", 14), 0);
	/*
	 * A relay took nothing out: what is unknown behind it, the text of parse(), still passes.
	 */
	cr_assert(event[5].kind == STREAM_PASS && !r->stream.committed);
	end(&r);
}

Test(stream_records, records_in_start__no_pages)
{
	struct replay *r;

	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put_zero("first", 0);
	expect_pass("record 0x002");
	put_configuration();
	put_ram(MADE_FIRST_BYTES);
	put_block("first", MADE_FIRST_BYTES);
	put64(STREAM_FLAG_FLUSH);
	put_eos();
	put_part(3);
	put_eos();
	r = parse();
	cr_assert(r->stream.finished && r->stream.flushes == 1);
	end(&r);
}

static void put_unknown_block(void)
{
	put_zero("third", 0);
}

static void put_longer_block(void)
{
	put_zero("firsts", 0);
}

static void put_shorter_block(void)
{
	put_zero("firs", 0);
}

static void put_no_block(void)
{
	put_zero("", 0);
}

static void put_block_and_nul(void)
{
	put64(STREAM_FLAG_ZERO);
	put8(6);
	put("first", 6);
	put8(0);
}

static void put_behind_block(void)
{
	put_page("second", MADE_SECOND_BYTES);
}

static void put_far_behind_block(void)
{
	put_zero("first", ~(STREAM_PAGE_SIZE - 1ull));
}

static void put_filled(void)
{
	put64(STREAM_FLAG_ZERO);
	put_name("first");
	put8(0xff);
}

static void put_xbzrle_encoding(void)
{
	put64(STREAM_FLAG_XBZRLE);
	put_name("first");
	put8(2);
	put16(1);
}

static void put_xbzrle_long(void)
{
	put64(STREAM_FLAG_XBZRLE);
	put_name("first");
	put8(1);
	put16(STREAM_PAGE_SIZE + 1);
}

static void put_compress_long(void)
{
	put64(STREAM_FLAG_COMPRESS);
	put_name("first");
	put32(STREAM_PAYLOAD_MAX + 1);
}

static void put_eos_with_offset(void)
{
	put64(STREAM_PAGE_SIZE | STREAM_FLAG_EOS);
}

Test(stream_records, pages__checked_against_their_block)
{
	expect_refused(put_unknown_block, "a page of the block 'third', which is not in the list");
	expect_refused(put_longer_block, "a page of the block 'firsts', which is not in the list");
	expect_refused(put_shorter_block, "a page of the block 'firs', which is not in the list");
	expect_refused(put_no_block, "a page of the block '', which is not in the list");
	expect_refused(put_block_and_nul, "a page of the block 'first', which is not in the list");
	expect_refused(put_behind_block, "a page at 0x4000 of block 'second'");
	expect_refused(put_far_behind_block, "a page at 0xfffffffffffff000 of block 'first'");
	expect_refused(put_filled, "a zero page filled with 0xff");
	expect_refused(put_xbzrle_encoding, "an XBZRLE page with encoding 2 and 1 bytes");
	expect_refused(put_xbzrle_long, "an XBZRLE page with encoding 1 and 4097 bytes");
	expect_refused(put_compress_long, "a compressed page of 8193 bytes");
	expect_refused(put_eos_with_offset, "record 0x010 with the offset 0x1000");
}

Test(stream_records, first_page_continues_a_block__passes)
{
	put_start();
	put_part(2);
	put64(STREAM_FLAG_ZERO | MADE_FLAG_CONTINUE);
	put8(0);
	expect_pass("the first page continues a block");
}

/* All 4096 combinations of the low bits: nothing but what QEMU writes is a record. */
Test(stream_records, flags__only_those_that_qemu_writes)
{
	static const uint32_t good[] = {STREAM_FLAG_ZERO,
					STREAM_FLAG_PAGE,
					STREAM_FLAG_XBZRLE,
					STREAM_FLAG_COMPRESS,
					STREAM_FLAG_EOS,
					STREAM_FLAG_FLUSH,
					STREAM_FLAG_ZERO | MADE_FLAG_CONTINUE,
					STREAM_FLAG_PAGE | MADE_FLAG_CONTINUE,
					STREAM_FLAG_XBZRLE | MADE_FLAG_CONTINUE,
					STREAM_FLAG_COMPRESS | MADE_FLAG_CONTINUE};

	for (uint32_t flags = 0; flags < STREAM_PAGE_SIZE; flags++) {
		bool is_good = false;
		struct replay *r;

		for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
			is_good |= flags == good[i];
		put_start();
		put_part(2);
		put_zero("first", 0);
		put64(flags);
		r = replay_new();
		replay_feed(r, stream.data, stream.length);
		cr_assert_eq(r->error, is_good ? 0 : -EPROTO, "0x%03x", flags);
		end(&r);
	}
}
