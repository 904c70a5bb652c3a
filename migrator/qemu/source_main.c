/* SPDX-License-Identifier: MIT */
/*
 * The reader of the main stream. Up to the end of ram's START section it only hands on what it
 * reads; then it knows whether pages are offloaded, and where each block is. At the end of ram's
 * END section, and before another byte goes on, all pages that were read anywhere are fenced.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "log.h"
#include "moment.h"
#include "source_state.h"

#define PLACE_NS (10 * NS_PER_S)
#define DRAIN_NS (10 * NS_PER_S) /* without progress the watch ends it sooner */

struct main_stream {
	struct qemu_source *source;
	struct reader reader;
	bool forwards; /* pages stay in the stream, and those before are fenced */
	/* the channels' SYNC packets belong to ends of sections, not to FLUSH records */
	bool sections_sync;
	bool told_blocks;
};

static struct connection *connection_of(const struct main_stream *m)
{
	return m->reader.connection;
}

/* ---- the decision ---------------------------------------------------------------------------- */

static int tell_blocks(struct qemu_source *s, bool passing)
{
	struct peer_blocks *blocks = calloc(1, sizeof(*blocks));
	uint8_t *bytes = NULL;
	size_t length;
	int ret = -ENOMEM;

	if (blocks != NULL) {
		blocks->passing = passing;
		/* Unless the stream was understood so far, there may be one. */
		blocks->return_path =
			s->stream.return_path || (passing && !s->stream.return_path_known);
		snprintf(blocks->reason, sizeof(blocks->reason), "%.*s", PEER_REASON_MAX - 1,
			 s->stream.reason);
		blocks->count = passing ? 0 : s->stream.block_count;
		for (unsigned int i = 0; i < blocks->count; i++) {
			memcpy(blocks->blocks[i].name, s->stream.blocks[i].name, STREAM_ID_MAX);
			blocks->blocks[i].bytes = s->stream.blocks[i].bytes;
		}
		ret = peer_blocks_encode(blocks, &bytes, &length);
	}
	free(blocks);
	if (ret < 0)
		return relay_fail(&s->relay, ret, "no memory for the list of blocks");
	ret = relay_send(&s->relay, PEER_BLOCKS, bytes, length);
	free(bytes);
	return ret;
}

static int await_placed(struct qemu_source *s)
{
	uint64_t deadline = vmferry_now() + PLACE_NS;
	int ret = 0;

	pthread_mutex_lock(&s->relay.lock);
	while (ret == 0 && s->placed == NULL)
		ret = relay_await(&s->relay, deadline);
	pthread_mutex_unlock(&s->relay.lock);
	return ret == -ETIMEDOUT ? relay_fail(&s->relay, ret,
					      "the destination does not say where the blocks are")
				 : ret;
}

/* Of the largest block, which is what a user wants to know of. */
static void say_why_none(struct qemu_source *s)
{
	unsigned int largest = 0;

	for (unsigned int i = 1; i < s->stream.block_count; i++)
		if (s->stream.blocks[i].bytes > s->stream.blocks[largest].bytes)
			largest = i;
	if (s->stream.block_count == 0)
		snprintf(s->reason, sizeof(s->reason), "there is no memory");
	else
		snprintf(s->reason, sizeof(s->reason), "block '%.60s': %.160s",
			 s->stream.blocks[largest].name, s->placed->targets[largest].reason);
}

/* All channels are there, and the destination knows where the blocks are. */
static int decide(struct main_stream *m)
{
	struct qemu_source *s = m->source;
	int ret = connection_flush(connection_of(m));

	if (ret == 0)
		ret = await_placed(s);
	if (ret == 0)
		ret = offload_place(&s->offload, s->stream.blocks, s->stream.block_count,
				    s->placed);
	if (ret < 0)
		return ret;
	if (s->options.live && offload_any(&s->offload))
		ret = source_open_live(s);
	if (ret < 0)
		return ret;
	if (offload_any(&s->offload)) {
		source_decide(s, DECISION_OFFLOAD);
		return 0;
	}
	say_why_none(s);
	if (s->options.require_offload)
		return relay_fail(&s->relay, -ENOTSUP, "pages cannot be offloaded: %s", s->reason);
	m->forwards = true;
	source_decide(s, DECISION_FORWARD);
	return 0;
}

/*
 * ram's START section is over. Sections of other devices may follow, and with them that it all has
 * to be passed through, until the first section of pages begins. That cannot be waited for when
 * there are channels: QEMU fills these first, and then flushes the main stream.
 */
