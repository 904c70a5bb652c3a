/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "migrator/qemu/bytes.h"
#include "migrator/qemu/multifd.h"
#include "replay.h"

TestSuite(multifd, .timeout = 60);

/* One channel of a golden stream, read packet by packet. */
struct channel {
	uint8_t *data;
	size_t length, at;
	unsigned int packets, syncs, compressed;
	uint64_t normal, zero;
};

static void channel_open(struct channel *c, const struct golden *g, unsigned int number)
{
	char file[16];
	struct multifd_init init;

	snprintf(file, sizeof(file), "channel%u", number);
	*c = (struct channel){0};
	c->data = golden_read(g, file, &c->length);
	cr_assert_geq(c->length, MULTIFD_INIT_BYTES);
	cr_assert_eq(multifd_init_parse(c->data, &init), 0);
	cr_assert_eq(init.id, number, "%s: %u", g->name, init.id);
	c->at = MULTIFD_INIT_BYTES;
}

static void place(const struct golden *g, struct golden_memory *m, const struct multifd_packet *p,
		  const uint8_t *pages)
{
	static const uint8_t zero[GOLDEN_PAGE_SIZE];

	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		golden_expect_page(g, m, p->name, p->offsets[i],
				   i < p->normal ? pages + GOLDEN_PAGE_SIZE * (size_t)i : zero);
}

/* Up to the next SYNC; false if the channel is at its end. */
static bool channel_round(struct channel *c, const struct golden *g, struct golden_memory *m)
{
	struct multifd_packet p;
	int ret;

	while (c->at < c->length) {
		cr_assert_leq(MULTIFD_PACKET_BYTES, c->length - c->at, "%s", g->name);
		ret = multifd_packet_parse(c->data + c->at, &p);
		cr_assert(ret == 0 || (g->compressed && ret == -ENOTSUP), "%s: %s", g->name,
			  p.reason);
		cr_assert(p.framed && (ret == 0) == (p.reason == NULL));
		c->at += MULTIFD_PACKET_BYTES;
		cr_assert_leq(p.payload, c->length - c->at, "%s", g->name);
		if (!g->compressed)
			place(g, m, &p, c->data + c->at);
		c->at += p.payload;
		c->packets++;
		c->syncs += p.sync;
		c->compressed += ret == -ENOTSUP;
		c->normal += p.normal;
		c->zero += p.zero;
		if (p.sync)
			return true;
	}
	return false;
}

/*
 * How many SYNCs each channel must have: from 8.1 on one for each FLUSH, before one for each
 * section's end.
 */
static uint64_t main_syncs(const struct golden *g, bool *zero_pages)
{
	size_t length;
	uint8_t *data = golden_read(g, "main", &length);
	struct replay *r = replay_new();
	uint64_t syncs;

	replay_feed(r, data, length);
	cr_assert(r->stream.finished);
	syncs = r->stream.flushes > 0 ? r->stream.flushes
				      : replay_count(r, STREAM_RECORD, STREAM_FLAG_EOS);
	*zero_pages = replay_count(r, STREAM_RECORD, STREAM_FLAG_ZERO) > 0;
	replay_free(&r);
	free(data);
	return syncs;
}

static void expect_channels(const struct golden *g)
{
	struct channel channels[GOLDEN_CHANNELS];
	struct golden_memory m = {0};
	bool zero_in_main;
	uint64_t syncs = main_syncs(g, &zero_in_main);

	for (unsigned int i = 0; i < GOLDEN_CHANNELS; i++)
		channel_open(&channels[i], g, i);
	/* Between two SYNCs no page comes twice, in whichever channel. */
	while (channel_round(&channels[0], g, &m))
		cr_assert(channel_round(&channels[1], g, &m));
	cr_assert(!channel_round(&channels[1], g, &m));
	for (unsigned int i = 0; i < GOLDEN_CHANNELS; i++) {
		cr_assert_eq(channels[i].at, channels[i].length);
		cr_assert_eq(channels[i].syncs, syncs, "%s: %u, not %ju", g->name,
			     channels[i].syncs, (uintmax_t)syncs);
		cr_assert_gt(channels[i].normal, 0);
		cr_assert_eq(channels[i].zero > 0, !zero_in_main, "%s", g->name);
		cr_assert_eq(channels[i].compressed > 0, g->compressed);
		free(channels[i].data);
	}
	if (!g->compressed)
		golden_expect_stopped(g, &m);
}

Test(multifd, golden_channels__are_the_guests_memory)
{
	unsigned int checked = 0;

	for (size_t i = 0; i < golden_count; i++) {
		if (!goldens[i].multifd)
			continue;
		expect_channels(&goldens[i]);
		checked++;
	}
	cr_assert_gt(checked, 7);
}

#define PAGES_NORMAL 3u
#define PAGES_ZERO   2u

