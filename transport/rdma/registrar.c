/* SPDX-License-Identifier: MIT */
/*
 * Which chunks are to be pinned, the threads that pin them, and what a destination tells its source
 * of it: KEYS when a chunk is ready, GONE before memory is taken back, NONE where there is nothing.
 *
 * ORDER    A chunk is READY only when its KEYS are sent, and GONE follows when nothing is PINNING
 *          any more: so the source never gets a key after the GONE that takes it back.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/node.h"
#include "common/thread.h"
#include "common/wire.h"
#include "transport/rdma/chunk.h"

/*
 * Longer than a peer can be silent without being taken for dead: that is what ends a send that
 * nobody reads.
 */
#define SEND_NS (5 * NS_PER_S)

/* ---- what the source is told ----------------------------------------------------------------- */

static int tell(const struct rdma_session *session, uint32_t type, const void *data, size_t length)
{
	int ret =
		session_send_control(session->session, type, data, length, vmferry_now() + SEND_NS);

	if (ret == -ETIMEDOUT)
		ret = session_fail(session->session, ret,
				   "control: the source does not take what it is told of memory");
	return ret;
}

static size_t put_keys(const struct rdma_chunk *chunk, const struct rdma_session *session,
		       uint8_t *to)
{
	/*
	 * One for each rail of the listener, so that both sides count alike; 0 for one that no lane
	 * came over.
	 */
	wire_put_u64(to, chunk->memory->memory->address + chunk->offset);
	wire_put_u64(to + 8, chunk->length);
	wire_put_u32(to + 16, session->addresses.rail_count);
	for (unsigned int i = 0; i < session->addresses.rail_count; i++) {
		const struct ibv_mr *region = chunk->regions[i];

		wire_put_u32(to + 20 + 4 * (size_t)i, region == NULL ? 0 : region->rkey);
	}
	return 20 + 4 * (size_t)session->addresses.rail_count;
}

static int tell_keys(const struct rdma_registrar *registrar, const struct rdma_chunk *chunk)
{
	uint8_t data[20 + 4 * VMFERRY_RAILS_MAX];
	size_t length = put_keys(chunk, registrar->session, data);

	return tell(registrar->session, RDMA_CONTROL_KEYS, data, length);
}

void registrar_tell_gone(struct rdma_registrar *registrar, const struct vmferry_memory *memory)
{
	struct vmferry_session *session = memory->session;
	uint8_t data[16];

	/*
	 * After a revocation no lane is left that could write; the peer may be gone already, and
	 * rightly.
	 */
	if (session_error(session) != 0 || atomic_load(&session->revoked))
		return;
	wire_put_u64(data, memory->address);
	wire_put_u64(data + 8, memory->size);
	tell(registrar->session, RDMA_CONTROL_GONE, data, sizeof(data));
}

/* ---- the queues ------------------------------------------------------------------------------ */

static void set_state(struct rdma_chunk *chunk, enum chunk_state state)
{
	atomic_store_explicit(&chunk->state, state, memory_order_release);
}

static struct chunk_queue *queue_of(struct rdma_registrar *r, const struct rdma_chunk *chunk)
{
	return chunk->wanted ? &r->wanted : &r->prepared;
}

/* Out of its queue if it is in one; it counts as taken from now on. */
static void take(struct rdma_registrar *r, struct rdma_chunk *chunk)
{
	if (chunk_state(chunk) == CHUNK_QUEUED)
		TAILQ_REMOVE(queue_of(r, chunk), chunk, queued);
	else
		r->taken += chunk->length;
}

void registrar_queue(struct rdma_registrar *r, struct rdma_chunk *chunk, bool wanted)
{
	enum chunk_state state = chunk_state(chunk);

	if (state != CHUNK_EMPTY && (state != CHUNK_QUEUED || !wanted || chunk->wanted))
		return;
	take(r, chunk);
	chunk->wanted = wanted;
	TAILQ_INSERT_TAIL(queue_of(r, chunk), chunk, queued);
	set_state(chunk, CHUNK_QUEUED);
	pthread_cond_signal(&r->work);
}

static struct rdma_chunk *next_chunk(struct rdma_registrar *r)
{
	struct rdma_chunk *wanted = TAILQ_FIRST(&r->wanted);

	return wanted != NULL ? wanted : TAILQ_FIRST(&r->prepared);
}

int registrar_pin(struct rdma_registrar *r, struct rdma_chunk *chunk)
{
	struct rdma_memory *m = chunk->memory;
	int ret;

	take(r, chunk);
	set_state(chunk, CHUNK_PINNING);
	m->running++;
	pthread_mutex_unlock(&r->lock);
	ret = chunk_pin(chunk);
	if (ret == 0 && !r->session->session->is_source)
		ret = tell_keys(r, chunk);
	pthread_mutex_lock(&r->lock);
	m->running--;
	set_state(chunk, ret == 0 ? CHUNK_READY : CHUNK_FAILED);
	pthread_cond_broadcast(&r->done);
	return ret;
}

void registrar_withdraw(struct rdma_registrar *r, struct rdma_memory *m)
{
	atomic_store(&m->going, true);
	for (size_t i = 0; i < m->count; i++) {
		struct rdma_chunk *chunk = &m->chunks[i];

		if (chunk_state(chunk) == CHUNK_QUEUED) {
			TAILQ_REMOVE(queue_of(r, chunk), chunk, queued);
			set_state(chunk, CHUNK_FAILED);
		}
		if (chunk_state(chunk) != CHUNK_EMPTY)
			r->taken -= chunk->length;
	}
	/*
	 * Has no deadline of its own: who is PINNING uses the memory, and ends soon, because it is
	 * going and sending has one.
	 */
	while (m->running > 0)
		pthread_cond_wait(&r->done, &r->lock);
}

