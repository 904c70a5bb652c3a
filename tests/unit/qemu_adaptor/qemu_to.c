/* SPDX-License-Identifier: MIT */
#include "plan.h"

#include <criterion/criterion.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "migrator/qemu/bytes.h"
#include "migrator/qemu/multifd.h"
#include "migrator/qemu/stream.h"

#define BUFFER_BYTES (64u << 10)
#define FOOTER	     5

static bool read_all(int fd, void *data, size_t length)
{
	uint8_t *at = data;

	while (length > 0) {
		ssize_t n = recv(fd, at, length, 0);

		if (n <= 0)
			return false;
		at += n;
		length -= (size_t)n;
	}
	return true;
}

/* ---- the barrier between the channels and the main stream ---- */

static bool channels_at(const struct qemu_to *q, unsigned int syncs)
{
	for (unsigned int i = 0; i < q->plan->channels; i++)
		if (q->syncs[i] < syncs)
			return false;
	return true;
}

/* A channel has ended without the SYNC that is waited for. */
static bool is_hopeless(const struct qemu_to *q, unsigned int syncs)
{
	for (unsigned int i = 0; i < q->plan->channels; i++)
		if (q->channel_ended[i] && q->syncs[i] < syncs)
			return true;
	return false;
}

static bool main_syncs(struct qemu_to *q)
{
	bool over;

	pthread_mutex_lock(&q->lock);
	q->main_syncs++;
	while (!q->over && !channels_at(q, q->main_syncs)) {
		q->over = is_hopeless(q, q->main_syncs);
		if (!q->over)
			pthread_cond_wait(&q->changed, &q->lock);
	}
	q->released = q->main_syncs;
	pthread_cond_broadcast(&q->changed);
	over = q->over;
	pthread_mutex_unlock(&q->lock);
	return !over;
}

static bool channel_syncs(struct qemu_to *q, unsigned int channel)
{
	bool over;

	pthread_mutex_lock(&q->lock);
	q->syncs[channel]++;
	pthread_cond_broadcast(&q->changed);
	while (!q->over && q->released < q->syncs[channel])
		pthread_cond_wait(&q->changed, &q->lock);
	over = q->over;
	pthread_mutex_unlock(&q->lock);
	return !over;
}

static void give_up(struct qemu_to *q)
{
	pthread_mutex_lock(&q->lock);
	q->over = true;
	pthread_cond_broadcast(&q->changed);
	pthread_mutex_unlock(&q->lock);
}

/* ---- channels ---- */

static struct guest_block *find_block(struct qemu_to *q, const char *name)
{
	for (unsigned int i = 0; i < q->guest->count; i++)
		if (strcmp(q->guest->blocks[i].name, name) == 0)
			return &q->guest->blocks[i];
	return NULL;
}

static bool take_pages(struct qemu_to *q, int fd, const struct multifd_packet *p)
{
	struct guest_block *b = find_block(q, p->name);

	pthread_mutex_lock(&q->lock);
	q->placed_by_qemu += p->normal + p->zero;
	pthread_mutex_unlock(&q->lock);
	for (uint32_t i = 0; i < p->normal; i++)
		if (b == NULL || !read_all(fd, b->memory + p->offsets[i], GUEST_PAGE))
			return false;
	for (uint32_t i = 0; i < p->zero && b != NULL; i++)
		memset(b->memory + p->offsets[p->normal + i], 0, GUEST_PAGE);
	return true;
}

static void read_channel(struct qemu_to_channel *c)
{
	uint8_t head[MULTIFD_PACKET_BYTES];
	uint8_t init[MULTIFD_INIT_BYTES];
	struct multifd_packet p;
	int ret;

	if (!read_all(c->fd, init, sizeof(init)))
		return;
	while (read_all(c->fd, head, sizeof(head))) {
		ret = multifd_packet_parse(head, &p);
		/* "Compressed" pages are not, in these tests. */
		if (ret < 0 && !p.framed)
			break;
		if (!take_pages(c->to, c->fd, &p) || (p.sync && !channel_syncs(c->to, c->number)))
			break;
	}
}

/* ---- the main stream ---- */

