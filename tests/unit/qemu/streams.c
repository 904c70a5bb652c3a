/* SPDX-License-Identifier: MIT */
/* The main channels of the golden streams, in pieces of all sizes. */
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "golden.h"
#include "replay.h"

TestSuite(stream_golden, .timeout = 120);

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static struct replay *replay_whole(const uint8_t *data, size_t length)
{
	struct replay *r = replay_new();

	replay_feed(r, data, length);
	return r;
}

static void expect_told(const struct golden *g, const struct replay *r)
{
	const struct stream *s = &r->stream;

	cr_assert_eq(r->error, 0, "%s: %s", g->name, s->reason);
	cr_assert_str_eq(s->machine, g->machine, "%s", g->name);
	cr_assert_str_eq(s->reason, g->reason != NULL ? g->reason : "", "%s: %s", g->name,
			 s->reason);
	cr_assert_eq(s->passing, g->reason != NULL, "%s", g->name);
	cr_assert_eq(s->finished, g->reason == NULL, "%s", g->name);
	cr_assert_eq(s->block_count, g->blocks, "%s: %u", g->name, s->block_count);
	cr_assert_eq(s->return_path, g->return_path, "%s", g->name);
	cr_assert_eq(s->switchover_start, g->switchover_start, "%s", g->name);
	cr_assert_eq(s->ignore_shared, g->ignore_shared, "%s", g->name);
	cr_assert_eq(s->flushes > 0, g->flushes, "%s", g->name);
}

static void expect_records(const struct golden *g, const struct replay *r)
{
	const struct stream *s = &r->stream;
	size_t pages = replay_count(r, STREAM_RECORD, STREAM_FLAG_PAGE);

	cr_assert_eq(replay_count(r, STREAM_BLOCKS, 0), 1);
	cr_assert_eq(replay_count(r, STREAM_TAIL, 0), 1);
	cr_assert_eq(replay_count(r, STREAM_PASS, 0), 0);
	/* START and END end with EOS as each PART does. */
	cr_assert_eq(replay_count(r, STREAM_RECORD, STREAM_FLAG_EOS), s->sections + 2);
	cr_assert_eq(replay_count(r, STREAM_RECORD, STREAM_FLAG_FLUSH), s->flushes);
	cr_assert_eq(pages > 0, !g->multifd, "%s", g->name);
	for (uint32_t flag = 1; flag <= g->also; flag <<= 1)
		cr_assert((g->also & flag) == 0 || replay_count(r, STREAM_RECORD, flag) > 0, "%s",
			  g->name);
}

Test(stream_golden, whole__told_as_it_was_recorded)
{
	for (size_t i = 0; i < golden_count; i++) {
		const struct golden *g = &goldens[i];
		size_t length;
		uint8_t *data = golden_read(g, "main", &length);
		struct replay *r = replay_whole(data, length);

		expect_told(g, r);
		if (g->reason == NULL)
			expect_records(g, r);
		cr_assert_eq(r->raw.length, length, "%s", g->name);
		cr_assert_eq(memcmp(r->raw.data, data, length), 0, "%s", g->name);
		replay_free(&r);
		free(data);
	}
}

/* What is handed on is a stream of its own, and says the same. */
Test(stream_golden, handed_on__parses_to_the_same)
{
	for (size_t i = 0; i < golden_count; i++) {
		size_t length;
		uint8_t *data = golden_read(&goldens[i], "main", &length);
		struct replay *r = replay_whole(data, length);
		struct replay *again = replay_whole(r->out.data, r->out.length);

		replay_expect_same(r, again, goldens[i].name);
		replay_free(&again);
		replay_free(&r);
		free(data);
	}
}

/*
 * Wherever the stream is cut off, all of it was handed on but a record's header that is not
 * complete. @compared bytes were found to be the stream's before.
 */
