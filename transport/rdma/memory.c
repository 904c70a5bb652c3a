/* SPDX-License-Identifier: MIT */
/* Memory as the rest of the transport registers, prepares, uses and deregisters it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/discard.h"
#include "common/log.h"
#include "transport/rdma/chunk.h"

/*
 * Small enough that the first can be written to soon and holes are worth something, large enough
 * that keys are few.
 */
#define CHUNKS_WISHED	256u
#define CHUNK_SHIFT_MIN 24u /* 16 MiB */
#define CHUNK_SHIFT_MAX 30u /* 1 GiB */
#define PAGE_SHIFT	12u
/* Waits are interrupted by whoever ends them; this is for what nobody has thought of. */
#define WAIT_SLICE_NS (100 * NS_PER_MS)

static struct rdma_registrar *registrar_of(const struct vmferry_memory *memory)
{
	return rdma_session_of(memory->session)->registrar;
}

/* ---- where chunks begin and end -------------------------------------------------------------- */

static unsigned int choose_shift(const struct rdma_session *session, uint64_t size)
{
	unsigned int shift = CHUNK_SHIFT_MIN;

	while (shift < CHUNK_SHIFT_MAX && size > (uint64_t)CHUNKS_WISHED << shift)
		shift++;
	for (unsigned int i = 0; i < session->rail_count; i++)
		while (session->rails[i] != NULL && shift > PAGE_SHIFT &&
		       1ull << shift > session->rails[i]->limits.max_mr)
			shift--;
	return shift;
}

static size_t index_of(const struct rdma_memory *m, uint64_t offset)
{
	uint64_t address = m->memory->address;

	return ((address + offset) >> m->shift) - (address >> m->shift);
}

static void cut(struct rdma_memory *m)
{
	uint64_t size = 1ull << m->shift;
	uint64_t offset = 0;

	for (size_t i = 0; i < m->count; i++) {
		/* Only the first need not begin where addresses are aligned. */
		uint64_t length = size - ((m->memory->address + offset) & (size - 1));
		struct rdma_chunk *chunk = &m->chunks[i];

		if (length > m->memory->size - offset)
			length = m->memory->size - offset;
		chunk->memory = m;
		chunk->offset = offset;
		chunk->length = length;
		offset += length;
	}
}

static int table_new(struct vmferry_memory *memory, struct rdma_memory **result)
{
	struct rdma_session *session = rdma_session_of(memory->session);
	unsigned int shift = choose_shift(session, memory->size);
	uint64_t last = memory->address + (memory->size - 1);
	size_t count = (last >> shift) - (memory->address >> shift) + 1;
	struct rdma_memory *m;

	if (count > (SIZE_MAX - sizeof(*m)) / sizeof(m->chunks[0]))
		return -ENOMEM;
	m = calloc(1, sizeof(*m) + count * sizeof(m->chunks[0]));
	if (m == NULL)
		return -ENOMEM;
	m->memory = memory;
	m->registrar = session->registrar;
	m->shift = shift;
	m->count = count;
	cut(m);
	*result = m;
	return 0;
}

/* ---- registering ----------------------------------------------------------------------------- */

/*
 * All of it may never have to be pinned, so it is not refused if it is more than the limit: only
 * prepare, which says what is needed, does that.
 */
static void warn_of_limit(struct rdma_registrar *r, uint64_t registered)
{
	char limit[MEMLOCK_TEXT];

	if (r->warned || memlock_allows(r->session, registered))
		return;
	r->warned = true;
	memlock_text(limit);
	log_warn("session %s: memory, 0x%llx bytes on %u rails, is more than the memlock limit of "
		 "%s: it fails if all of it holds content: " MEMLOCK_REMEDY,
		 r->session->session->name, (unsigned long long)registered, r->session->rail_count,
		 limit);
}

static int allow_reads(const struct vmferry_memory *memory)
{
	const struct vmferry_session *session = memory->session;
	int ret = 0;

	if (session->is_source || (memory->access & VMFERRY_ACCESS_REMOTE_READ) == 0)
		return 0;
	for (unsigned int i = 0; ret == 0 && i < session->lane_count; i++)
		ret = rdma_connection_allow(rdma_lane_connection(session->lanes[i]),
					    IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ);
	return ret;
}

/* Pins nothing: a guest that uses little of its memory is not made resident. */
int rdma_memory_register(struct vmferry_memory *memory)
{
	struct rdma_registrar *r = registrar_of(memory);
	struct rdma_memory *m = NULL;
	uint64_t registered;
	int ret = registrar_start(r);

	if (ret == 0)
		ret = allow_reads(memory);
	if (ret == 0)
		ret = table_new(memory, &m);
	if (ret < 0)
		return ret;
	/* Under the lock, because the source may ask for it before this function has returned. */
	pthread_mutex_lock(&r->lock);
	memory->transport = m;
	registered = r->registered += memory->size;
	pthread_mutex_unlock(&r->lock);
	warn_of_limit(r, registered);
	return 0;
}

void rdma_memory_deregister(struct vmferry_memory *memory)
{
	struct rdma_registrar *r = registrar_of(memory);
	struct rdma_memory *m = memory->transport;

	pthread_mutex_lock(&r->lock);
	registrar_withdraw(r, m);
	memory->transport = NULL;
	r->registered -= memory->size;
	pthread_mutex_unlock(&r->lock);
	/* Before the keys become worthless: a write that comes later ends its queue pair. */
	if (!memory->session->is_source && memory->access != 0)
		registrar_tell_gone(r, memory);
	for (size_t i = 0; i < m->count; i++)
		chunk_unpin(&m->chunks[i]);
	free(m);
}

