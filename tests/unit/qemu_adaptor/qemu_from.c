/* SPDX-License-Identifier: MIT */
#include "plan.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrator/qemu/bytes.h"
#include "migrator/qemu/multifd.h"
#include "migrator/qemu/stream.h"

#define BUFFER_BYTES (256u << 10)
#define RAM	     2u
#define WORD_BYTES   8u

void plan_tail(const struct plan *plan, uint8_t tail[PLAN_TAIL_BYTES])
{
	static const uint8_t device[] = {4, 0, 0, 0, 5, 3, 'd', 'e', 'v', 0, 0, 0, 0, 0, 0, 0, 1};
	uint64_t random = plan->seed + 77;

	for (unsigned int i = 0; i < PLAN_TAIL_BYTES; i++)
		tail[i] = (uint8_t)guest_random(&random);
	memcpy(tail, device, sizeof(device));
}

/* ---- bytes ---- */

static void close_all(struct qemu_from *q)
{
	q->broken = true;
	shutdown(q->main, SHUT_RDWR);
	for (unsigned int i = 0; i < q->plan->channels; i++)
		shutdown(q->channels[i], SHUT_RDWR);
}

static void write_to(struct qemu_from *q, int fd, const void *data, size_t length)
{
	const uint8_t *at = data;

	while (!q->broken && length > 0) {
		size_t want = length;
		ssize_t n;

		if (q->plan->cut != 0 && q->written + want > q->plan->cut)
			want = q->plan->cut - q->written;
		n = want == 0 ? -1 : send(fd, at, want, MSG_NOSIGNAL);
		if (n < 0) {
			close_all(q);
			return;
		}
		at += n;
		length -= (size_t)n;
		q->written += (uint64_t)n;
	}
}

static void flush(struct qemu_from *q)
{
	size_t at = 0;

	while (at < q->used) {
		size_t n = 1 + guest_draw(&q->random, 60000);

		if (n > q->used - at)
			n = q->used - at;
		write_to(q, q->main, q->buffer + at, n);
		at += n;
	}
	q->used = 0;
}

static void put(struct qemu_from *q, const void *data, size_t length)
{
	if (q->used + length > BUFFER_BYTES)
		flush(q);
	memcpy(q->buffer + q->used, data, length);
	q->used += length;
}

static void put8(struct qemu_from *q, uint8_t value)
{
	put(q, &value, 1);
}

static void put16(struct qemu_from *q, uint16_t value)
{
	uint8_t bytes[2];

	be16_put(bytes, value);
	put(q, bytes, sizeof(bytes));
}

static void put32(struct qemu_from *q, uint32_t value)
{
	uint8_t bytes[4];

	be32_put(bytes, value);
	put(q, bytes, sizeof(bytes));
}

static void put64(struct qemu_from *q, uint64_t value)
{
	uint8_t bytes[8];

	be64_put(bytes, value);
	put(q, bytes, sizeof(bytes));
}

static void put_name(struct qemu_from *q, const char *name)
{
	put8(q, (uint8_t)strlen(name));
	put(q, name, strlen(name));
}

/* ---- channels ---- */

static void write_packet(struct qemu_from *q, unsigned int channel, uint32_t flags,
			 const struct guest_block *b, const uint64_t *pages, uint32_t normal,
			 uint32_t zero)
{
	uint8_t head[MULTIFD_PACKET_BYTES] = {0};
	uint8_t page[GUEST_PAGE];

	be32_put(head, MULTIFD_MAGIC);
	be32_put(head + 4, 1);
	be32_put(head + 8, flags);
	be32_put(head + 12, normal + zero > 0 ? MULTIFD_PAGES_MAX : 0);
	be32_put(head + 16, normal);
	be32_put(head + 20, normal * GUEST_PAGE);
	be32_put(head + 32, zero);
	if (b != NULL)
		memcpy(head + 64, b->name, strlen(b->name));
	for (uint32_t i = 0; i < normal + zero; i++)
		be64_put(head + 320 + 8 * i, pages[i] * GUEST_PAGE);
	write_to(q, q->channels[channel], head, sizeof(head));
	for (uint32_t i = 0; i < normal; i++) {
		guest_fill_page(page, b->model[pages[i]]);
		write_to(q, q->channels[channel], page, sizeof(page));
	}
}

struct batch {
	const struct guest_block *block;
	uint64_t normal[MULTIFD_PAGES_MAX];
	uint64_t zero[MULTIFD_PAGES_MAX];
	uint32_t normals;
	uint32_t zeros;
	uint32_t limit;
};

