/* SPDX-License-Identifier: MIT */
/*
 * fuzz-qemu-seeds DIRECTORY FILE...: makes inputs for the fuzzers from golden streams, short ones:
 * main channels without payload and with a few records of each kind in each section, and heads of
 * packets, a few of each kind. DIRECTORY has the folders "stream" and "multifd".
 */
#include <errno.h>
#include <string.h>

#include "migrator/qemu/bytes.h"
#include "migrator/qemu/multifd.h"
#include "must.h"
#include "replay.h"

#define RECORDS_MAX 3u	 /* of one kind in a section */
#define TAIL_MAX    200u /* bytes of the device state */

static const char *directory;
static unsigned int written;

static void write_seed(const char *folder, const void *data, size_t length)
{
	char path[4096];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s/%04u", directory, folder, written++);
	f = fopen(path, "wb");
	must_for(f != NULL, path);
	must_for(fwrite(data, 1, length, f) == length && fclose(f) == 0, path);
}

/*
 * Adds what lies between two events but the payload of the first, unless there is enough of its
 * kind.
 */
static void add_part(struct bytes *seed, const struct replay *r, const struct replay_event *event,
		     size_t to, unsigned int *seen)
{
	size_t length = to - event->at - event->payload;

	if (event->kind == STREAM_RECORD && (event->flags & STREAM_FLAG_EOS))
		memset(seen, 0, STREAM_PAGE_SIZE * sizeof(*seen));
	else if (event->kind == STREAM_RECORD && seen[event->flags]++ >= RECORDS_MAX)
		return;
	if ((event->kind == STREAM_TAIL || event->kind == STREAM_PASS) && length > TAIL_MAX)
		length = TAIL_MAX;
	bytes_add(seed, r->out.data + event->at, length);
}

static void seed_of_stream(const uint8_t *data, size_t length)
{
	static unsigned int seen[STREAM_PAGE_SIZE];
	struct replay *r = replay_new();
	struct bytes seed = {0};
	size_t count;
	const struct replay_event *event;

	replay_feed(r, data, length);
	event = replay_events(r, &count);
	must(count > 0 && (r->stream.finished || r->stream.passing));
	bytes_add(&seed, r->out.data, event[0].at);
	memset(seen, 0, sizeof(seen));
	for (size_t i = 0; i < count; i++)
		add_part(&seed, r, &event[i], i + 1 < count ? event[i + 1].at : r->out.length,
			 seen);
	write_seed("stream", seed.data, seed.length);
	bytes_free(&seed);
	replay_free(&r);
}

static void seeds_of_channel(const uint8_t *data, size_t length)
{
	unsigned int seen[8] = {0};
	size_t at = MULTIFD_INIT_BYTES;
	struct multifd_packet p;

	write_seed("multifd", data, MULTIFD_INIT_BYTES);
	for (; at < length; at += MULTIFD_PACKET_BYTES + p.payload) {
		int ret = multifd_packet_parse(data + at, &p);

		must(p.framed);
		if (seen[(ret != 0) + 2 * (p.normal > 0) + 4 * p.sync]++ < 1)
			write_seed("multifd", data + at, MULTIFD_PACKET_BYTES);
	}
}

int main(int argc, char **argv)
{
	must(argc > 2);
	directory = argv[1];
	for (int i = 2; i < argc; i++) {
		FILE *f = fopen(argv[i], "rb");
		struct bytes all = {0};
		uint8_t part[65536];
		size_t got;

		must_for(f != NULL, argv[i]);
		while ((got = fread(part, 1, sizeof(part), f)) > 0)
			bytes_add(&all, part, got);
		fclose(f);
		must_for(all.length >= 4, argv[i]);
		if (be32_get(all.data) == MULTIFD_MAGIC)
			seeds_of_channel(all.data, all.length);
		else
			seed_of_stream(all.data, all.length);
		bytes_free(&all);
	}
	return 0;
}