void registrar_wake(struct rdma_registrar *r)
{
	pthread_mutex_lock(&r->lock);
	pthread_cond_broadcast(&r->done);
	pthread_mutex_unlock(&r->lock);
}

/* ---- the threads ----------------------------------------------------------------------------- */

/* The rails' nodes in turn: each thread pins for all rails, and populates on its own node. */
static void take_place(struct rdma_registrar *r)
{
	const struct rdma_session *session = r->session;
	unsigned int number = atomic_fetch_add_explicit(&r->begun, 1, memory_order_relaxed);

	if (session->rail_count > 0)
		thread_stay_near(rdma_rail_node(session->rails[number % session->rail_count]));
}

static void *registrar_main(void *arg)
{
	struct rdma_registrar *r = arg;

	take_place(r);
	pthread_mutex_lock(&r->lock);
	while (!atomic_load(&r->stop)) {
		struct rdma_chunk *chunk = next_chunk(r);

		if (chunk == NULL)
			pthread_cond_wait(&r->work, &r->lock);
		else
			registrar_pin(r, chunk);
	}
	pthread_mutex_unlock(&r->lock);
	return NULL;
}

static int start_thread(struct rdma_registrar *r)
{
	char name[THREAD_NAME_MAX];
	int ret;

	snprintf(name, sizeof(name), "vmf-pin-%u", r->thread_count % REGISTRAR_THREADS_MAX);
	ret = thread_start(&r->threads[r->thread_count], name, registrar_main, r);
	if (ret == 0)
		r->thread_count++;
	return ret;
}

int registrar_start(struct rdma_registrar *r)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int wanted = cpus < 1 ? 1 : (unsigned int)cpus;
	int ret = 0;

	if (wanted > REGISTRAR_THREADS_MAX)
		wanted = REGISTRAR_THREADS_MAX;
	while (ret == 0 && r->thread_count < wanted)
		ret = start_thread(r);
	/* Fewer than wanted only make it slower. */
	if (r->thread_count > 0)
		return 0;
	log_error(
		"session %s: memory: cannot start a thread that registers it: %s: raise the limit "
		"of processes",
		r->session->session->name, strerror(-ret));
	return ret;
}

int rdma_registrar_new(struct rdma_session *session)
{
	struct rdma_registrar *r = calloc(1, sizeof(*r));

	if (r == NULL)
		return -ENOMEM;
	r->session = session;
	TAILQ_INIT(&r->wanted);
	TAILQ_INIT(&r->prepared);
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->work, NULL);
	pthread_cond_init(&r->done, NULL);
	session->registrar = r;
	return 0;
}

void rdma_registrar_free(struct rdma_session *session)
{
	struct rdma_registrar *r = session->registrar;

	if (r == NULL)
		return;
	pthread_mutex_lock(&r->lock);
	atomic_store(&r->stop, true);
	pthread_cond_broadcast(&r->work);
	pthread_mutex_unlock(&r->lock);
	while (r->thread_count > 0)
		pthread_join(r->threads[--r->thread_count], NULL);
	pthread_cond_destroy(&r->done);
	pthread_cond_destroy(&r->work);
	pthread_mutex_destroy(&r->lock);
	free(r);
	session->registrar = NULL;
}

/* ---- what the source wants ------------------------------------------------------------------- */

static struct rdma_memory *find_memory(const struct memory_table *table, uint64_t address)
{
	for (unsigned int i = 0; i < table->count && !table->closed; i++) {
		const struct vmferry_memory *m = table->entries[i];

		if (address >= m->address && address - m->address < m->size && m->access != 0)
			return m->transport;
	}
	return NULL;
}

/*
 * One that is PINNING or READY needs no answer: its KEYS are on their way. Whoever takes memory
 * away has taken it from the table before, so it lives as long as the table's lock is held.
 */
static bool want(struct rdma_session *session, uint64_t address)
{
	struct memory_table *table = &session->session->memory;
	struct rdma_registrar *r = session->registrar;
	struct rdma_memory *m;

	pthread_rwlock_rdlock(&table->lock);
	pthread_mutex_lock(&r->lock);
	m = find_memory(table, address);
	if (m != NULL) {
		uint64_t first = m->memory->address >> m->shift;

		registrar_queue(r, &m->chunks[(address >> m->shift) - first], true);
	}
	pthread_mutex_unlock(&r->lock);
	pthread_rwlock_unlock(&table->lock);
	return m != NULL;
}

/* Once: a peer that asks and asks fills no log. */
static void note_refused(struct rdma_registrar *r, uint64_t address)
{
	bool before;

	pthread_mutex_lock(&r->lock);
	before = r->refused;
	r->refused = true;
	pthread_mutex_unlock(&r->lock);
	if (!before)
		log_warn("session %s: the source wants to write at 0x%llx: nothing is registered "
			 "there: it is told so",
			 r->session->session->name, (unsigned long long)address);
}

int rdma_registrar_take(struct rdma_session *session, const struct vmferry_message *message)
{
	uint64_t address;

	if (message->type != RDMA_CONTROL_WANT || message->length != 8)
		return session_fail(session->session, -EPROTO,
				    "control: type 0x%x, %zu bytes, is nothing that a source says",
				    message->type, message->length);
	address = wire_get(message->data, 8);
	if (want(session, address))
		return 0;
	note_refused(session->registrar, address);
	return tell(session, RDMA_CONTROL_NONE, message->data, message->length);
}