static int end_start(struct main_stream *m)
{
	struct qemu_source *s = m->source;

	source_settle(s);
	m->sections_sync = s->stream.flushes == 0;
	return sync_has_channels(&s->sync) ? decide(m) : 0;
}

static int stop(struct main_stream *m, const char *reason)
{
	m->forwards = true;
	return reason != NULL ? source_stop_offload(m->source, &m->reader, reason)
			      : source_fence_reader(m->source, &m->reader);
}

/*
 * Channels have been told to drop pages, and may have. Behind this fence all of these are placed,
 * all others stay in the stream, and the end of RAM, which will not be seen, needs nothing more.
 */
static int pass_late(struct main_stream *m)
{
	struct qemu_source *s = m->source;
	int ret = stop(m, s->stream.reason);

	if (ret == 0)
		ret = sync_stop(&s->sync, vmferry_now() + DRAIN_NS);
	return ret < 0 ? ret : source_fence_reader(s, &m->reader);
}

static int pass(struct main_stream *m)
{
	struct qemu_source *s = m->source;
	int ret;

	if (s->decision == DECISION_OFFLOAD)
		return pass_late(m);
	snprintf(s->reason, sizeof(s->reason), "%.*s", PEER_REASON_MAX - 1, s->stream.reason);
	if (s->options.require_offload)
		return relay_fail(&s->relay, -ENOTSUP, "pages cannot be offloaded: %s", s->reason);
	ret = m->told_blocks ? 0 : tell_blocks(s, true);
	/* The answer may be a refusal, which comes before the first page has gone on. */
	if (ret == 0)
		ret = await_placed(s);
	if (ret == 0)
		source_decide(s, DECISION_FORWARD);
	return ret;
}

/* ---- records --------------------------------------------------------------------------------- */

static int hand_on(struct main_stream *m, const struct stream_record *record)
{
	int ret = connection_put(connection_of(m), record->header, record->header_length);

	if (ret < 0 || record->payload == 0)
		return ret;
	ret = reader_need(&m->reader, record->payload);
	if (ret <= 0)
		return ret < 0 ? ret : -EPIPE;
	ret = connection_put(connection_of(m), reader_data(&m->reader), record->payload);
	m->reader.at += record->payload;
	return ret;
}

static int take_page(struct main_stream *m, const struct stream_record *record)
{
	struct offload *o = &m->source->offload;
	int ret = 0;

	if (!m->forwards && atomic_load(&m->source->stopped))
		ret = stop(m, NULL);
	if (ret < 0)
		return ret;
	if (m->forwards || o->targets[record->block].kind == PLACEMENT_FORWARD) {
		atomic_fetch_add_explicit(&m->source->relayed_pages, 1, memory_order_relaxed);
		return hand_on(m, record);
	}
	if (record->flags == STREAM_FLAG_ZERO)
		return ring_zero(m->reader.ring, record->block, record->offset);
	ret = reader_need(&m->reader, STREAM_PAGE_SIZE);
	if (ret <= 0)
		return ret < 0 ? ret : -EPIPE;
	ret = ring_page(m->reader.ring, reader_data(&m->reader), record->block, record->offset);
	m->reader.at += STREAM_PAGE_SIZE;
	return ret;
}

/*
 * A delta to what QEMU has sent before, or compressed: QEMU has to place it, in order with all
 * other pages.
 */
static int take_encoded(struct main_stream *m, const struct stream_record *record)
{
	int ret = 0;

	if (!m->forwards)
		ret = stop(m, record->flags == STREAM_FLAG_XBZRLE ? "xbzrle" : "compression");
	return ret < 0 ? ret : hand_on(m, record);
}

/* The channels' SYNC packets belong to this record: newer pages may follow on any of them. */
static int take_sync(struct main_stream *m)
{
	struct qemu_source *s = m->source;
	int ret;

	if (s->decision == DECISION_FORWARD)
		return 0;
	/* No page has come yet, and the channels wait for the decision. */
	if (s->decision == DECISION_NONE)
		return sync_main_arrives(&s->sync, false);
	ret = ring_sync(m->reader.ring);
	if (ret == 0)
		ret = connection_flush(connection_of(m));
	return ret < 0 ? ret : sync_main_arrives(&s->sync, true);
}

/*
 * The last page was read. What follows are the devices, which read guest memory while they are
 * loaded.
 */
