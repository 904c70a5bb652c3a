/* SPDX-License-Identifier: MIT */
/*
 * Memory made present before pages are written to it: its first touch costs more than the copy. The
 * threads take chunk by chunk, in the order of the ranges that were asked for.
 *
 * MAPPED blocks: MADV_POPULATE_WRITE (Linux 5.14). PROCESS blocks: process_madvise(2) takes no
 * advice to populate the memory of another process. But process_vm_writev(2) makes the pages that
 * it is to write present and writable before it reads what to write. With nothing to be read at the
 * source, an address without access, it ends there with -EFAULT, the pages are present, and not a
 * byte of them has changed.
 */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "log.h"
#include "placement.h"

#define THREADS_MAX  64U
#define MAPPED_CHUNK (8U << 20)
#define PROCESS_CHUNK \
	(2U << 20) /* a call of process_vm_writev() takes at most 1024 pages at once */

#define RANGES_MAX 64U

struct range {
	unsigned int block;
	uint64_t offset; /* of what is left */
	uint64_t end;
};

struct populate {
	const struct placement *placements;
	unsigned int count;
	unsigned int threads;
	pthread_t thread[THREADS_MAX];
	void *nothing; /* memory without access, of PROCESS_CHUNK */
	atomic_bool warned;
	atomic_uint_least64_t bytes; /* done */

	pthread_mutex_t lock; /* of all below */
	pthread_cond_t changed;
	bool stop;
	unsigned int working;
	struct range ranges[RANGES_MAX]; /* a ring */
	unsigned int first;
	unsigned int range_count;
	uint64_t *asked; /* of each block: the end of the last range */
};

struct chunk {
	const struct placement *placement;
	uint64_t offset;
	uint64_t bytes;
};

static uint64_t chunk_bytes(const struct placement *placement)
{
	const uint64_t chunk = placement->kind == PLACEMENT_MAPPED ? MAPPED_CHUNK : PROCESS_CHUNK;

	return placement->kind == PLACEMENT_MAPPED && chunk < placement->page_bytes
		       ? placement->page_bytes
		       : chunk;
}

/* With the lock held: waits for something to do. False: to end. */
static bool take_chunk(struct populate *populate, struct chunk *chunk)
{
	struct range *range;

	while (!populate->stop && populate->range_count == 0)
		pthread_cond_wait(&populate->changed, &populate->lock);
	if (populate->stop)
		return false;
	range = &populate->ranges[populate->first];
	chunk->placement = &populate->placements[range->block];
	chunk->offset = range->offset;
	chunk->bytes = chunk_bytes(chunk->placement);
	if (chunk->bytes > range->end - range->offset)
		chunk->bytes = range->end - range->offset;
	range->offset += chunk->bytes;
	if (range->offset == range->end) {
		populate->first = (populate->first + 1) % RANGES_MAX;
		populate->range_count--;
	}
	return true;
}

static int populate_mapped(const struct chunk *chunk)
{
	char *start = (char *)chunk->placement->base + chunk->offset;

	while (madvise(start, chunk->bytes, MADV_POPULATE_WRITE) < 0)
		if (errno != EINTR && errno != EAGAIN)
			return -errno;
	return 0;
}

static int populate_process(const struct populate *populate, const struct chunk *chunk)
{
	const struct iovec local = {.iov_base = populate->nothing, .iov_len = chunk->bytes};
	const struct iovec remote = {.iov_base = placement_pointer(chunk->placement, chunk->offset),
				     .iov_len = chunk->bytes};

	while (process_vm_writev(chunk->placement->pid, &local, 1, &remote, 1, 0) < 0)
		if (errno != EINTR)
			return errno == EFAULT ? 0 : -errno;
	return -EIO;
}

static void populate_chunk(struct populate *populate, const struct chunk *chunk)
{
	const int status = chunk->placement->kind == PLACEMENT_MAPPED
				   ? populate_mapped(chunk)
				   : populate_process(populate, chunk);

	if (status == 0)
		atomic_fetch_add(&populate->bytes, chunk->bytes);
	else if (!atomic_exchange(&populate->warned, true))
		qemu_warn(
			"block %s: populating its memory ahead failed: %s; pages are made present "
			"as they are written",
			chunk->placement->name, strerror(-status));
}

