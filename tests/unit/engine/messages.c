/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrator/engine/messages.h"

static struct vmferry_blob *blob;
static struct vmferry_message message;

static void setup(void)
{
	cr_assert_eq(vmferry_blob_new(&blob), 0);
}

static void teardown(void)
{
	vmferry_blob_free(&blob);
}

TestSuite(messages, .init = setup, .fini = teardown, .timeout = 30);

/*
 * The blob's first @length bytes, in a heap block of just that size so that reading past it is
 * found by a sanitizer.
 */
static void as_message(uint32_t type, size_t length)
{
	free(message.data);
	message = (struct vmferry_message){.type = type, .length = length};
	message.data = malloc(length + 1);
	cr_assert_not_null(message.data);
	if (length > 0)
		memcpy(message.data, vmferry_blob_data(blob), length);
	message.data = realloc(message.data, length > 0 ? length : 1);
}

static void make_offer(struct offer *o, struct offer_extent *extents)
{
	memset(o, 0, sizeof(*o));
	o->version = ENGINE_VERSION;
	o->page_size = VMFERRY_PAGE_SIZE;
	o->verify = true;
	memset(o->id, 7, sizeof(o->id));
	o->region_count = 2;
	o->regions[0] = (struct offer_region){0, 1 << 20};
	o->regions[1] = (struct offer_region){1ull << 32, 2 << 20};
	o->extent_count = 2;
	extents[0] = (struct offer_extent){0, {4096, 8192}};
	extents[1] = (struct offer_extent){1, {0, 2 << 20}};
	o->extents = extents;
	o->spec = "machine";
	o->spec_length = 7;
}

Test(messages, offer__comes_out_as_it_went_in)
{
	struct offer_extent extents[2];
	struct offer in, out;

	make_offer(&in, extents);
	cr_assert_eq(offer_pack(&in, blob), 0);
	as_message(MESSAGE_OFFER, vmferry_blob_size(blob));
	cr_assert_eq(offer_unpack(&message, &out), 0);
	cr_assert(out.verify);
	cr_assert_eq(out.region_count, 2);
	cr_assert_eq(out.regions[1].address, 1ull << 32);
	cr_assert_eq(out.extent_count, 2);
	cr_assert_eq(out.extents[0].extent.length, 8192);
	cr_assert_eq(out.spec_length, 7);
	cr_assert_arr_eq(out.spec, "machine", 7);
	offer_free(&out);
}

Test(messages, offer_cut_anywhere__is_refused)
{
	struct offer_extent extents[2];
	struct offer in, out;

	make_offer(&in, extents);
	cr_assert_eq(offer_pack(&in, blob), 0);
	for (size_t n = 0; n < vmferry_blob_size(blob); n++) {
		as_message(MESSAGE_OFFER, n);
		cr_assert_eq(offer_unpack(&message, &out), -EPROTO, "%zu bytes", n);
	}
}

Test(messages, offer_with_any_byte_changed__never_escapes_its_bounds)
{
	struct offer_extent extents[2];
	struct offer in, out;

	make_offer(&in, extents);
	cr_assert_eq(offer_pack(&in, blob), 0);
	for (size_t n = 0; n < vmferry_blob_size(blob); n++) {
		for (unsigned int bit = 0; bit < 8; bit++) {
			int r;

			as_message(MESSAGE_OFFER, vmferry_blob_size(blob));
			((uint8_t *)message.data)[n] ^= (uint8_t)(1u << bit);
			r = offer_unpack(&message, &out);
			if (r < 0 || out.version != ENGINE_VERSION)
				continue;
			for (uint32_t i = 0; i < out.extent_count; i++) {
				const struct offer_extent *e = &out.extents[i];

				cr_assert_lt(e->region, out.region_count);
				cr_assert_leq(e->extent.offset + e->extent.length,
					      out.regions[e->region].size);
			}
			cr_assert_geq((const char *)out.spec, (const char *)message.data);
			offer_free(&out);
		}
	}
}

Test(messages, offer_of_another_version__tells_its_version)
{
	struct offer_extent extents[2];
	struct offer in, out;

	make_offer(&in, extents);
	in.version = 99;
	cr_assert_eq(offer_pack(&in, blob), 0);
	as_message(MESSAGE_OFFER, vmferry_blob_size(blob));
	cr_assert_eq(offer_unpack(&message, &out), 0);
	cr_assert_eq(out.version, 99);
	offer_free(&out);
}

static void assert_refused(const struct offer *offer, unsigned int number)
{
	struct offer out;

	teardown();
	setup();
	cr_assert_eq(offer_pack(offer, blob), 0);
	as_message(MESSAGE_OFFER, vmferry_blob_size(blob));
	cr_assert_eq(offer_unpack(&message, &out), -EPROTO, "offer %u", number);
}

Test(messages, offer_with_extent_outside__is_refused)
{
	static const struct content_extent bad[] = {
		{1 << 20, 4096},
		{(1 << 20) - 4096, 8192},
		{UINT64_MAX - 4095, 8192},
		{0, UINT64_MAX & ~4095ull},
		{0, 0},
		{1, 4096},
	};
	struct offer_extent extents[2];
	struct offer in;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		make_offer(&in, extents);
		extents[0].extent = bad[i];
		assert_refused(&in, i);
	}
}

