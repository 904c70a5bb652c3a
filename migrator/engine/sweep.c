/* SPDX-License-Identifier: MIT */
#include "sweep.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"

/* A worker looks up from a full lane this often, to see whether it shall stop. */
#define LANE_SLICE_NS	  (20 * NS_PER_MS)
#define WORDS_PER_GRANULE (LANE_GRANULE / VMFERRY_PAGE_SIZE / MAP_WORD_PAGES)

static const uint8_t zero_page[VMFERRY_PAGE_SIZE];

static void wait_for_budget(struct lane *lane)
{
	struct lane_pool *pool = lane->pool;
	uint64_t when, now = vmferry_now();

	if (atomic_load_explicit(&pool->finish, memory_order_acquire))
		return;
	when = pace_reserve(&pool->pace, lane->batch_bytes, now);
	pthread_mutex_lock(&pool->lock);
	while (when > vmferry_now() && !lanes_must_stop(pool) && !atomic_load(&pool->finish)) {
		struct timespec ts = deadline_timespec(when);

		pthread_cond_clockwait(&pool->work, &pool->lock, CLOCK_MONOTONIC, &ts);
	}
	pthread_mutex_unlock(&pool->lock);
}

static int write_all(struct lane *lane)
{
	struct lane_pool *pool = lane->pool;
	uint64_t stuck = vmferry_now() + lane->patience_ns;
	unsigned int done = 0;

	while (done < lane->batch_count) {
		uint64_t now = vmferry_now();
		int n;

		if (lanes_must_stop(pool))
			return -ECANCELED;
		n = vmferry_lane_write(pool->session, lane->index, lane->batch + done,
				       lane->batch_count - done, now + LANE_SLICE_NS);
		if (n == -EAGAIN && now < stuck)
			continue;
		if (n == -EAGAIN) {
			log_error("lane %u: took nothing for %llu ms: the destination hangs",
				  lane->index, (unsigned long long)(lane->patience_ns / NS_PER_MS));
			return -ETIMEDOUT;
		}
		if (n < 0)
			return n;
		done += (unsigned int)n;
		stuck = now + lane->patience_ns;
	}
	return 0;
}

static int flush(struct lane *lane)
{
	int r;

	if (lane->batch_count == 0)
		return 0;
	wait_for_budget(lane);
	r = write_all(lane);
	if (r < 0)
		return r;
	lane->given += lane->batch_bytes;
	lane_count(&lane->counts.bytes, lane->batch_bytes);
	lane_count(&lane->counts.pages, lane->batch_bytes / VMFERRY_PAGE_SIZE);
	lane->batch_count = 0;
	lane->batch_bytes = 0;
	return 0;
}

static bool joins_last(const struct lane *lane, const struct vmferry_memory *memory,
		       uint64_t offset)
{
	const struct vmferry_write *last;

	if (lane->batch_count == 0)
		return false;
	last = &lane->batch[lane->batch_count - 1];
	return last->memory == memory && last->offset + last->length == offset;
}

static int add_page(struct lane *lane, unsigned int region, uint64_t page)
{
	struct lane_pool *pool = lane->pool;
	struct vmferry_memory *memory = pool->memories[region];
	uint64_t offset = page * VMFERRY_PAGE_SIZE;

	if (joins_last(lane, memory, offset)) {
		lane->batch[lane->batch_count - 1].length += VMFERRY_PAGE_SIZE;
	} else {
		lane->batch[lane->batch_count++] = (struct vmferry_write){
			.memory = memory,
			.offset = offset,
			.address = pool->map->regions[region].region.address + offset,
			.length = VMFERRY_PAGE_SIZE,
		};
	}
	lane->batch_bytes += VMFERRY_PAGE_SIZE;
	if (lane->batch_count == LANE_BATCH || lane->batch_bytes >= LANE_BATCH_BYTES)
		return flush(lane);
	return 0;
}

/*
 * The bits among @taken that need sending. The destination's memory starts as zeroes, so a zero
 * page that was never sent needs nothing; once sent, a page that has become zero is a write like
 * any other.
 */
