/* SPDX-License-Identifier: MIT */
#include "messages.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static const char *const names[] = {
	[MESSAGE_OFFER] = "offer",	 [MESSAGE_VERDICT] = "verdict",
	[MESSAGE_REHEARSE] = "rehearse", [MESSAGE_REHEARSED] = "rehearsed",
	[MESSAGE_PING] = "ping",	 [MESSAGE_PONG] = "pong",
	[MESSAGE_HASH] = "hash",	 [MESSAGE_HASHED] = "hashed",
	[MESSAGE_ARM] = "arm",		 [MESSAGE_ARMED] = "armed",
	[MESSAGE_RESENT] = "resent",	 [MESSAGE_STATE] = "state",
	[MESSAGE_READY] = "ready",	 [MESSAGE_GO] = "go",
	[MESSAGE_RUNNING] = "running",	 [MESSAGE_HASHES] = "hashes",
	[MESSAGE_CLOSING] = "closing",	 [MESSAGE_ABORT] = "abort",
	[MESSAGE_QUERY] = "query",	 [MESSAGE_ANSWER] = "answer",
	[MESSAGE_REJOIN] = "rejoin",	 [MESSAGE_REJOINED] = "rejoined",
};

const char *message_name(uint32_t type)
{
	if (type >= sizeof(names) / sizeof(names[0]) || names[type] == NULL)
		return "unknown";
	return names[type];
}

static int unsound(const struct vmferry_message *message, const char *what)
{
	log_error("message %s of %zu bytes: %s: the peer is broken or not a vmferry",
		  message_name(message->type), message->length, what);
	return -EPROTO;
}

int offer_pack(const struct offer *o, struct vmferry_blob *b)
{
	int r = wire_append_u16(b, o->version);

	r = r < 0 ? r : wire_append_u32(b, o->page_size);
	r = r < 0 ? r : wire_append_u8(b, o->verify);
	r = r < 0 ? r : vmferry_blob_append(b, o->id, sizeof(o->id));
	r = r < 0 ? r : vmferry_blob_append(b, o->secret, sizeof(o->secret));
	r = r < 0 ? r : wire_append_u64(b, o->reconnect_ns);
	r = r < 0 ? r : wire_append_u32(b, o->region_count);
	for (uint32_t i = 0; r == 0 && i < o->region_count; i++) {
		r = wire_append_u64(b, o->regions[i].address);
		r = r < 0 ? r : wire_append_u64(b, o->regions[i].size);
	}
	r = r < 0 ? r : wire_append_u32(b, o->extent_count);
	for (uint32_t i = 0; r == 0 && i < o->extent_count; i++) {
		r = wire_append_u32(b, o->extents[i].region);
		r = r < 0 ? r : wire_append_u64(b, o->extents[i].extent.offset);
		r = r < 0 ? r : wire_append_u64(b, o->extents[i].extent.length);
	}
	r = r < 0 ? r : wire_append_u32(b, (uint32_t)o->spec_length);
	return r < 0 ? r : vmferry_blob_append(b, o->spec, o->spec_length);
}

static bool region_sound(const struct offer_region *region)
{
	return region->size > 0 && region->size % VMFERRY_PAGE_SIZE == 0 &&
	       region->address % VMFERRY_PAGE_SIZE == 0 &&
	       region->size <= UINT64_MAX - region->address;
}

static bool extent_sound(const struct offer *o, const struct offer_extent *e)
{
	uint64_t size;

	if (e->region >= o->region_count)
		return false;
	size = o->regions[e->region].size;
	return e->extent.length > 0 && e->extent.length <= size &&
	       e->extent.offset <= size - e->extent.length &&
	       e->extent.offset % VMFERRY_PAGE_SIZE == 0 &&
	       e->extent.length % VMFERRY_PAGE_SIZE == 0;
}

/* In order and disjoint, so that a peer cannot have the same memory populated again and again. */
static bool extent_follows(const struct offer_extent *last, const struct offer_extent *e)
{
	return e->region > last->region ||
	       (e->region == last->region &&
		e->extent.offset >= last->extent.offset + last->extent.length);
}

static int offer_read_regions(struct wire_reader *r, struct offer *o)
{
	o->region_count = wire_read_u32(r);
	if (o->region_count == 0 || o->region_count > VMFERRY_REGIONS_MAX)
		return -EPROTO;
	for (uint32_t i = 0; i < o->region_count; i++) {
		o->regions[i].address = wire_read_u64(r);
		o->regions[i].size = wire_read_u64(r);
		if (!region_sound(&o->regions[i]))
			return -EPROTO;
	}
	return 0;
}

