/* SPDX-License-Identifier: MIT */
/*
 * Any main channel, without the records' payload: split or not it comes to the same, and what is
 * handed on says the same. replay.c has what must hold for each record.
 */
#include "fuzz.h"
#include "replay.h"

static struct replay *replay(const uint8_t *data, size_t size, size_t part)
{
	struct replay *r = replay_new();

	r->payload_elsewhere = true;
	for (size_t at = 0; at < size; at += part)
		replay_feed(r, data + at, part < size - at ? part : size - at);
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct replay *whole, *split, *again;

	if (size == 0)
		return 0;
	whole = replay(data, size, size);
	/* Some input, some size of its pieces. */
	split = replay(data, size, 1 + data[size / 2] % 11);
	replay_expect_same(whole, split, "split");
	replay_free(&split);
	if (whole->error == 0 && whole->out.length > 0) {
		again = replay(whole->out.data, whole->out.length, whole->out.length);
		replay_expect_same(whole, again, "handed on");
		replay_free(&again);
	}
	replay_free(&whole);
	return 0;
}