Test(messages, offer_with_extents_twice_or_out_of_order__is_refused)
{
	static const struct offer_extent bad[][2] = {
		{{0, {4096, 8192}}, {0, {4096, 8192}}},
		{{0, {4096, 8192}}, {0, {8192, 4096}}},
		{{0, {8192, 4096}}, {0, {0, 4096}}},
		{{1, {0, 4096}}, {0, {0, 4096}}},
	};
	struct offer_extent extents[2];
	struct offer in;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		make_offer(&in, extents);
		memcpy(extents, bad[i], sizeof(extents));
		assert_refused(&in, i);
	}
}

Test(messages, offer_with_extents_side_by_side__is_taken)
{
	struct offer_extent extents[2];
	struct offer in, out;

	make_offer(&in, extents);
	extents[1] = (struct offer_extent){0, {12288, 4096}};
	cr_assert_eq(offer_pack(&in, blob), 0);
	as_message(MESSAGE_OFFER, vmferry_blob_size(blob));
	cr_assert_eq(offer_unpack(&message, &out), 0);
	offer_free(&out);
}

Test(messages, verdict__carries_all_problems_and_no_control_characters)
{
	struct vmferry_problems *in = NULL, *out = NULL;

	cr_assert_eq(vmferry_problems_new(&in), 0);
	cr_assert_eq(vmferry_problems_new(&out), 0);
	vmferry_problems_add(in, "first\033[2J", "remedy");
	vmferry_problems_add(in, "second", "remedy");
	cr_assert_eq(verdict_pack(in, blob), 0);
	as_message(MESSAGE_VERDICT, vmferry_blob_size(blob));
	cr_assert_eq(verdict_unpack(&message, out), 0);
	cr_assert_eq(vmferry_problems_count(out), 2);
	cr_assert_null(strchr(vmferry_problems_get(out, 0), '\033'));
	cr_assert_not_null(strstr(vmferry_problems_get(out, 1), "second"));
	vmferry_problems_free(&in);
	vmferry_problems_free(&out);
}

Test(messages, verdict_with_huge_counts__is_refused)
{
	static const uint8_t many[] = {0xff, 0xff, 0xff, 0xff};
	static const uint8_t long_text[] = {1, 0, 0, 0, 0xff, 0xff, 0xff, 0x7f, 'x'};
	struct vmferry_problems *out = NULL;

	cr_assert_eq(vmferry_problems_new(&out), 0);
	vmferry_blob_append(blob, many, sizeof(many));
	as_message(MESSAGE_VERDICT, sizeof(many));
	cr_assert_eq(verdict_unpack(&message, out), -EPROTO);
	teardown();
	setup();
	vmferry_blob_append(blob, long_text, sizeof(long_text));
	as_message(MESSAGE_VERDICT, sizeof(long_text));
	cr_assert_eq(verdict_unpack(&message, out), -EPROTO);
	vmferry_problems_free(&out);
}

Test(messages, words__come_out_as_they_went_in_and_no_other_length)
{
	static const uint64_t in[] = {1, UINT64_MAX, 0x0123456789abcdefull};
	struct words w;

	cr_assert_eq(words_pack(3, 77, in, 3, blob), 0);
	for (size_t n = 0; n < vmferry_blob_size(blob); n++) {
		as_message(MESSAGE_HASHES, n);
		cr_assert_eq(words_unpack(&message, &w), -EPROTO);
	}
	as_message(MESSAGE_HASHES, vmferry_blob_size(blob));
	cr_assert_eq(words_unpack(&message, &w), 0);
	cr_assert_eq(w.region, 3);
	cr_assert_eq(w.first, 77);
	cr_assert_eq(w.count, 3);
	for (uint32_t i = 0; i < 3; i++)
		cr_assert_eq(wire_get(w.at + i * 8, 8), in[i]);
}

Test(messages, closing_and_times__come_out_as_they_went_in)
{
	struct closing c = {1, 2, 3, 4, "bye", 3}, d;
	struct destination_times t = {1, 2, 3, 4, 5}, u;

	cr_assert_eq(closing_pack(&c, blob), 0);
	as_message(MESSAGE_CLOSING, vmferry_blob_size(blob));
	cr_assert_eq(closing_unpack(&message, &d), 0);
	cr_assert_eq(d.placed_bytes, 4);
	cr_assert_arr_eq(d.words, "bye", 3);
	as_message(MESSAGE_CLOSING, vmferry_blob_size(blob) - 1);
	cr_assert_eq(closing_unpack(&message, &d), -EPROTO);
	teardown();
	setup();
	cr_assert_eq(times_pack(&t, blob), 0);
	as_message(MESSAGE_RUNNING, vmferry_blob_size(blob));
	cr_assert_eq(times_unpack(&message, &u), 0);
	cr_assert_eq(u.run_ns, 5);
}

Test(messages, unexpected__is_told_from_an_abort)
{
	struct vmferry_message m = {.type = MESSAGE_ABORT, .length = 5, .data = "x\n\033yz"};
	char text[8];

	cr_assert_eq(message_unexpected("test", &m, "ready"), -ECONNABORTED);
	message_text(&m, text, sizeof(text));
	cr_assert_str_eq(text, "x??yz");
	m.type = 4711;
	cr_assert_eq(message_unexpected("test", &m, "ready"), -EPROTO);
	cr_assert_str_eq(message_name(4711), "unknown");
}
