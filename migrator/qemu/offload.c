/* SPDX-License-Identifier: MIT */
#include "offload.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "log.h"
#include "moment.h"

/*
 * A lane that makes no progress for so long is broken; transports tell of dead peers themselves,
 * and sooner.
 */
#define STUCK_NS (5 * NS_PER_S)
/* Other readers want the lane, too. */
#define TURN_NS (200 * NS_PER_US)
#define WORD	64u
/*
 * Half of a chunk of 2 MiB, the size of a huge page, makes it dense; announced is what the link
 * moves in some 30 ms at most.
 */
#define AHEAD_SHIFT 21u
#define AHEAD_PAGES ((1u << AHEAD_SHIFT) / STREAM_PAGE_SIZE)
#define AHEAD_DENSE (AHEAD_PAGES / 2)
#define AHEAD_MAX   (64ull << 20)
/*
 * Its own session address, out of the way of rings and blocks: a source's addresses mean nothing to
 * the peer.
 */
#define ZEROES_ADDRESS ((uint64_t)(STREAM_BLOCKS_MAX + 1) << 44)

int offload_init(struct offload *o, struct relay *relay)
{
	unsigned int lanes = vmferry_session_lanes(relay->session);

	*o = (struct offload){.relay = relay, .session = relay->session, .lanes = lanes};
	pthread_mutex_init(&o->register_lock, NULL);
	if (lanes == 0)
		return relay_fail(relay, -EPROTO, "the destination takes no lanes");
	o->lane_locks = calloc(lanes, sizeof(pthread_mutex_t));
	o->targets = calloc(STREAM_BLOCKS_MAX, sizeof(*o->targets));
	o->zeroes = mmap(NULL, OFFLOAD_ZEROES_BYTES, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (o->zeroes == MAP_FAILED)
		o->zeroes = NULL;
	if (o->lane_locks == NULL || o->targets == NULL || o->zeroes == NULL)
		return relay_fail(relay, -ENOMEM, "no memory for the lanes");
	for (unsigned int i = 0; i < lanes; i++)
		pthread_mutex_init(&o->lane_locks[i], NULL);
	return 0;
}

void offload_free(struct offload *o)
{
	if (o->targets != NULL)
		for (unsigned int i = 0; i < o->target_count; i++)
			free((void *)o->targets[i].written);
	free(o->targets);
	for (unsigned int i = 0; o->lane_locks != NULL && i < o->lanes; i++)
		pthread_mutex_destroy(&o->lane_locks[i]);
	free(o->lane_locks);
	vmferry_deregister(&o->zeroes_memory);
	if (o->zeroes != NULL)
		munmap(o->zeroes, OFFLOAD_ZEROES_BYTES);
	pthread_mutex_destroy(&o->register_lock);
}

int offload_register(struct offload *o, void *base, uint64_t bytes, uint64_t address,
		     struct vmferry_memory **memory)
{
	int ret;

	pthread_mutex_lock(&o->register_lock);
	ret = vmferry_register(o->session, base, bytes, address, VMFERRY_ACCESS_LOCAL, memory);
	if (ret == 0)
		ret = vmferry_prepare(*memory, 0, bytes);
	pthread_mutex_unlock(&o->register_lock);
	return ret < 0 ? relay_fail(o->relay, ret,
				    "%llu bytes for the lanes cannot be registered: %s",
				    (unsigned long long)bytes, strerror(-ret))
		       : 0;
}

/* ---- where blocks are ------------------------------------------------------------------------ */

static int mark_extents(struct offload_target *t, const struct peer_target *from)
{
	uint64_t pages = t->bytes / STREAM_PAGE_SIZE;
	uint64_t end = 0;

	t->written = calloc((pages + WORD - 1) / WORD, sizeof(*t->written));
	if (t->written == NULL)
		return -ENOMEM;
	for (unsigned int i = 0; i < from->extent_count; i++) {
		const struct placement_extent *e = &from->extents[i];
		uint64_t last;

		/*
		 * In order, so that a destination cannot have the same pages marked again and
		 * again.
		 */
		if (e->bytes == 0 || e->offset < end || e->offset >= t->bytes ||
		    e->bytes > t->bytes - e->offset)
			return -EPROTO;
		end = e->offset + e->bytes;
		last = (e->offset + e->bytes - 1) / STREAM_PAGE_SIZE;
		for (uint64_t page = e->offset / STREAM_PAGE_SIZE; page <= last; page++)
			t->written[page / WORD] |= 1ull << (page % WORD);
	}
	return 0;
}

int offload_place(struct offload *o, const struct stream_block *blocks, unsigned int count,
		  const struct peer_placed *placed)
{
	int ret = 0;

	if (placed->count != count)
		return relay_fail(o->relay, -EPROTO, "%u of %u blocks were answered", placed->count,
				  count);
	for (unsigned int i = 0; ret == 0 && i < count; i++) {
		struct offload_target *t = &o->targets[i];

		t->kind = placed->targets[i].kind;
		t->bytes = blocks[i].bytes;
		o->target_count = i + 1;
		if (t->kind != PLACEMENT_FORWARD)
			ret = mark_extents(t, &placed->targets[i]);
	}
	if (ret < 0)
		return relay_fail(o->relay, ret, "the blocks' places cannot be used: %s",
				  strerror(-ret));
	if (!offload_any(o))
		return 0;
	return offload_register(o, o->zeroes, OFFLOAD_ZEROES_BYTES, ZEROES_ADDRESS,
				&o->zeroes_memory);
}

bool offload_any(const struct offload *o)
{
	for (unsigned int i = 0; i < o->target_count; i++)
		if (o->targets[i].kind != PLACEMENT_FORWARD)
			return true;
	return false;
}

/* What is dense so far will probably be so for as long again. */
static int announce(struct offload *o, unsigned int block, uint64_t chunk, uint32_t run)
{
	uint64_t ahead = (uint64_t)(run + 1) << AHEAD_SHIFT;
	uint8_t bytes[12];

	if (ahead > AHEAD_MAX)
		ahead = AHEAD_MAX;
	peer_numbers_encode((const uint32_t[]){block, (uint32_t)((chunk + 1) * AHEAD_PAGES),
					       (uint32_t)(ahead / STREAM_PAGE_SIZE)},
			    3, bytes);
	return relay_send(o->relay, PEER_AHEAD, bytes, sizeof(bytes));
}

static int first_write(struct offload *o, unsigned int block, uint64_t offset)
{
	struct offload_target *t = &o->targets[block];
	uint64_t chunk = offset >> AHEAD_SHIFT;
	uint64_t before = atomic_load_explicit(&t->chunk, memory_order_relaxed);
	uint32_t pages = atomic_load_explicit(&t->chunk_pages, memory_order_relaxed);
	uint32_t run = atomic_load_explicit(&t->run, memory_order_relaxed);

	if (chunk != before) {
		run = chunk == before + 1 && pages >= AHEAD_DENSE ? run + 1 : 0;
		pages = 0;
		atomic_store_explicit(&t->chunk, chunk, memory_order_relaxed);
		atomic_store_explicit(&t->run, run, memory_order_relaxed);
	}
	atomic_store_explicit(&t->chunk_pages, pages + 1, memory_order_relaxed);
	return pages + 1 == AHEAD_DENSE ? announce(o, block, chunk, run) : 0;
}

int offload_page_comes(struct offload *o, unsigned int block, uint64_t offset)
{
	uint64_t page = offset / STREAM_PAGE_SIZE;
	_Atomic uint64_t *word = &o->targets[block].written[page / WORD];
	uint64_t bit = 1ull << (page % WORD);

	/*
	 * Relaxed: two readers have the same page in hand only with a barrier of sync.c between
	 * them, which orders this, too.
	 */
	if ((atomic_load_explicit(word, memory_order_relaxed) & bit) != 0)
		return 0;
	atomic_fetch_or_explicit(word, bit, memory_order_relaxed);
	return first_write(o, block, offset);
}

bool offload_page_written(struct offload *o, unsigned int block, uint64_t offset)
{
	uint64_t page = offset / STREAM_PAGE_SIZE;
	_Atomic uint64_t *word = &o->targets[block].written[page / WORD];

	return (atomic_load_explicit(word, memory_order_relaxed) >> (page % WORD) & 1) != 0;
}

/* ---- lanes ----------------------------------------------------------------------------------- */

unsigned int offload_lane_of(const struct offload *o, uint64_t address)
{
	/* The block's number is above bit 44; blocks begin at different lanes. */
	return (unsigned int)(((address >> OFFLOAD_STRIPE_SHIFT) + (address >> 44)) % o->lanes);
}

static int lane_failed(struct offload *o, unsigned int lane, const char *what, int error)
{
	const char *why = vmferry_session_failure(o->session);

	return relay_fail(o->relay, error, "lane %u: %s: %s", lane, what,
			  *why != '\0' ? why : strerror(-error));
}

int offload_write(struct offload *o, unsigned int lane, struct vmferry_write *writes,
		  unsigned int count)
{
	unsigned int at = 0;
	int ret = 0;

	pthread_mutex_lock(&o->lane_locks[lane]);
	while (ret >= 0 && at < count) {
		ret = vmferry_lane_write(o->session, lane, writes + at, count - at,
					 vmferry_now() + STUCK_NS);
		if (ret > 0)
			at += (unsigned int)ret;
	}
	pthread_mutex_unlock(&o->lane_locks[lane]);
	return ret < 0 ? lane_failed(o, lane, "cannot write", ret) : 0;
}

/* With the lane's lock held. */
static int fence(struct offload *o, unsigned int lane, uint32_t epoch)
{
	int ret = vmferry_lane_fence(o->session, lane, epoch, vmferry_now() + STUCK_NS);

	return ret < 0 ? lane_failed(o, lane, "cannot set a fence", ret) : 0;
}

int offload_fence(struct offload *o, unsigned int lane, uint32_t *epoch)
{
	int ret;

	pthread_mutex_lock(&o->lane_locks[lane]);
	*epoch = atomic_fetch_add(&o->epoch, 1) + 1;
	ret = fence(o, lane, *epoch);
	pthread_mutex_unlock(&o->lane_locks[lane]);
	return ret;
}

static int fence_all(struct offload *o, bool last, uint32_t *epoch)
{
	int ret = 0;

	/*
	 * All locks first, in one order: a later epoch must not come to any lane before this one.
	 */
	for (unsigned int i = 0; i < o->lanes; i++)
		pthread_mutex_lock(&o->lane_locks[i]);
	*epoch = atomic_fetch_add(&o->epoch, 1) + 1;
	for (unsigned int i = 0; ret == 0 && i < o->lanes; i++)
		ret = fence(o, i, *epoch);
	o->over = last;
	for (unsigned int i = o->lanes; i-- > 0;)
		pthread_mutex_unlock(&o->lane_locks[i]);
	return ret;
}

int offload_fence_all(struct offload *o, uint32_t *epoch)
{
	return fence_all(o, false, epoch);
}

int offload_fence_last(struct offload *o, uint32_t *epoch)
{
	return fence_all(o, true, epoch);
}

int offload_probe(struct offload *o)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < o->lanes; i++) {
		if (pthread_mutex_trylock(&o->lane_locks[i]) != 0)
			continue;
		ret = o->over ? 0 : vmferry_lane_probe(o->session, i);
		pthread_mutex_unlock(&o->lane_locks[i]);
		if (ret < 0)
			ret = lane_failed(o, i, "no sign of life", ret);
	}
	return ret;
}

int offload_fence_wait(struct offload *o, unsigned int lane, uint32_t epoch)
{
	uint64_t deadline = vmferry_now() + STUCK_NS;
	int ret;

	do {
		pthread_mutex_lock(&o->lane_locks[lane]);
		ret = vmferry_lane_fence_wait(o->session, lane, epoch, vmferry_now() + TURN_NS);
		pthread_mutex_unlock(&o->lane_locks[lane]);
	} while (ret == -ETIMEDOUT && relay_error(o->relay) == 0 && vmferry_now() < deadline);
	if (ret == -ETIMEDOUT && relay_error(o->relay) != 0)
		return relay_error(o->relay);
	return ret < 0 ? lane_failed(o, lane, "no answer to a fence", ret) : 0;
}
