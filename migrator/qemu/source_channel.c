/* SPDX-License-Identifier: MIT */
/*
 * The reader of a multifd channel. A packet of pages of a block that is offloaded is dropped; the
 * SYNC of a packet is handed on, with the pages taken out that a packet of old machine types may
 * have with it.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>

#include "moment.h"
#include "multifd.h"
#include "source_state.h"

#define IDLE_NS (10 * NS_PER_S)

struct channel {
	struct qemu_source *source;
	unsigned int number;
	struct reader reader;
	bool forwards;	    /* pages stay in the stream, and those before are fenced */
	unsigned int block; /* of the last packet */
};

static int stop(struct channel *ch, const char *reason)
{
	int ret = reason != NULL ? source_stop_offload(ch->source, &ch->reader, reason)
				 : source_fence_reader(ch->source, &ch->reader);

	ch->forwards = true;
	if (ret == 0)
		sync_channel_forwards(&ch->source->sync, ch->number);
	return ret;
}

/*
 * Between packets: all that was read is on its way, and the main stream's reader may see so. 1, 0:
 * closed.
 */
static int await_packet(struct channel *ch)
{
	struct connection *c = ch->reader.connection;
	int ret;

	if (reader_left(&ch->reader) > 0)
		return 1;
	ret = ring_sync(ch->reader.ring);
	if (ret == 0)
		ret = connection_flush(c);
	if (ret < 0)
		return ret;
	sync_channel_idle(&ch->source->sync, ch->number, true);
	do
		ret = connection_await(c, vmferry_now() + IDLE_NS);
	while (ret == -EINTR);
	sync_channel_idle(&ch->source->sync, ch->number, false);
	return ret < 0 ? ret : reader_fill(&ch->reader);
}

static int find_block(struct channel *ch, const struct multifd_packet *p)
{
	const struct stream *stream = &ch->source->stream;

	if (ch->block < stream->block_count && strcmp(stream->blocks[ch->block].name, p->name) == 0)
		return 0;
	for (unsigned int i = 0; i < stream->block_count; i++)
		if (strcmp(stream->blocks[i].name, p->name) == 0) {
			ch->block = i;
			return 0;
		}
	return relay_fail(&ch->source->relay, -EPROTO,
			  "a packet has pages of an unknown block '%s'", p->name);
}

static int check_offsets(struct channel *ch, const struct multifd_packet *p)
{
	uint64_t bytes = ch->source->stream.blocks[ch->block].bytes;

	for (uint32_t i = 0; i < p->normal + p->zero; i++)
		if (p->offsets[i] > bytes - STREAM_PAGE_SIZE)
			return relay_fail(
				&ch->source->relay, -EPROTO,
				"a packet has a page at 0x%llx of block '%s', behind its end",
				(unsigned long long)p->offsets[i], p->name);
	return 0;
}

static int take_pages(struct channel *ch, const struct multifd_packet *p)
{
	int ret = 0;

	for (uint32_t i = 0; ret == 0 && i < p->normal; i++) {
		ret = reader_need(&ch->reader, STREAM_PAGE_SIZE);
		if (ret <= 0)
			return ret < 0 ? ret : -EPIPE;
		ret = ring_page(ch->reader.ring, reader_data(&ch->reader), ch->block,
				p->offsets[i]);
		ch->reader.at += STREAM_PAGE_SIZE;
	}
	for (uint32_t i = 0; ret == 0 && i < p->zero; i++)
		ret = ring_zero(ch->reader.ring, ch->block, p->offsets[p->normal + i]);
	return ret;
}

/* The packet as it came, with its pages. */
static int hand_on(struct channel *ch, const uint8_t head[MULTIFD_PACKET_BYTES], uint32_t payload)
{
	int ret = connection_put(ch->reader.connection, head, MULTIFD_PACKET_BYTES);

	while (ret == 0 && payload > 0) {
		size_t n;

		ret = reader_need(&ch->reader, 1);
		if (ret <= 0)
			return ret < 0 ? ret : -EPIPE;
		n = reader_left(&ch->reader) < payload ? reader_left(&ch->reader) : payload;
		ret = connection_put(ch->reader.connection, reader_data(&ch->reader), n);
		ch->reader.at += n;
		payload -= (uint32_t)n;
	}
	return ret;
}