struct main_reader {
	struct qemu_to *to;
	int fd;
	struct stream stream;
	uint8_t buffer[BUFFER_BYTES];
	size_t at;
	size_t have;
};

static bool fill(struct main_reader *m)
{
	ssize_t n;

	memmove(m->buffer, m->buffer + m->at, m->have - m->at);
	m->have -= m->at;
	m->at = 0;
	n = recv(m->fd, m->buffer + m->have, BUFFER_BYTES - m->have, 0);
	m->have += n > 0 ? (size_t)n : 0;
	return n > 0;
}

static bool take_page(struct main_reader *m, const struct stream_record *r)
{
	struct guest_block *b = &m->to->guest->blocks[r->block];
	uint64_t *page = (uint64_t *)(void *)(b->memory + r->offset);

	while (m->have - m->at < r->payload)
		if (!fill(m))
			return false;
	pthread_mutex_lock(&m->to->lock);
	m->to->placed_by_qemu++;
	pthread_mutex_unlock(&m->to->lock);
	if (r->flags == STREAM_FLAG_PAGE)
		memcpy(page, m->buffer + m->at, GUEST_PAGE);
	else if (r->flags == STREAM_FLAG_ZERO)
		memset(page, 0, GUEST_PAGE);
	else
		for (unsigned int i = 0; i < GUEST_PAGE / 8; i++)
			page[i] ^= be64_get(m->buffer + m->at);
	m->at += r->payload;
	return true;
}

static bool take_record(struct main_reader *m, const struct stream_record *r)
{
	const struct plan *plan = m->to->plan;

	if (r->flags == STREAM_FLAG_FLUSH)
		return main_syncs(m->to);
	if (r->flags != STREAM_FLAG_EOS)
		return take_page(m, r);
	if (plan->channels > 0 &&
	    (plan->sections_sync || (r->section == STREAM_END && plan->no_last_flush)) &&
	    !main_syncs(m->to))
		return false;
	if (r->section == STREAM_END) {
		m->to->ended = true;
		m->to->wrong_at_end = guest_wrong_pages(m->to->guest);
	}
	return true;
}

static void read_tail(struct main_reader *m)
{
	uint8_t *expected = malloc(PLAN_TAIL_BYTES);
	uint8_t *tail = malloc(PLAN_TAIL_BYTES);
	size_t have = m->have - m->at;

	plan_tail(m->to->plan, expected);
	if (have <= PLAN_TAIL_BYTES) {
		memcpy(tail, m->buffer + m->at, have);
		m->to->tail_right = read_all(m->fd, tail + have, PLAN_TAIL_BYTES - have) &&
				    memcmp(tail, expected, PLAN_TAIL_BYTES) == 0;
	}
	m->to->loaded = m->to->tail_right;
	free(expected);
	free(tail);
}

/*
 * The section of a device that a plan has there: its bytes, which the adaptor's parser would stop
 * at.
 */
static size_t device_bytes(const struct plan *plan, bool start)
{
	const char *name = start ? plan->foreign : plan->late_device ? "late" : NULL;

	if (start && plan->early_device)
		name = "early";
	return name == NULL ? 0 : 19 + strlen(name);
}

/* Behind the footer that follows an EOS. */
static bool skip_device(struct main_reader *m, const struct stream_record *r)
{
	struct stream_item item;
	size_t bytes = 0;

	if (r->section == STREAM_START)
		bytes = device_bytes(m->to->plan, true);
	else if (r->section == STREAM_PART && m->stream.sections == 1)
		bytes = device_bytes(m->to->plan, false);
	if (bytes == 0)
		return true;
	while (m->have - m->at < FOOTER + bytes)
		if (!fill(m))
			return false;
	cr_assert_eq(stream_next(&m->stream, m->buffer + m->at, FOOTER, &item), FOOTER);
	m->at += FOOTER + bytes;
	return true;
}

