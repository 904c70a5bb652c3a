/* SPDX-License-Identifier: MIT */
/*
 * The guest's regions and, while a session has them, their registrations: what either engine keeps
 * of memory, and what a VMM's balloon must come to.
 *
 * THREADS  The control thread sets, registers and deregisters, and uses @handles without the lock
 *          in between; any thread discards.
 */
#ifndef ENGINE_GUEST_MEMORY_H
#define ENGINE_GUEST_MEMORY_H

#include <pthread.h>
#include <stdbool.h>

#include <vmferry/migration.h>

struct guest_memory {
	pthread_mutex_t lock;				     /* for all that follows */
	struct vmferry_memory *handles[VMFERRY_REGIONS_MAX]; /* by region; NULL: not registered */
	bool leaving; /* they are being deregistered, which takes time: nobody else touches them */
	struct vmferry_region regions[VMFERRY_REGIONS_MAX];
	unsigned int region_count;
};

void guest_memory_init(struct guest_memory *memory);
void guest_memory_destroy(struct guest_memory *memory);

/*
 * These are the regions from now on, also when they are not registered any more. Their memory is
 * the caller's.
 */
void guest_memory_set(struct guest_memory *memory, const struct vmferry_vm *vm);

/* There is no memory any more; nothing is registered. */
void guest_memory_forget(struct guest_memory *memory);

/* All regions, with @access; deregister also what was registered before one failed. */
int guest_memory_register(struct guest_memory *memory, struct vmferry_session *session,
			  unsigned int access);
void guest_memory_deregister(struct guest_memory *memory);

/* As vmferry_source_discard(), without a mark. */
int guest_memory_discard(struct guest_memory *memory, uint64_t address, uint64_t length);

#endif