static int offload_packet(struct channel *ch, struct multifd_packet *p,
			  uint8_t head[MULTIFD_PACKET_BYTES])
{
	int ret = find_block(ch, p);

	if (ret == 0)
		ret = check_offsets(ch, p);
	if (ret < 0)
		return ret;
	if (ch->source->offload.targets[ch->block].kind == PLACEMENT_FORWARD) {
		atomic_fetch_add_explicit(&ch->source->relayed_pages, p->normal + p->zero,
					  memory_order_relaxed);
		return hand_on(ch, head, p->payload);
	}
	ret = take_pages(ch, p);
	if (ret < 0 || !p->sync)
		return ret;
	multifd_packet_empty(head);
	return connection_put(ch->reader.connection, head, MULTIFD_PACKET_BYTES);
}

static int take_sync(struct channel *ch)
{
	int ret = ring_sync(ch->reader.ring);

	if (ret == 0)
		ret = connection_flush(ch->reader.connection);
	return ret < 0 ? ret : sync_channel_arrives(&ch->source->sync, ch->number);
}

/*
 * A packet whose head is there, and which is left to QEMU: 1 when it and all behind it are only to
 * be handed on.
 */
static int refuse_packet(struct channel *ch, int error, const char *reason)
{
	int ret;

	if (error != -ENOTSUP)
		return relay_fail(&ch->source->relay, error, "a packet on channel %u: %s",
				  ch->number, reason);
	ret = stop(ch, reason);
	return ret < 0 ? ret : 1;
}

/* 1: all behind it is only to be handed on. */
static int take_packet(struct channel *ch)
{
	uint8_t head[MULTIFD_PACKET_BYTES];
	struct multifd_packet p;
	int ret;

	atomic_store_explicit(&ch->source->moments.read, vmferry_now(), memory_order_relaxed);
	p.reason = "";
	ret = multifd_head_check(reader_data(&ch->reader), &p.reason);
	if (ret < 0)
		return refuse_packet(ch, ret, p.reason);
	ret = reader_need(&ch->reader, MULTIFD_PACKET_BYTES);
	if (ret <= 0)
		return ret < 0 ? ret : -EPIPE;
	memcpy(head, reader_data(&ch->reader), sizeof(head));
	ret = multifd_packet_parse(head, &p);
	if (ret < 0)
		return refuse_packet(ch, ret, p.reason);
	ch->reader.at += MULTIFD_PACKET_BYTES;
	if (!ch->forwards && atomic_load(&ch->source->stopped))
		ret = stop(ch, NULL);
	if (ret < 0)
		return ret;
	if (ch->forwards || p.normal + p.zero == 0)
		ret = hand_on(ch, head, p.payload);
	else
		ret = offload_packet(ch, &p, head);
	if (ret == 0 && p.sync)
		ret = take_sync(ch);
	return ret;
}

static int take_packets(struct channel *ch)
{
	int ret;

	do {
		ret = await_packet(ch);
		if (ret > 0)
			ret = reader_need(&ch->reader, MULTIFD_HEAD_BYTES);
		if (ret <= 0)
			return ret;
		ret = take_packet(ch);
	} while (ret == 0);
	if (ret < 0)
		return ret;
	/*
	 * What follows is not looked at, SYNC neither. That pages stay in the stream is known to
	 * the others from here on.
	 */
	sync_channel_ended(&ch->source->sync, ch->number);
	return reader_copy(&ch->reader);
}

static int take_init(struct channel *ch)
{
	struct multifd_init init;
	int ret = reader_need(&ch->reader, MULTIFD_INIT_BYTES);

	if (ret <= 0)
		return ret < 0 ? ret : -EPIPE;
	if (multifd_init_parse(reader_data(&ch->reader), &init) < 0)
		return relay_fail(
			&ch->source->relay, -EPROTO,
			"a connection begins neither as a stream nor as a multifd channel");
	ret = connection_put(ch->reader.connection, reader_data(&ch->reader), MULTIFD_INIT_BYTES);
	ch->reader.at += MULTIFD_INIT_BYTES;
	return ret < 0 ? ret : connection_flush(ch->reader.connection);
}

int source_read_channel(struct qemu_source *s, struct connection *c, unsigned int number)
{
	struct channel ch = {.source = s, .number = number};
	enum decision decision;
	int ret = source_reader_open(s, c, &ch.reader);

	if (ret < 0)
		return ret;
	s->sync.channels[number].connection = c;
	ret = take_init(&ch);
	if (ret == 0)
		ret = source_await_decision(s, &decision);
	if (ret == 0)
		ret = decision == DECISION_OFFLOAD ? take_packets(&ch) : reader_copy(&ch.reader);
	/* QEMU has closed in the middle of a packet: that is its own way to end a migration. */
	return ret == -EPIPE ? 0 : ret;
}