static uint64_t without_fresh_zeroes(struct lane *lane, unsigned int region, uint64_t word,
				     uint64_t taken)
{
	const uint8_t *base = lane->pool->map->regions[region].region.base;
	uint64_t *sent = &lane->pool->sets->sent[region][word];
	uint64_t zeroes = 0;

	for (uint64_t bits = taken & ~*sent; bits != 0; bits &= bits - 1) {
		unsigned int bit = (unsigned int)__builtin_ctzll(bits);
		const uint8_t *page = base + (word * MAP_WORD_PAGES + bit) * VMFERRY_PAGE_SIZE;

		if (memcmp(page, zero_page, VMFERRY_PAGE_SIZE) == 0)
			zeroes |= 1ull << bit;
	}
	lane_count(&lane->counts.zero_pages, (uint64_t)__builtin_popcountll(zeroes));
	*sent |= taken & ~zeroes;
	return taken & ~zeroes;
}

static void record_resent(struct lane *lane, unsigned int region, uint64_t word, uint64_t bits)
{
	uint64_t *resent = &lane->pool->sets->resent[region][word];

	lane_count(&lane->counts.resent_pages, (uint64_t)__builtin_popcountll(bits & ~*resent));
	*resent |= bits;
}

static int word_placed(struct lane *lane, unsigned int region, uint64_t word)
{
	page_sets_placed(lane->pool->sets, region, word);
	return 0;
}

static int word_ages(struct lane *lane, unsigned int region, uint64_t word)
{
	page_sets_age(lane->pool->sets, region, word);
	return 0;
}

void lane_all_placed(struct lane *lane)
{
	lane_walk(lane, word_placed);
	lane->taken_at = lane->given;
}

/*
 * Between two words: all that was taken is given, or in the batch. A lane places in order, so that
 * what was taken before the last look is placed when the destination has placed as many bytes.
 */
static void look_at_placed(struct lane *lane)
{
	uint64_t taken = lane->given + lane->batch_bytes;
	struct vmferry_lane_stats stats;

	if (taken - lane->taken_at < lane->pool->look_bytes ||
	    vmferry_lane_stats(lane->pool->session, lane->index, &stats) < 0 ||
	    stats.placed_bytes < lane->taken_at)
		return;
	lane_walk(lane, word_ages);
	lane->taken_at = taken;
}

static int sweep_word(struct lane *lane, unsigned int region, uint64_t word)
{
	struct dirty_region *r = &lane->pool->map->regions[region];
	uint64_t bits;
	int e = 0;

	look_at_placed(lane);
	bits = dirty_map_take(r, word, ~0ull);
	if (bits == 0)
		return 0;
	bits = without_fresh_zeroes(lane, region, word, bits);
	/*
	 * From here on the page is not dirty any more: were it lost on its way, only this would
	 * know of it.
	 */
	lane->pool->sets->younger[region][word] |= bits;
	if (lane->record)
		record_resent(lane, region, word, bits);
	for (; bits != 0 && e == 0; bits &= bits - 1)
		e = add_page(lane, region, word * MAP_WORD_PAGES + (uint64_t)__builtin_ctzll(bits));
	return e;
}

/*
 * Granules are counted from the region's start, not from address 0: so that a map word never lies
 * in two of them. Regions start where the granule count of their predecessors ends, which spreads
 * small regions over the lanes.
 */
static int walk_region(struct lane *lane, unsigned int region, uint64_t first_granule,
		       lane_visit visit)
{
	struct lane_pool *pool = lane->pool;
	const struct dirty_region *r = &pool->map->regions[region];
	uint64_t granules = (r->words + WORDS_PER_GRANULE - 1) / WORDS_PER_GRANULE;
	uint64_t skew = first_granule % pool->lane_count;
	uint64_t g = (lane->index + pool->lane_count - skew) % pool->lane_count;

	for (; g < granules; g += pool->lane_count) {
		uint64_t word = g * WORDS_PER_GRANULE;
		uint64_t end = word + WORDS_PER_GRANULE;

		for (; word < end && word < r->words; word++) {
			int e = visit(lane, region, word);

			if (e < 0)
				return e;
		}
		if (lanes_must_stop(pool))
			return -ECANCELED;
	}
	return 0;
}

int lane_walk(struct lane *lane, lane_visit visit)
{
	uint64_t granule = 0;
	int r = 0;

	for (unsigned int i = 0; i < lane->pool->map->region_count && r == 0; i++) {
		r = walk_region(lane, i, granule, visit);
		granule += lane->pool->map->regions[i].region.size / LANE_GRANULE;
	}
	return r;
}

int lane_sweep(struct lane *lane, bool *sent)
{
	uint64_t before = atomic_load_explicit(&lane->counts.pages, memory_order_relaxed);
	int r = lane_walk(lane, sweep_word);

	if (r == 0)
		r = flush(lane);
	*sent = atomic_load_explicit(&lane->counts.pages, memory_order_relaxed) != before;
	return r;
}