static void read_main(struct qemu_to_channel *c)
{
	struct main_reader *m = calloc(1, sizeof(*m));
	struct stream_item item = {.kind = STREAM_BYTES};
	static const uint8_t shut[] = {0, 1, 0, 4, 0, 0, 0, 0};
	bool good = true;

	m->to = c->to;
	m->fd = c->fd;
	stream_init(&m->stream);
	while (good && item.kind != STREAM_TAIL) {
		ssize_t n = stream_next(&m->stream, m->buffer + m->at, m->have - m->at, &item);

		m->at += n > 0 ? (size_t)n : 0;
		if (n < 0 || item.kind == STREAM_PASS)
			good = false;
		else if (item.kind == STREAM_RECORD)
			good = take_record(m, &item.record) &&
			       (item.record.flags != STREAM_FLAG_EOS ||
				skip_device(m, &item.record));
		else if (item.kind == STREAM_MORE)
			good = fill(m);
	}
	if (good)
		read_tail(m);
	if (m->to->loaded && m->to->plan->return_path)
		cr_expect_eq(send(c->fd, shut, sizeof(shut), MSG_NOSIGNAL), sizeof(shut));
	free(m);
}

/* ---- its connections ---- */

static void *connection_main(void *arg)
{
	struct qemu_to_channel *c = arg;
	uint8_t magic[4];

	if (recv(c->fd, magic, sizeof(magic), MSG_PEEK | MSG_WAITALL) == sizeof(magic)) {
		if (be32_get(magic) != MULTIFD_MAGIC) {
			read_main(c);
			give_up(c->to);
		} else {
			pthread_mutex_lock(&c->to->lock);
			c->number = c->to->channel_count++;
			pthread_mutex_unlock(&c->to->lock);
			read_channel(c);
			pthread_mutex_lock(&c->to->lock);
			c->to->channel_ended[c->number] = true;
			pthread_cond_broadcast(&c->to->changed);
			pthread_mutex_unlock(&c->to->lock);
		}
	}
	shutdown(c->fd, SHUT_RDWR);
	return NULL;
}

static void *to_main(void *arg)
{
	struct qemu_to *q = arg;

	for (;;) {
		struct pollfd p = {.fd = q->listener, .events = POLLIN};
		struct qemu_to_channel *c = &q->connections[q->connection_count];
		bool stop = atomic_load(&q->stop);

		if (poll(&p, 1, 5) <= 0 || q->connection_count > PLAN_CHANNELS_MAX) {
			if (stop)
				break;
			continue;
		}
		*c = (struct qemu_to_channel){.to = q, .fd = accept(q->listener, NULL, NULL)};
		cr_assert_geq(c->fd, 0);
		cr_assert_eq(pthread_create(&c->thread, NULL, connection_main, c), 0);
		pthread_mutex_lock(&q->lock);
		q->connection_count++;
		pthread_mutex_unlock(&q->lock);
	}
	return NULL;
}

void qemu_to_start(struct qemu_to *q, const struct plan *plan, struct guest *guest,
		   const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	memset(q, 0, sizeof(*q));
	q->plan = plan;
	q->guest = guest;
	pthread_mutex_init(&q->lock, NULL);
	pthread_cond_init(&q->changed, NULL);
	unlink(path);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	q->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(q->listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(q->listener, 1), 0);
	cr_assert_eq(pthread_create(&q->thread, NULL, to_main, q), 0);
}

bool qemu_to_is_connected(struct qemu_to *q)
{
	bool connected;

	pthread_mutex_lock(&q->lock);
	connected = q->connection_count > 0;
	pthread_mutex_unlock(&q->lock);
	return connected;
}

static bool has_main(struct qemu_to *q)
{
	bool has;

	pthread_mutex_lock(&q->lock);
	has = q->channel_count < q->connection_count;
	pthread_mutex_unlock(&q->lock);
	return has;
}

/* When its connections are closed by the adaptor: the migration is over. */
void qemu_to_join(struct qemu_to *q)
{
	atomic_store(&q->stop, true);
	pthread_join(q->thread, NULL);
	if (q->plan->cut != 0 || !has_main(q))
		give_up(q);
	for (unsigned int i = 0; i < q->connection_count; i++) {
		pthread_join(q->connections[i].thread, NULL);
		close(q->connections[i].fd);
	}
	close(q->listener);
	pthread_cond_destroy(&q->changed);
	pthread_mutex_destroy(&q->lock);
}
