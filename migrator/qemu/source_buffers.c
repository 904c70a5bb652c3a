/* SPDX-License-Identifier: MIT */
/*
 * How much QEMU may write before it is read. Unread bytes delay the last pages when the guest is
 * stopped, so the buffers hold what is read in a few milliseconds, whether the link or the
 * processors limit that. Until the rate is known they have their maximum size.
 */
#include <string.h>

#include "log.h"
#include "moment.h"
#include "send_buffers.h"
#include "source_state.h"

#define AHEAD_NS (6 * NS_PER_MS)

static void resize(struct qemu_source *s, uint32_t bytes)
{
	int ret = send_buffers_set(s->pid, s->options.path, bytes);

	if (ret > 0)
		atomic_store(&s->send_buffer, bytes);
	if (ret >= 0)
		return;
	/* There is another way, and qemu-migrate --check tells of it. */
	qemu_debug("%s: QEMU's send buffers stay as they are: %s", s->name, strerror(-ret));
	atomic_store(&s->send_buffer, 0);
}

void source_open_buffers(struct qemu_source *s)
{
	resize(s, SEND_BUFFER_MAX);
}

/* Bytes that were read from the busiest connection since the last time. */
static uint64_t read_since(struct qemu_source *s)
{
	struct source_pace *p = &s->pace;
	uint64_t most = 0;

	pthread_mutex_lock(&s->relay.lock);
	for (unsigned int i = 0; i < s->relay.connection_count; i++) {
		uint64_t bytes = atomic_load(&s->relay.connections[i]->bytes_in);

		if (bytes - p->bytes[i] > most)
			most = bytes - p->bytes[i];
		p->bytes[i] = bytes;
	}
	pthread_mutex_unlock(&s->relay.lock);
	return most;
}

void source_adapt_buffers(struct qemu_source *s)
{
	uint32_t size = atomic_load(&s->send_buffer);
	struct source_pace *p = &s->pace;
	uint64_t now = vmferry_now();
	uint64_t bytes, want;

	if (size == 0)
		return;
	/* The most ever: while QEMU has little to send, little is read. */
	bytes = read_since(s);
	if (p->at_ns != 0 && now > p->at_ns && bytes * AHEAD_NS / (now - p->at_ns) > p->ahead)
		p->ahead = bytes * AHEAD_NS / (now - p->at_ns);
	p->at_ns = now;
	if (p->ahead == 0)
		return;
	want = p->ahead < SEND_BUFFER_MIN ? SEND_BUFFER_MIN : p->ahead;
	want = want > SEND_BUFFER_MAX ? SEND_BUFFER_MAX : want;
	if (want >= 2ull * size || 2 * want <= size)
		resize(s, (uint32_t)want);
}