static void give_batch(struct qemu_from *q, struct batch *b, unsigned int channel, uint32_t flags)
{
	uint64_t pages[MULTIFD_PAGES_MAX];

	memcpy(pages, b->normal, b->normals * sizeof(pages[0]));
	memcpy(pages + b->normals, b->zero, b->zeros * sizeof(pages[0]));
	if (q->plan->compressed && b->normals > 0)
		flags |= 4;
	write_packet(q, channel, flags, b->block, pages, b->normals, b->zeros);
	b->normals = 0;
	b->zeros = 0;
	b->limit = 1 + guest_draw(&q->random, MULTIFD_PAGES_MAX);
}

/* All pages of a round were given to channels: each says so. */
static void sync_channels(struct qemu_from *q, struct batch *b)
{
	unsigned int with = PLAN_CHANNELS_MAX;

	if (q->plan->channels == 0)
		return;
	if (b->normals + b->zeros > 0) {
		with = guest_draw(&q->random, q->plan->channels);
		if (!q->plan->pages_in_sync) {
			give_batch(q, b, with, 0);
			with = PLAN_CHANNELS_MAX;
		}
	}
	for (unsigned int i = 0; i < q->plan->channels; i++) {
		if (i == with)
			give_batch(q, b, i, 1);
		else
			write_packet(q, i, 1, NULL, NULL, 0, 0);
	}
}

/* ---- the main stream ---- */

static void put_record(struct qemu_from *q, const struct guest_block *b, uint64_t page,
		       uint32_t flag, const struct guest_block **last)
{
	bool same = *last == b;

	put64(q, page * GUEST_PAGE | flag | (same ? 0x20 : 0));
	if (!same)
		put_name(q, b->name);
	*last = b;
}

static void put_page(struct qemu_from *q, const struct guest_block *b, uint64_t page,
		     uint64_t before, unsigned int round, const struct guest_block **last)
{
	uint8_t bytes[GUEST_PAGE];
	uint64_t word = b->model[page];

	if (word == 0) {
		put_record(q, b, page, STREAM_FLAG_ZERO, last);
		put8(q, 0);
	} else if (q->plan->xbzrle != 0 && round >= q->plan->xbzrle &&
		   guest_draw(&q->random, 2) == 0) {
		put_record(q, b, page, STREAM_FLAG_XBZRLE, last);
		put8(q, 1);
		put16(q, WORD_BYTES);
		put64(q, before ^ word);
	} else {
		put_record(q, b, page, STREAM_FLAG_PAGE, last);
		guest_fill_page(bytes, word);
		put(q, bytes, sizeof(bytes));
	}
}

static void put_section(struct qemu_from *q, uint8_t type)
{
	put8(q, type);
	put32(q, RAM);
}

static void end_section(struct qemu_from *q)
{
	put64(q, STREAM_FLAG_EOS);
	put8(q, 0x7e);
	put32(q, RAM);
	flush(q);
}

/* The model's page is changed, and given to a channel or the main stream. */
static void send_page(struct qemu_from *q, struct guest_block *b, uint64_t page, unsigned int round,
		      struct batch *batch, const struct guest_block **last)
{
	uint64_t before = b->model[page];

	pthread_mutex_lock(&q->guest->lock);
	b->model[page] = guest_draw(&q->random, 10) < 3 ? 0 : guest_random(&q->random);
	pthread_mutex_unlock(&q->guest->lock);
	if (q->plan->channels == 0 || (q->plan->legacy_zero && b->model[page] == 0)) {
		put_page(q, b, page, before, round, last);
		if (guest_draw(&q->random, 16) == 0)
			flush(q);
		return;
	}
	if (batch->normals + batch->zeros > 0 &&
	    (batch->block != b || batch->normals + batch->zeros >= batch->limit))
		give_batch(q, batch, guest_draw(&q->random, q->plan->channels), 0);
	batch->block = b;
	if (b->model[page] == 0)
		batch->zero[batch->zeros++] = page;
	else
		batch->normal[batch->normals++] = page;
}