static void make_packet(uint8_t bytes[MULTIFD_PACKET_BYTES])
{
	memset(bytes, 0, MULTIFD_PACKET_BYTES);
	be32_put(bytes, MULTIFD_MAGIC);
	be32_put(bytes + 4, 1);
	be32_put(bytes + 8, 1);
	be32_put(bytes + 12, MULTIFD_PAGES_MAX);
	be32_put(bytes + 16, PAGES_NORMAL);
	be32_put(bytes + 20, PAGES_NORMAL * MULTIFD_PAGE_SIZE);
	be64_put(bytes + 24, 0x0102030405060708);
	be32_put(bytes + 32, PAGES_ZERO);
	memcpy(bytes + 64, "pc.ram", 6);
	for (unsigned int i = 0; i < MULTIFD_PAGES_MAX; i++)
		be64_put(bytes + 320 + 8 * (size_t)i, (i + 1ull) * MULTIFD_PAGE_SIZE);
}

Test(multifd, packet__all_fields)
{
	uint8_t bytes[MULTIFD_PACKET_BYTES];
	struct multifd_packet p;

	make_packet(bytes);
	cr_assert_eq(multifd_packet_parse(bytes, &p), 0, "%s", p.reason);
	cr_assert(p.sync && p.framed && p.flags == 1 && p.reason == NULL);
	cr_assert_eq(p.normal, PAGES_NORMAL);
	cr_assert_eq(p.zero, PAGES_ZERO);
	cr_assert_eq(p.payload, PAGES_NORMAL * MULTIFD_PAGE_SIZE);
	cr_assert_eq(p.number, 0x0102030405060708);
	cr_assert_str_eq(p.name, "pc.ram");
	for (unsigned int i = 0; i < PAGES_NORMAL + PAGES_ZERO; i++)
		cr_assert_eq(p.offsets[i], (i + 1ull) * MULTIFD_PAGE_SIZE);
}

Test(multifd, packet_full__accepted)
{
	uint8_t bytes[MULTIFD_PACKET_BYTES];
	struct multifd_packet p;

	make_packet(bytes);
	be32_put(bytes + 16, MULTIFD_PAGES_MAX - PAGES_ZERO);
	be32_put(bytes + 20, (MULTIFD_PAGES_MAX - PAGES_ZERO) * MULTIFD_PAGE_SIZE);
	memset(bytes + 64, 'n', 255);
	cr_assert_eq(multifd_packet_parse(bytes, &p), 0, "%s", p.reason);
	cr_assert_eq(p.offsets[MULTIFD_PAGES_MAX - 1], MULTIFD_PAGES_MAX * MULTIFD_PAGE_SIZE);
	cr_assert_eq(strlen(p.name), 255);
}

/*
 * As 10.0 sends it, without room for pages, and as 7.2 does, with what the packet before was long.
 */
Test(multifd, sync_without_pages__accepted)
{
	uint8_t bytes[MULTIFD_PACKET_BYTES] = {0};
	struct multifd_packet p;

	be32_put(bytes, MULTIFD_MAGIC);
	be32_put(bytes + 4, 1);
	be32_put(bytes + 8, 1);
	cr_assert_eq(multifd_packet_parse(bytes, &p), 0, "%s", p.reason);
	cr_assert(p.sync && p.normal == 0 && p.zero == 0 && p.payload == 0);
	be32_put(bytes + 12, MULTIFD_PAGES_MAX);
	be32_put(bytes + 20, 0x12345678);
	cr_assert_eq(multifd_packet_parse(bytes, &p), 0, "%s", p.reason);
	cr_assert(p.sync && p.payload == 0);
}

