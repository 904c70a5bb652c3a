/* SPDX-License-Identifier: MIT */
#include "guest_memory.h"

#include <errno.h>
#include <string.h>

#include "common/discard.h"
#include "common/log.h"

void guest_memory_init(struct guest_memory *memory)
{
	*memory = (struct guest_memory){0};
	pthread_mutex_init(&memory->lock, NULL);
}

void guest_memory_destroy(struct guest_memory *memory)
{
	pthread_mutex_destroy(&memory->lock);
}

void guest_memory_set(struct guest_memory *memory, const struct vmferry_vm *vm)
{
	pthread_mutex_lock(&memory->lock);
	memcpy(memory->regions, vm->regions, vm->region_count * sizeof(*vm->regions));
	memory->region_count = vm->region_count;
	pthread_mutex_unlock(&memory->lock);
}

void guest_memory_forget(struct guest_memory *memory)
{
	pthread_mutex_lock(&memory->lock);
	memory->region_count = 0;
	pthread_mutex_unlock(&memory->lock);
}

int guest_memory_register(struct guest_memory *memory, struct vmferry_session *session,
			  unsigned int access)
{
	int r = 0;

	pthread_mutex_lock(&memory->lock);
	for (unsigned int i = 0; r == 0 && i < memory->region_count; i++) {
		const struct vmferry_region *region = &memory->regions[i];

		r = vmferry_register(session, region->base, region->size, region->address, access,
				     &memory->handles[i]);
	}
	pthread_mutex_unlock(&memory->lock);
	return r;
}

static void set_leaving(struct guest_memory *memory, bool leaving)
{
	pthread_mutex_lock(&memory->lock);
	memory->leaving = leaving;
	pthread_mutex_unlock(&memory->lock);
}

void guest_memory_deregister(struct guest_memory *memory)
{
	/*
	 * A vCPU may be at the balloon meanwhile: it is told that it is too early rather than kept
	 * for as long as this takes.
	 */
	set_leaving(memory, true);
	for (unsigned int i = 0; i < memory->region_count; i++)
		vmferry_deregister(&memory->handles[i]);
	set_leaving(memory, false);
}

/* Index of the region that holds all of the range, or the number of regions. */
static unsigned int find(const struct guest_memory *memory, uint64_t address, uint64_t length)
{
	unsigned int i = 0;

	while (i < memory->region_count) {
		const struct vmferry_region *r = &memory->regions[i];

		if (address >= r->address && length <= r->size &&
		    address - r->address <= r->size - length)
			break;
		i++;
	}
	return i;
}

static int discard(struct guest_memory *memory, uint64_t address, uint64_t length)
{
	unsigned int i = find(memory, address, length);
	uint64_t offset;

	if (i == memory->region_count)
		return -ERANGE;
	if (memory->leaving)
		return -EBUSY;
	offset = address - memory->regions[i].address;
	if (memory->handles[i] != NULL)
		return vmferry_discard(memory->handles[i], offset, length);
	return discard_pages((char *)memory->regions[i].base + offset, length);
}

int guest_memory_discard(struct guest_memory *memory, uint64_t address, uint64_t length)
{
	int r = -EINVAL;

	if (length > 0 && (address | length) % VMFERRY_PAGE_SIZE == 0) {
		pthread_mutex_lock(&memory->lock);
		r = discard(memory, address, length);
		pthread_mutex_unlock(&memory->lock);
	}
	/*
	 * That memory is registered is no failure: a balloon asks again when the migration is over.
	 */
	if (r < 0 && r != -EBUSY)
		log_error(
			"guest memory: discard 0x%llx bytes at 0x%llx: %s: give whole pages of one "
			"region",
			(unsigned long long)length, (unsigned long long)address, strerror(-r));
	return r;
}