static void send_round(struct qemu_from *q, unsigned int round, bool last_round)
{
	struct batch batch = {.limit = 1 + guest_draw(&q->random, MULTIFD_PAGES_MAX)};
	const struct guest_block *last = NULL;

	put_section(q, last_round ? 3 : 2);
	/*
	 * Each other round goes backwards, which no QEMU does: the pages that were sent last are
	 * the first to come again, when the older copies may still be on their way.
	 */
	for (unsigned int i = 0; i < q->guest->count; i++) {
		bool back = round % 2 == 1;
		struct guest_block *b = &q->guest->blocks[back ? q->guest->count - 1 - i : i];

		for (uint64_t p = 0; p < b->pages && !q->broken; p++)
			if (round == 0 || guest_draw(&q->random, 4) == 0)
				send_page(q, b, back ? b->pages - 1 - p : p, round, &batch, &last);
	}
	sync_channels(q, &batch);
	if (q->plan->channels > 0 && !q->plan->sections_sync &&
	    !(last_round && q->plan->no_last_flush))
		put64(q, STREAM_FLAG_FLUSH);
	end_section(q);
}

static void put_device(struct qemu_from *q, const char *name)
{
	put_section(q, 4);
	put_name(q, name);
	put64(q, 1);
	put8(q, 0x7e);
	put32(q, RAM);
}

static void send_start(struct qemu_from *q)
{
	struct batch none = {0};
	uint64_t bytes = 0;

	put32(q, 0x5145564d);
	put32(q, 3);
	put8(q, 7);
	put32(q, 4);
	put(q, "test", 4);
	if (q->plan->return_path) {
		put8(q, 8);
		put16(q, 1);
		put16(q, 0);
	}
	put_section(q, 1);
	put_name(q, "ram");
	put32(q, 0);
	put32(q, 4);
	for (unsigned int i = 0; i < q->guest->count; i++)
		bytes += q->guest->blocks[i].pages * GUEST_PAGE;
	put64(q, bytes | 4);
	for (unsigned int i = 0; i < q->guest->count; i++) {
		put_name(q, q->guest->blocks[i].name);
		put64(q, q->guest->blocks[i].pages * GUEST_PAGE);
	}
	sync_channels(q, &none);
	if (q->plan->channels > 0 && !q->plan->sections_sync)
		put64(q, STREAM_FLAG_FLUSH);
	end_section(q);
	if (q->plan->foreign != NULL) {
		put_section(q, 1);
		put_name(q, q->plan->foreign);
		put64(q, 1);
		put8(q, 0x7e);
		put32(q, RAM);
	}
	if (q->plan->early_device)
		put_device(q, "early");
}

static void read_back(struct qemu_from *q)
{
	uint8_t head[4], data[8];

	while (recv(q->main, head, sizeof(head), MSG_WAITALL) == sizeof(head) &&
	       be16_get(head + 2) <= sizeof(data) &&
	       recv(q->main, data, be16_get(head + 2), MSG_WAITALL) == be16_get(head + 2))
		if (be16_get(head) == 1) {
			q->shut = (int)be32_get(data);
			return;
		}
}

static void *from_main(void *arg)
{
	struct qemu_from *q = arg;
	uint8_t *tail = malloc(PLAN_TAIL_BYTES);
	uint8_t init[MULTIFD_INIT_BYTES] = {0};

	be32_put(init, MULTIFD_MAGIC);
	be32_put(init + 4, 1);
	for (unsigned int i = 0; i < q->plan->channels; i++) {
		init[24] = (uint8_t)i;
		write_to(q, q->channels[i], init, sizeof(init));
	}
	send_start(q);
	for (unsigned int i = 0; i <= q->plan->rounds; i++) {
		send_round(q, i, i == q->plan->rounds);
		if (i == 0 && q->plan->late_device)
			put_device(q, "late");
	}
	plan_tail(q->plan, tail);
	put(q, tail, PLAN_TAIL_BYTES);
	flush(q);
	free(tail);
	if (q->plan->return_path && !q->broken)
		read_back(q);
	close(q->main);
	for (unsigned int i = 0; i < q->plan->channels; i++)
		close(q->channels[i]);
	return NULL;
}

void qemu_from_start(struct qemu_from *q, const struct plan *plan, struct guest *guest,
		     const int *fds)
{
	*q = (struct qemu_from){
		.plan = plan,
		.guest = guest,
		.main = fds[0],
		.random = plan->seed * 4 + 3,
		.shut = -1,
		.buffer = malloc(BUFFER_BYTES),
	};
	memcpy(q->channels, fds + 1, plan->channels * sizeof(fds[0]));
	for (unsigned int i = 0; i < 8; i++)
		guest_random(&q->random);
	cr_assert_eq(pthread_create(&q->thread, NULL, from_main, q), 0);
}

bool qemu_from_join(struct qemu_from *q)
{
	pthread_join(q->thread, NULL);
	free(q->buffer);
	return !q->broken && (!q->plan->return_path || q->shut == 0);
}