static int offer_read_extents(struct wire_reader *r, struct offer *o)
{
	uint32_t count = wire_read_u32(r);

	if (count > OFFER_EXTENTS_MAX || wire_left(r) / 20 < count)
		return -EPROTO;
	o->extents = calloc(count + 1, sizeof(*o->extents));
	if (o->extents == NULL)
		return -ENOMEM;
	o->extent_count = count;
	for (uint32_t i = 0; i < count; i++) {
		struct offer_extent *e = &o->extents[i];

		e->region = wire_read_u32(r);
		e->extent.offset = wire_read_u64(r);
		e->extent.length = wire_read_u64(r);
		if (!extent_sound(o, e) || (i > 0 && !extent_follows(e - 1, e)))
			return -EPROTO;
	}
	return 0;
}

static int offer_read(struct wire_reader *r, struct offer *o)
{
	const void *id, *secret;
	int e;

	o->version = wire_read_u16(r);
	if (o->version != ENGINE_VERSION)
		return r->failed ? -EPROTO : 0;
	o->page_size = wire_read_u32(r);
	o->verify = wire_read_u8(r) != 0;
	id = wire_read_bytes(r, sizeof(o->id));
	secret = wire_read_bytes(r, sizeof(o->secret));
	if (id == NULL || secret == NULL)
		return -EPROTO;
	memcpy(o->id, id, sizeof(o->id));
	memcpy(o->secret, secret, sizeof(o->secret));
	o->reconnect_ns = wire_read_u64(r);
	e = offer_read_regions(r, o);
	e = e < 0 ? e : offer_read_extents(r, o);
	if (e < 0)
		return e;
	o->spec_length = wire_read_u32(r);
	o->spec = wire_read_bytes(r, o->spec_length);
	return wire_done(r) ? 0 : -EPROTO;
}

int offer_unpack(const struct vmferry_message *message, struct offer *offer)
{
	struct wire_reader r;
	int e;

	memset(offer, 0, sizeof(*offer));
	wire_reader_init(&r, message->data, message->length);
	e = offer_read(&r, offer);
	if (e < 0)
		offer_free(offer);
	return e == -EPROTO ? unsound(message, "fields out of range") : e;
}

void offer_free(struct offer *offer)
{
	free(offer->extents);
	offer->extents = NULL;
	offer->extent_count = 0;
}

static int append_text(struct vmferry_blob *b, const char *text)
{
	size_t length = strnlen(text, PROBLEM_TEXT_MAX);
	int r = wire_append_u32(b, (uint32_t)length);

	return r < 0 ? r : vmferry_blob_append(b, text, length);
}

int verdict_pack(const struct vmferry_problems *problems, struct vmferry_blob *b)
{
	size_t count = vmferry_problems_count(problems);
	int r;

	if (count > VMFERRY_PROBLEMS_MAX)
		count = VMFERRY_PROBLEMS_MAX;
	r = wire_append_u32(b, (uint32_t)count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		const char *text = vmferry_problems_get(problems, i);

		r = append_text(b, text != NULL ? text : "unknown problem (out of memory)");
	}
	return r;
}

/* What comes from the peer goes to logs and terminals. */
static void copy_printable(char *to, const uint8_t *from, size_t length)
{
	if (length > 0)
		memcpy(to, from, length);
	to[length] = '\0';
	replace_control_characters(to, length);
}

int verdict_unpack(const struct vmferry_message *message, struct vmferry_problems *problems)
{
	char text[PROBLEM_TEXT_MAX + 1];
	struct wire_reader r;
	uint32_t count;

	wire_reader_init(&r, message->data, message->length);
	count = wire_read_u32(&r);
	if (count > VMFERRY_PROBLEMS_MAX)
		return unsound(message, "too many problems");
	for (uint32_t i = 0; i < count; i++) {
		uint32_t length = wire_read_u32(&r);
		const uint8_t *p = length <= PROBLEM_TEXT_MAX ? wire_read_bytes(&r, length) : NULL;

		if (p == NULL)
			return unsound(message, "text too long");
		copy_printable(text, p, length);
		vmferry_problems_add(problems, text, "at the destination");
	}
	return wire_done(&r) ? 0 : unsound(message, "trailing bytes");
}

int times_pack(const struct destination_times *t, struct vmferry_blob *b)
{
	int r = wire_append_u64(b, t->fence_ns);

	r = r < 0 ? r : wire_append_u64(b, t->hash_ns);
	r = r < 0 ? r : wire_append_u64(b, t->load_ns);
	r = r < 0 ? r : wire_append_u64(b, t->go_ns);
	return r < 0 ? r : wire_append_u64(b, t->run_ns);
}

int times_unpack(const struct vmferry_message *message, struct destination_times *t)
{
	struct wire_reader r;

	wire_reader_init(&r, message->data, message->length);
	t->fence_ns = wire_read_u64(&r);
	t->hash_ns = wire_read_u64(&r);
	t->load_ns = wire_read_u64(&r);
	t->go_ns = wire_read_u64(&r);
	t->run_ns = wire_read_u64(&r);
	return wire_done(&r) ? 0 : unsound(message, "wrong length");
}