Test(multifd, one_wrong_field__refused)
{
	static const struct {
		unsigned int at;
		uint32_t value;
		int ret;
		const char *reason;
	} wrong[] = {
		{0, 0x11223345, -EPROTO, "multifd: malformed packet"},
		{4, 2, -EPROTO, "multifd: malformed packet"},
		{8, 0x02, -ENOTSUP, "multifd: compression"},
		{8, 0x20, -ENOTSUP, "multifd: compression"},
		{8, 0x40, -ENOTSUP, "multifd: device state"},
		{8, 0x42, -ENOTSUP, "multifd: device state"},
		{8, 0x80, -ENOTSUP, "multifd: unknown flags of a packet"},
		{8, 0x80000000, -ENOTSUP, "multifd: unknown flags of a packet"},
		{12, 129, -EPROTO, "multifd: a packet of too many pages"},
		{12, 4, -EPROTO, "multifd: a packet of too many pages"},
		{12, 2, -EPROTO, "multifd: a packet of too many pages"},
		{16, 0xffffffff, -EPROTO, "multifd: a packet of too many pages"},
		{16, 2, -EPROTO, "multifd: a packet's payload is not that of its pages"},
		{20, 4096, -EPROTO, "multifd: a packet's payload is not that of its pages"},
		{20, 0xffffffff, -EPROTO, "multifd: a packet's payload is not that of its pages"},
		{32, 126, -EPROTO, "multifd: a packet of too many pages"},
		{32, 0xffffffff, -EPROTO, "multifd: a packet of too many pages"},
		{36, 1, -ENOTSUP, "multifd: unknown fields of a packet"},
		{60, 0x80000000, -ENOTSUP, "multifd: unknown fields of a packet"},
		{64, 0, -EPROTO, "multifd: pages of a block without a name"},
		{324, 4095, -EPROTO, "multifd: the offset of a page is not aligned"},
		{324 + 32, 1, -EPROTO, "multifd: the offset of a page is not aligned"},
	};
	uint8_t bytes[MULTIFD_PACKET_BYTES];
	struct multifd_packet p;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		make_packet(bytes);
		be32_put(bytes + wrong[i].at, wrong[i].value);
		cr_assert_eq(multifd_packet_parse(bytes, &p), wrong[i].ret, "%zu", i);
		cr_assert_str_eq(p.reason, wrong[i].reason, "%zu", i);
		cr_assert_eq(p.framed, strcmp(p.reason, "multifd: compression") == 0, "%zu", i);
	}
	make_packet(bytes);
	memset(bytes + 64, 'n', 256);
	cr_assert_eq(multifd_packet_parse(bytes, &p), -EPROTO);
	cr_assert_str_eq(p.reason, "multifd: the name of a block does not end");
	/* Behind the last page there is whatever a packet before has left. */
	make_packet(bytes);
	be64_put(bytes + 320 + 8 * (PAGES_NORMAL + PAGES_ZERO), 1);
	cr_assert_eq(multifd_packet_parse(bytes, &p), 0);
}

Test(multifd, head__tells_device_state_from_the_first_bytes)
{
	uint8_t bytes[MULTIFD_HEAD_BYTES];
	const char *reason;

	be32_put(bytes, MULTIFD_MAGIC);
	be32_put(bytes + 4, 1);
	be32_put(bytes + 8, 0);
	cr_assert_eq(multifd_head_check(bytes, &reason), 0);
	be32_put(bytes + 8, 0x40);
	cr_assert_eq(multifd_head_check(bytes, &reason), -ENOTSUP);
	cr_assert_str_eq(reason, "multifd: device state");
	be32_put(bytes, 0x5145564d);
	cr_assert_eq(multifd_head_check(bytes, &reason), -EPROTO);
}

Test(multifd, compressed__framed_by_its_payload)
{
	uint8_t bytes[MULTIFD_PACKET_BYTES];
	struct multifd_packet p;

	make_packet(bytes);
	be32_put(bytes + 8, 0x05);
	be32_put(bytes + 20, 777);
	cr_assert_eq(multifd_packet_parse(bytes, &p), -ENOTSUP);
	cr_assert(p.framed && p.sync);
	cr_assert_eq(p.payload, 777);
	be32_put(bytes + 20, MULTIFD_PAYLOAD_MAX + 1);
	cr_assert_eq(multifd_packet_parse(bytes, &p), -EPROTO);
	cr_assert(!p.framed);
}

Test(multifd, empty__all_but_the_pages_kept)
{
	uint8_t bytes[MULTIFD_PACKET_BYTES], before[MULTIFD_PACKET_BYTES];
	struct multifd_packet p;

	make_packet(bytes);
	memcpy(before, bytes, sizeof(before));
	multifd_packet_empty(bytes);
	cr_assert_eq(multifd_packet_parse(bytes, &p), 0, "%s", p.reason);
	cr_assert(p.sync && p.normal == 0 && p.zero == 0 && p.payload == 0);
	for (size_t i = 0; i < sizeof(bytes); i++)
		cr_assert((i >= 16 && i < 24) || (i >= 32 && i < 36) ? bytes[i] == 0
								     : bytes[i] == before[i],
			  "%zu", i);
}

Test(multifd, init__magic_and_version)
{
	uint8_t bytes[MULTIFD_INIT_BYTES] = {0};
	struct multifd_init init;

	be32_put(bytes, MULTIFD_MAGIC);
	be32_put(bytes + 4, 1);
	for (uint8_t i = 0; i < 16; i++)
		bytes[8 + i] = i;
	bytes[24] = 200;
	cr_assert_eq(multifd_init_parse(bytes, &init), 0);
	cr_assert_eq(init.id, 200);
	cr_assert_eq(memcmp(init.uuid, bytes + 8, 16), 0);
	bytes[7] = 2;
	cr_assert_eq(multifd_init_parse(bytes, &init), -EPROTO);
	bytes[7] = 1;
	bytes[0] = 'Q';
	cr_assert_eq(multifd_init_parse(bytes, &init), -EPROTO);
}
