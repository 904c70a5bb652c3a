/* SPDX-License-Identifier: MIT */
#include "transport/memory.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/discard.h"
#include "common/log.h"
#include "transport/ops.h"
#include "transport/session.h"

#define ALIGNMENT 4096u

int memory_table_init(struct memory_table *table)
{
	pthread_rwlockattr_t attr;
	int ret;

	*table = (struct memory_table){.generation = 1};
	pthread_rwlockattr_init(&attr);
	/*
	 * Lanes take it for reading without a pause: with the default, whoever deregisters could
	 * starve.
	 */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	ret = pthread_rwlock_init(&table->lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	return -ret;
}

void memory_table_destroy(struct memory_table *table)
{
	pthread_rwlock_destroy(&table->lock);
	free(table->entries);
}

/* Index of the first entry that ends behind @address. */
static unsigned int first_behind(const struct memory_table *table, uint64_t address)
{
	unsigned int low = 0;
	unsigned int high = table->count;

	while (low < high) {
		unsigned int mid = low + (high - low) / 2;
		const struct vmferry_memory *m = table->entries[mid];

		if (m->address + (m->size - 1) < address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static int insert(struct memory_table *table, struct vmferry_memory *memory)
{
	unsigned int at = first_behind(table, memory->address);

	if (at < table->count &&
	    table->entries[at]->address <= memory->address + (memory->size - 1))
		return -EEXIST;
	if (table->count == table->room) {
		unsigned int room = table->room == 0 ? 16 : 2 * table->room;
		void *grown = realloc(table->entries, room * sizeof(struct vmferry_memory *));

		if (grown == NULL)
			return -ENOMEM;
		table->entries = grown;
		table->room = room;
	}
	memmove(table->entries + at + 1, table->entries + at,
		(table->count - at) * sizeof(struct vmferry_memory *));
	table->entries[at] = memory;
	table->count++;
	table->generation++;
	return 0;
}

int memory_table_add(struct memory_table *table, struct vmferry_memory *memory)
{
	int ret;

	pthread_rwlock_wrlock(&table->lock);
	ret = insert(table, memory);
	pthread_rwlock_unlock(&table->lock);
	return ret;
}

void memory_table_remove(struct memory_table *table, const struct vmferry_memory *memory)
{
	unsigned int at;

	pthread_rwlock_wrlock(&table->lock);
	at = first_behind(table, memory->address);
	if (at < table->count && table->entries[at] == memory) {
		table->count--;
		memmove(table->entries + at, table->entries + at + 1,
			(table->count - at) * sizeof(struct vmferry_memory *));
		table->generation++;
	}
	pthread_rwlock_unlock(&table->lock);
}

uint8_t *memory_table_resolve(const struct memory_table *table, uint64_t address, uint64_t length,
			      unsigned int access)
{
	unsigned int at = first_behind(table, address);
	const struct vmferry_memory *m;

	if (at == table->count || table->closed)
		return NULL;
	m = table->entries[at];
	if (address < m->address || (m->access & access) != access ||
	    !memory_holds(m, address - m->address, length))
		return NULL;
	return m->base + (address - m->address);
}

bool memory_holds(const struct vmferry_memory *memory, uint64_t offset, uint64_t length)
{
	return length <= memory->size && offset <= memory->size - length;
}

static int check_range(const struct vmferry_session *session, const void *base, uint64_t size,
		       uint64_t address, unsigned int access)
{
	const char *what = NULL;

	if (((uintptr_t)base | size | address) % ALIGNMENT != 0)
		what = "base, size and address must be multiples of 4096";
	else if (base == NULL || size == 0)
		what = "it is empty";
	else if (size - 1 > UINT64_MAX - address || size - 1 > UINTPTR_MAX - (uintptr_t)base)
		what = "the range wraps";
	else if ((access & ~(VMFERRY_ACCESS_REMOTE_WRITE | VMFERRY_ACCESS_REMOTE_READ)) != 0)
		what = "there is no such access";
	if (what == NULL)
		return 0;
	log_error("session %s: memory at 0x%llx, 0x%llx bytes, cannot be registered: %s",
		  session->name, (unsigned long long)address, (unsigned long long)size, what);
	return -EINVAL;
}

static int add(struct vmferry_session *session, struct vmferry_memory *m)
{
	int ret = memory_table_add(&session->memory, m);

	if (ret < 0) {
		log_error("session %s: memory at 0x%llx, 0x%llx bytes, cannot be registered: %s",
			  session->name, (unsigned long long)m->address,
			  (unsigned long long)m->size,
			  ret == -EEXIST ? "it overlaps another registration" : strerror(-ret));
		return ret;
	}
	if (session->ops->register_memory == NULL)
		return 0;
	ret = session->ops->register_memory(m);
	if (ret < 0)
		memory_table_remove(&session->memory, m);
	return ret;
}

int vmferry_register(struct vmferry_session *session, void *base, uint64_t size, uint64_t address,
		     unsigned int access, struct vmferry_memory **memory)
{
	struct vmferry_memory *m;
	int ret = check_range(session, base, size, address, access);

	if (ret < 0)
		return ret;
	m = malloc(sizeof(*m));
	if (m == NULL)
		return -ENOMEM;
	*m = (struct vmferry_memory){
		.session = session,
		.base = base,
		.size = size,
		.address = address,
		.access = access,
	};
	ret = add(session, m);
	if (ret < 0) {
		free(m);
		return ret;
	}
	*memory = m;
	return 0;
}

/* What leaves the memory is the caller's mistake, and nothing is done. */
static int check_part(const struct vmferry_memory *memory, uint64_t offset, uint64_t length,
		      const char *what)
{
	if (memory_holds(memory, offset, length))
		return 0;
	log_error("session %s: memory at 0x%llx: offset 0x%llx, 0x%llx bytes, leave it: nothing is "
		  "%s",
		  memory->session->name, (unsigned long long)memory->address,
		  (unsigned long long)offset, (unsigned long long)length, what);
	return -EINVAL;
}

int vmferry_discard(struct vmferry_memory *memory, uint64_t offset, uint64_t length)
{
	const struct vmferry_session *session = memory->session;
	int ret = check_part(memory, offset, length, "discarded");

	if (ret < 0)
		return ret;
	if (length == 0 || (offset | length) % ALIGNMENT != 0)
		return -EINVAL;
	return session->ops->discard != NULL ? session->ops->discard(memory, offset, length)
					     : discard_pages(memory->base + offset, length);
}

int vmferry_prepare(struct vmferry_memory *memory, uint64_t offset, uint64_t length)
{
	const struct vmferry_session *session = memory->session;
	int ret = check_part(memory, offset, length, "prepared");

	if (ret < 0)
		return ret;
	if (session->ops->prepare == NULL || length == 0)
		return 0;
	return session->ops->prepare(memory, offset, length);
}

void vmferry_registration_stats(const struct vmferry_session *session,
				struct vmferry_registration_stats *stats)
{
	*stats = (struct vmferry_registration_stats){0};
	if (session->ops->registration_stats != NULL)
		session->ops->registration_stats(session, stats);
}

void vmferry_deregister(struct vmferry_memory **memory)
{
	struct vmferry_memory *m = *memory;

	if (m == NULL)
		return;
	memory_table_remove(&m->session->memory, m);
	if (m->session->ops->deregister_memory != NULL)
		m->session->ops->deregister_memory(m);
	free(m);
	*memory = NULL;
}