int closing_pack(const struct closing *c, struct vmferry_blob *b)
{
	int r = wire_append_u64(b, c->populate_ns);

	r = r < 0 ? r : wire_append_u64(b, c->lanes_cpu_ns);
	r = r < 0 ? r : wire_append_u64(b, c->control_cpu_ns);
	r = r < 0 ? r : wire_append_u64(b, c->placed_bytes);
	r = r < 0 ? r : wire_append_u32(b, (uint32_t)c->words_length);
	return r < 0 ? r : vmferry_blob_append(b, c->words, c->words_length);
}

int closing_unpack(const struct vmferry_message *message, struct closing *c)
{
	struct wire_reader r;

	wire_reader_init(&r, message->data, message->length);
	c->populate_ns = wire_read_u64(&r);
	c->lanes_cpu_ns = wire_read_u64(&r);
	c->control_cpu_ns = wire_read_u64(&r);
	c->placed_bytes = wire_read_u64(&r);
	c->words_length = wire_read_u32(&r);
	if (c->words_length > CLOSING_WORDS_MAX)
		return unsound(message, "closing words too long");
	c->words = wire_read_bytes(&r, c->words_length);
	return wire_done(&r) ? 0 : unsound(message, "wrong length");
}

int words_pack(uint32_t region, uint64_t first, const uint64_t *words, uint32_t count,
	       struct vmferry_blob *b)
{
	int r = wire_append_u32(b, region);

	r = r < 0 ? r : wire_append_u64(b, first);
	r = r < 0 ? r : wire_append_u32(b, count);
	for (uint32_t i = 0; r == 0 && i < count; i++)
		r = wire_append_u64(b, words[i]);
	return r;
}

int words_unpack(const struct vmferry_message *message, struct words *w)
{
	struct wire_reader r;

	wire_reader_init(&r, message->data, message->length);
	w->region = wire_read_u32(&r);
	w->first = wire_read_u64(&r);
	w->count = wire_read_u32(&r);
	if (w->count > MESSAGE_WORDS_MAX)
		return unsound(message, "too many words");
	w->at = wire_read_bytes(&r, (size_t)w->count * 8);
	return wire_done(&r) ? 0 : unsound(message, "wrong length");
}

int rejoin_unpack(const struct vmferry_message *message, struct rejoin *rejoin)
{
	if (message->length != sizeof(*rejoin))
		return unsound(message, "of another length");
	memcpy(rejoin, message->data, sizeof(*rejoin));
	return 0;
}

int number_unpack(const struct vmferry_message *message, uint64_t *number)
{
	struct wire_reader r;

	wire_reader_init(&r, message->data, message->length);
	*number = wire_read_u64(&r);
	return wire_done(&r) ? 0 : unsound(message, "wrong length");
}

int message_send(struct vmferry_session *session, enum vmferry_channel channel, uint32_t type,
		 struct vmferry_blob **blob, uint64_t deadline)
{
	int r = vmferry_send(session, channel, type, vmferry_blob_data(*blob),
			     vmferry_blob_size(*blob), deadline);

	vmferry_blob_free(blob);
	return r;
}

int message_send_number(struct vmferry_session *session, enum vmferry_channel channel,
			uint32_t type, uint64_t number, uint64_t deadline)
{
	uint8_t bytes[8];

	wire_put_u64(bytes, number);
	return vmferry_send(session, channel, type, bytes, sizeof(bytes), deadline);
}

void message_text(const struct vmferry_message *message, char *text, size_t size)
{
	size_t length = message->length < size ? message->length : size - 1;

	copy_printable(text, message->data, length);
}

int message_unexpected(const char *who, const struct vmferry_message *message, const char *expected)
{
	char text[256];

	if (message->type != MESSAGE_ABORT) {
		log_error("%s: message %s (%u) came where %s was expected: protocol error", who,
			  message_name(message->type), message->type, expected);
		return -EPROTO;
	}
	message_text(message, text, sizeof(text));
	log_warn("%s: the peer gave up while %s was expected: %s", who, expected, text);
	return -ECONNABORTED;
}

bool error_is_of_connection(int error)
{
	switch (error) {
	case -ECONNRESET:
	case -EPIPE:
	case -EIO:
	case -ENODEV:
	case -ENETDOWN:
	case -ENETRESET:
	case -ENETUNREACH:
	case -EHOSTUNREACH:
	case -ETIMEDOUT:
		return true;
	default:
		return false;
	}
}

const char *failure_text(const struct vmferry_session *session, int error)
{
	const char *text = session != NULL ? vmferry_session_failure(session) : "";

	return text[0] != '\0' ? text : strerror(-error);
}