static size_t expect_cut(const struct golden *g, const struct replay *r, const uint8_t *data,
			 size_t length, size_t compared)
{
	cr_assert_eq(r->error, 0, "%s: %s", g->name, r->stream.reason);
	cr_assert_leq(r->raw.length, length);
	cr_assert_lt(length - r->raw.length, STREAM_HEADER_MAX);
	cr_assert(r->stream.passing || g->reason == NULL || r->stream.sections == 0);
	cr_assert_eq(memcmp(r->raw.data + compared, data + compared, r->raw.length - compared), 0,
		     "%s: %zu", g->name, length);
	return r->raw.length;
}

Test(stream_golden, byte_by_byte__same_and_each_prefix_handed_on)
{
	for (size_t i = 0; i < golden_count; i++) {
		size_t length, compared = 0;
		uint8_t *data = golden_read(&goldens[i], "main", &length);
		struct replay *r = replay_whole(data, length), *bytewise = replay_new();

		for (size_t at = 0; at < length; at++) {
			replay_feed(bytewise, data + at, 1);
			compared = expect_cut(&goldens[i], bytewise, data, at + 1, compared);
		}
		replay_expect_same(r, bytewise, goldens[i].name);
		replay_free(&bytewise);
		replay_free(&r);
		free(data);
	}
}

/*
 * Pieces of one size for a while, then of another: records, fields and payloads are split
 * everywhere.
 */
static struct replay *replay_split(const uint8_t *data, size_t length, uint64_t *seed)
{
	static const size_t sizes[] = {1, 2, 7, 8, 9, 64, 300, 4096, 4104, 65536};
	struct replay *r = replay_new();
	size_t at = 0;

	while (at < length) {
		size_t limit = sizes[next_random(seed) % (sizeof(sizes) / sizeof(sizes[0]))];

		for (unsigned int i = 0; i < 10 && at < length; i++) {
			size_t part = next_random(seed) % (limit + 1);
			uint8_t *piece;

			part = part > length - at ? length - at : part;
			/* A block of its own, so that a sanitizer sees what is read behind it. */
			piece = malloc(part > 0 ? part : 1);
			cr_assert_not_null(piece);
			memcpy(piece, data + at, part);
			replay_feed(r, piece, part);
			free(piece);
			at += part;
		}
	}
	return r;
}

Test(stream_golden, random_splits__same)
{
	uint64_t seed = 20240229;

	for (size_t i = 0; i < golden_count; i++) {
		size_t length;
		uint8_t *data = golden_read(&goldens[i], "main", &length);
		struct replay *r = replay_whole(data, length);

		for (unsigned int round = 0; round < 8; round++) {
			struct replay *split = replay_split(data, length, &seed);

			replay_expect_same(r, split, goldens[i].name);
			replay_free(&split);
		}
		replay_free(&r);
		free(data);
	}
}

static void place_pages(const struct golden *g, const struct replay *r, struct golden_memory *m)
{
	size_t count;
	const struct replay_event *event = replay_events(r, &count);

	for (size_t i = 0; i < count; i++) {
		const char *name = r->stream.blocks[event[i].block].name;

		if (event[i].kind == STREAM_RECORD && event[i].flags == STREAM_FLAG_PAGE)
			golden_expect_page(g, m, name, event[i].offset,
					   r->out.data + event[i].at + 9 + strlen(name));
	}
}

Test(stream_golden, pages__are_the_guests_memory)
{
	unsigned int checked = 0;

	for (size_t i = 0; i < golden_count; i++) {
		const struct golden *g = &goldens[i];
		struct golden_memory m = {0};
		struct replay *r;
		size_t length;
		uint8_t *data;

		/* Not where they travel otherwise, or are in no stream. */
		if (g->reason != NULL || g->multifd || g->also != 0 || g->ignore_shared)
			continue;
		data = golden_read(g, "main", &length);
		r = replay_whole(data, length);
		place_pages(g, r, &m);
		golden_expect_stopped(g, &m);
		cr_assert_gt(r->stream.rounds, 3, "%s", g->name);
		checked++;
		replay_free(&r);
		free(data);
	}
	cr_assert_gt(checked, 8);
}