/* ---- preparing ------------------------------------------------------------------------------- */

static uint64_t empty_bytes(const struct rdma_memory *m, size_t first, size_t last)
{
	uint64_t bytes = 0;

	for (size_t i = first; i <= last; i++)
		if (chunk_state(&m->chunks[i]) == CHUNK_EMPTY)
			bytes += m->chunks[i].length;
	return bytes;
}

static int over_limit(const struct vmferry_memory *memory, uint64_t bytes)
{
	char limit[MEMLOCK_TEXT];

	memlock_text(limit);
	log_error("session %s: memory at 0x%llx: pinning 0x%llx bytes on each rail passes the "
		  "memlock limit of %s: " MEMLOCK_REMEDY,
		  memory->session->name, (unsigned long long)memory->address,
		  (unsigned long long)bytes, limit);
	return -ENOMEM;
}

/*
 * What passes the limit is refused here, all of it, before anything is spent: every byte of it will
 * be pinned, and the kernel would refuse the last of them when the migration is well under way.
 */
int rdma_memory_prepare(struct vmferry_memory *memory, uint64_t offset, uint64_t length)
{
	struct rdma_registrar *r = registrar_of(memory);
	struct rdma_memory *m = memory->transport;
	size_t first = index_of(m, offset);
	size_t last = index_of(m, offset + (length - 1));
	int ret = session_error(memory->session);
	uint64_t bytes;
	bool allowed;

	if (ret < 0 || (!memory->session->is_source && memory->access == 0))
		return ret;
	pthread_mutex_lock(&r->lock);
	bytes = r->taken + empty_bytes(m, first, last);
	allowed = memlock_allows(r->session, bytes);
	for (size_t i = first; allowed && i <= last; i++)
		registrar_queue(r, &m->chunks[i], false);
	pthread_mutex_unlock(&r->lock);
	return allowed ? 0 : over_limit(memory, bytes);
}

/* ---- discarding ------------------------------------------------------------------------------ */

/* On demand the device lets go of a page when the process does. */
static bool may_discard(const struct rdma_chunk *chunk)
{
	enum chunk_state state = chunk_state(chunk);

	return state == CHUNK_EMPTY || (state == CHUNK_READY && !chunk->pinned);
}

/* Under the lock, so that nobody pins it meanwhile. */
int rdma_memory_discard(struct vmferry_memory *memory, uint64_t offset, uint64_t length)
{
	struct rdma_registrar *r = registrar_of(memory);
	struct rdma_memory *m = memory->transport;
	size_t last = index_of(m, offset + (length - 1));
	int ret = 0;

	pthread_mutex_lock(&r->lock);
	for (size_t i = index_of(m, offset); ret == 0 && i <= last; i++)
		if (!may_discard(&m->chunks[i]))
			ret = -EBUSY;
	if (ret == 0)
		ret = discard_pages(memory->base + offset, length);
	pthread_mutex_unlock(&r->lock);
	return ret;
}

/* ---- using ----------------------------------------------------------------------------------- */

static int wait_done(struct rdma_registrar *r)
{
	struct timespec until = deadline_timespec(vmferry_now() + WAIT_SLICE_NS);

	pthread_cond_clockwait(&r->done, &r->lock, CLOCK_MONOTONIC, &until);
	return session_error(r->session->session);
}

/*
 * Lock held. The lane pins it itself rather than wait in a queue; if another thread has begun,
 * waiting for that is shorter.
 */
static int make_ready(struct rdma_registrar *r, struct rdma_chunk *chunk)
{
	int ret = session_error(r->session->session);

	while (ret == 0) {
		switch (chunk_state(chunk)) {
		case CHUNK_READY:
			return 0;
		case CHUNK_FAILED:
			ret = session_error(r->session->session);
			return ret < 0 ? ret : -ECANCELED;
		case CHUNK_PINNING:
			ret = wait_done(r);
			break;
		default:
			ret = registrar_pin(r, chunk);
		}
	}
	return ret;
}

int rdma_local_key(struct vmferry_memory *memory, const struct rdma_rail *rail, uint64_t offset,
		   uint32_t *key, uint64_t *end)
{
	struct rdma_memory *m = memory->transport;
	struct rdma_chunk *chunk = &m->chunks[index_of(m, offset)];
	struct rdma_registrar *r = m->registrar;
	int ret = 0;

	if (chunk_state(chunk) != CHUNK_READY) {
		pthread_mutex_lock(&r->lock);
		ret = make_ready(r, chunk);
		pthread_mutex_unlock(&r->lock);
	}
	if (ret < 0)
		return ret;
	*key = chunk->regions[rail->index]->lkey;
	*end = chunk->offset + chunk->length;
	return 0;
}

void rdma_registration_stats(const struct vmferry_session *session,
			     struct vmferry_registration_stats *stats)
{
	const struct rdma_registrar *r = rdma_session_of(session)->registrar;

	*stats = (struct vmferry_registration_stats){
		.bytes = counter_get(&r->bytes),
		.regions = counter_get(&r->regions),
		.ns = counter_get(&r->ns),
	};
}