static int take_end(struct main_stream *m)
{
	struct qemu_source *s = m->source;
	uint32_t epoch = 0;
	int ret;

	atomic_store(&s->moments.pages, vmferry_now());
	ret = sync_drain(&s->sync, vmferry_now() + DRAIN_NS);
	if (ret == 0)
		ret = ring_sync(m->reader.ring);
	if (ret == 0)
		ret = offload_fence_last(&s->offload, &epoch);
	return ret < 0 ? ret : connection_fence(connection_of(m), epoch, true);
}

static int take_eos(struct main_stream *m, const struct stream_record *record)
{
	int ret = 0;

	if (record->section == STREAM_START)
		ret = end_start(m);
	if (ret < 0)
		return ret;
	/* At the end nobody waits for a SYNC any more, but for the end of the channels' bytes. */
	if (record->section == STREAM_END && m->source->decision == DECISION_OFFLOAD)
		ret = take_end(m);
	else if (m->sections_sync)
		ret = take_sync(m);
	return ret < 0 ? ret : hand_on(m, record);
}

static int take_record(struct main_stream *m, const struct stream_record *record)
{
	struct qemu_source *s = m->source;
	int ret = 0;

	if (record->section != STREAM_START && s->decision == DECISION_NONE)
		ret = decide(m);
	if (ret < 0)
		return ret;
	if (record->section == STREAM_END && s->decision == DECISION_OFFLOAD &&
	    atomic_load(&s->moments.end) == 0)
		atomic_store(&s->moments.end, vmferry_now());
	switch (record->flags) {
	case STREAM_FLAG_PAGE:
	case STREAM_FLAG_ZERO:
		return take_page(m, record);
	case STREAM_FLAG_EOS:
		return take_eos(m, record);
	case STREAM_FLAG_FLUSH:
		ret = take_sync(m);
		return ret < 0 ? ret : hand_on(m, record);
	default:
		return take_encoded(m, record);
	}
}

/* ---- the stream ------------------------------------------------------------------------------ */

static int take_item(struct main_stream *m, const struct stream_item *item)
{
	struct qemu_source *s = m->source;

	switch (item->kind) {
	case STREAM_BYTES:
		return connection_put(connection_of(m), item->bytes, item->length);
	case STREAM_BLOCKS:
		m->told_blocks = true;
		return tell_blocks(s, false);
	case STREAM_RECORD:
		return take_record(m, &item->record);
	case STREAM_PASS:
		return pass(m);
	case STREAM_TAIL:
		/*
		 * The destination may run the guest when it has read what follows; the source
		 * would, too, if we closed.
		 */
		if (s->placed->autostart && !s->stream.return_path)
			relay_be_lenient(&s->relay);
		return 0;
	default:
		return 0;
	}
}

/*
 * Takes all that is there: 1 to go on, 0 when the rest of the stream is only to be handed on, or an
 * error.
 */
static int take_items(struct main_stream *m)
{
	struct stream *stream = &m->source->stream;
	struct stream_item item = {.kind = STREAM_BYTES};
	bool opaque = false;

	atomic_store_explicit(&m->source->moments.read, vmferry_now(), memory_order_relaxed);
	while (item.kind != STREAM_MORE) {
		ssize_t n = stream_next(stream, reader_data(&m->reader), reader_left(&m->reader),
					&item);
		int ret;

		if (n < 0)
			return relay_fail(&m->source->relay, (int)n, "QEMU's stream: %s",
					  stream->reason);
		m->reader.at += (size_t)n;
		ret = take_item(m, &item);
		if (ret < 0)
			return ret;
		opaque |= item.kind == STREAM_TAIL || item.kind == STREAM_PASS;
		/* Without a return path only the stream's own end tells that it was complete. */
		if (item.kind == STREAM_RECORD && m->source->decision == DECISION_FORWARD &&
		    stream->return_path)
			return 0;
	}
	return opaque ? 0 : 1;
}

int source_read_main(struct qemu_source *s, struct connection *c)
{
	struct main_stream m = {.source = s};
	int ret = source_reader_open(s, c, &m.reader);

	if (ret < 0)
		return ret;
	do {
		ret = reader_fill(&m.reader);
		if (ret > 0)
			ret = take_items(&m);
		else if (ret == 0)
			goto out;
	} while (ret > 0);
	if (ret == 0)
		ret = reader_copy(&m.reader);
out:
	/*
	 * QEMU has closed in the middle of a record: as far as it goes that is its own way to end a
	 * migration.
	 */
	return ret == -EPIPE ? 0 : ret;
}
