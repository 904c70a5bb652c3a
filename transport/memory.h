/* SPDX-License-Identifier: MIT */
/*
 * Registered memory of one side of a session: a table sorted by session address.
 *
 * THREADS  Whoever turns an address into a pointer holds the table's lock for reading until he no
 *          longer uses the pointer; taking memory out of the table holds it for writing. So when
 *          deregistering returns, nothing is being placed. The lock is never held over a wait for
 *          the peer.
 */
#ifndef TRANSPORT_MEMORY_H
#define TRANSPORT_MEMORY_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/transport.h>

struct vmferry_memory {
	struct vmferry_session *session;
	uint8_t *base;
	uint64_t size;
	uint64_t address;
	unsigned int access;
	void *transport; /* what the lanes' kind keeps for it */
};

struct memory_table {
	pthread_rwlock_t lock;
	/* changes when the table does: pointers resolved before must be resolved anew */
	uint64_t generation;
	bool closed; /* nothing can be resolved any more */
	struct vmferry_memory **entries;
	unsigned int count;
	unsigned int room;
};

int memory_table_init(struct memory_table *table);
void memory_table_destroy(struct memory_table *table);

/* -EEXIST if it overlaps, -ENOMEM. */
int memory_table_add(struct memory_table *table, struct vmferry_memory *memory);
void memory_table_remove(struct memory_table *table, const struct vmferry_memory *memory);

/* NULL unless all of it lies in one registration with this access. The caller holds the lock. */
uint8_t *memory_table_resolve(const struct memory_table *table, uint64_t address, uint64_t length,
			      unsigned int access);

/* Whether @offset and @length stay in the memory. */
bool memory_holds(const struct vmferry_memory *memory, uint64_t offset, uint64_t length);

#endif