static void *work(void *argument)
{
	struct populate *populate = argument;
	struct chunk chunk;

	pthread_setname_np(pthread_self(), "qemu-populate");
	pthread_mutex_lock(&populate->lock);
	while (take_chunk(populate, &chunk)) {
		populate->working++;
		pthread_mutex_unlock(&populate->lock);
		populate_chunk(populate, &chunk);
		pthread_mutex_lock(&populate->lock);
		populate->working--;
	}
	pthread_mutex_unlock(&populate->lock);
	return NULL;
}

static int start_threads(struct populate *populate, unsigned int threads)
{
	int status = 0;

	if (threads > THREADS_MAX)
		threads = THREADS_MAX;
	while (status == 0 && populate->threads < threads) {
		status =
			-pthread_create(&populate->thread[populate->threads], NULL, work, populate);
		if (status == 0)
			populate->threads++;
	}
	/* Fewer threads do it too. */
	return populate->threads > 0 ? 0 : status;
}

int placement_populate_start(const struct placement *placements, unsigned int count,
			     unsigned int threads, struct populate **populate)
{
	struct populate *new = calloc(1, sizeof(*new));
	int status = -ENOMEM;

	if (new == NULL)
		return -ENOMEM;
	new->placements = placements;
	new->count = count;
	pthread_mutex_init(&new->lock, NULL);
	pthread_cond_init(&new->changed, NULL);
	new->nothing = mmap(NULL, PROCESS_CHUNK, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	new->asked = calloc(count + 1, sizeof(*new->asked));
	if (new->nothing != MAP_FAILED &&new->asked != NULL)
		status = start_threads(new, threads);
	if (status == 0) {
		*populate = new;
		return 0;
	}
	qemu_warn("populating memory ahead failed: %s", strerror(-status));
	placement_populate_stop(&new);
	return status;
}

/* What a chunk of this block may reach: all of the pages that its file has for it. */
static uint64_t block_end(const struct placement *placement)
{
	return placement->kind == PLACEMENT_MAPPED ? placement->mapped_bytes : placement->bytes;
}

/* With the lock held. */
static void add_range(struct populate *populate, unsigned int block, uint64_t offset, uint64_t end)
{
	const struct placement *placement = &populate->placements[block];
	struct range *range;

	/* Whole pages of the file. */
	offset -= placement->page_bytes != 0 ? offset % placement->page_bytes : 0;
	if (offset < populate->asked[block] && end > populate->asked[block])
		offset = populate->asked[block];
	if (offset >= end || end <= populate->asked[block] || populate->range_count == RANGES_MAX)
		return;
	range = &populate->ranges[(populate->first + populate->range_count++) % RANGES_MAX];
	*range = (struct range){block, offset, end};
	populate->asked[block] = end;
	pthread_cond_broadcast(&populate->changed);
}

void placement_populate_ahead(struct populate *populate, unsigned int block, uint64_t offset,
			      uint64_t bytes)
{
	uint64_t end;

	if (block >= populate->count || populate->placements[block].kind == PLACEMENT_FORWARD)
		return;
	end = block_end(&populate->placements[block]);
	if (offset >= end)
		return;
	if (bytes < end - offset)
		end = offset + bytes;
	pthread_mutex_lock(&populate->lock);
	add_range(populate, block, offset, end);
	pthread_mutex_unlock(&populate->lock);
}

bool placement_populate_done(struct populate *populate, uint64_t *bytes)
{
	bool done;

	pthread_mutex_lock(&populate->lock);
	done = populate->range_count == 0 && populate->working == 0;
	pthread_mutex_unlock(&populate->lock);
	if (bytes != NULL)
		*bytes = atomic_load(&populate->bytes);
	return done;
}

void placement_populate_stop(struct populate **populate)
{
	struct populate *old = *populate;

	*populate = NULL;
	if (old == NULL)
		return;
	pthread_mutex_lock(&old->lock);
	old->stop = true;
	pthread_cond_broadcast(&old->changed);
	pthread_mutex_unlock(&old->lock);
	for (unsigned int i = 0; i < old->threads; i++)
		pthread_join(old->thread[i], NULL);
	if (old->nothing != MAP_FAILED)
		munmap(old->nothing, PROCESS_CHUNK);
	pthread_cond_destroy(&old->changed);
	pthread_mutex_destroy(&old->lock);
	free(old->asked);
	free(old);
}
