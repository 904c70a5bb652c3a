/* SPDX-License-Identifier: MIT */
#include "lanes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/node.h"
#include "common/thread.h"
#include "messages.h"
#include "sweep.h"

/* No bytes taken for this long: the peer hangs. */
#define LANE_STUCK_NS (10 * NS_PER_S)
#define IDLE_SLICE_NS (100 * NS_PER_MS)
/* So often an idle lane is asked whether its path is there. */
#define PROBE_NS (200 * NS_PER_MS)
/*
 * What one thread sends in less time than waking the others takes: half a MiB is 40 us at 100 Gb/s,
 * and so is the walk through the map of 16 GiB.
 */
#define LITTLE_PAGES 128u
#define LITTLE_WORDS (1ull << 16)
/* The destination says at least each 16 MiB what it has placed. */
#define LOOK_BYTES_MIN	    (16ull << 20)
#define LOOK_BYTES_PER_WORD 512ull

static int first_pass(struct lane *lane)
{
	struct lane_pool *pool = lane->pool;
	uint64_t deadline;
	bool sent;
	int r = lane_sweep(lane, &sent);

	if (r < 0)
		return r;
	deadline = vmferry_now() + LANE_STUCK_NS;
	atomic_store_explicit(&lane->counts.first_bytes, atomic_load(&lane->counts.bytes),
			      memory_order_relaxed);
	r = vmferry_lane_fence(pool->session, lane->index, FENCE_FIRST_PASS, deadline);
	if (r == 0)
		r = vmferry_lane_fence_wait(pool->session, lane->index, FENCE_FIRST_PASS, deadline);
	if (r < 0)
		return r;
	lane_all_placed(lane);
	lane->record = pool->verify;
	atomic_store_explicit(&lane->counts.marked, FENCE_FIRST_PASS, memory_order_relaxed);
	/* release: who sees the first pass done sees its counts. */
	atomic_store_explicit(&lane->counts.first_done_ns, vmferry_now(), memory_order_release);
	return 0;
}

static int hand_word(struct lane *lane, unsigned int region, uint64_t word)
{
	struct lane_pool *pool = lane->pool;

	pool->sets->handed[region][word] |= pool->sets->resent[region][word];
	pool->sets->resent[region][word] = 0;
	return 0;
}

/* Between two sweeps nothing is batched: all that was recorded goes ahead of the fence. */
static int mark(struct lane *lane, uint32_t fence)
{
	struct lane_pool *pool = lane->pool;
	int r = lane_walk(lane, hand_word);

	if (r == 0)
		r = vmferry_lane_fence(pool->session, lane->index, fence,
				       vmferry_now() + LANE_STUCK_NS);
	atomic_store_explicit(&lane->counts.resent_pages, 0, memory_order_relaxed);
	/*
	 * release: pairs with the acquire in lanes_marked(), which gives @handed to the control
	 * thread.
	 */
	atomic_store_explicit(&lane->counts.marked, fence, memory_order_release);
	return r;
}

static bool mark_wanted(const struct lane *lane, uint32_t fence)
{
	return fence > atomic_load_explicit(&lane->counts.marked, memory_order_relaxed);
}

/* False when the lane was taken from this thread, and stays so until the end. */
static bool sleep_until_work(struct lane *lane, uint64_t generation)
{
	struct lane_pool *pool = lane->pool;
	struct timespec ts = deadline_timespec(vmferry_now() + IDLE_SLICE_NS);
	bool mine;

	/* Should it be taken, this is the last that is known. */
	atomic_store_explicit(&lane->counts.cpu_ns, thread_cpu_ns(), memory_order_relaxed);
	pthread_mutex_lock(&pool->lock);
	lane->idle = true;
	if (atomic_load(&pool->generation) == generation && !atomic_load(&pool->finish) &&
	    !mark_wanted(lane, atomic_load(&pool->mark)) && !lanes_must_stop(pool))
		pthread_cond_clockwait(&pool->work, &pool->lock, CLOCK_MONOTONIC, &ts);
	while (pool->taken && !lanes_must_stop(pool))
		pthread_cond_wait(&pool->work, &pool->lock);
	mine = !pool->taken;
	lane->idle = false;
	pthread_mutex_unlock(&pool->lock);
	return mine;
}

/* Else a path that is dead would show in the blackout, with the guest standing still. */
static int probe(struct lane *lane)
{
	uint64_t now = vmferry_now();

	if (now - lane->probed_ns < PROBE_NS)
		return 0;
	lane->probed_ns = now;
	return vmferry_lane_probe(lane->pool->session, lane->index);
}

static int stream(struct lane *lane)
{
	struct lane_pool *pool = lane->pool;

	for (;;) {
		/*
		 * acquire: a sweep that starts after seeing these sees the bits that were published
		 * before them.
		 */
		uint64_t generation = atomic_load_explicit(&pool->generation, memory_order_acquire);
		bool last = atomic_load_explicit(&pool->finish, memory_order_acquire);
		uint32_t fence = atomic_load_explicit(&pool->mark, memory_order_acquire);
		bool sent;
		int r = lane_sweep(lane, &sent);

		if (r < 0)
			return r;
		if (last)
			return vmferry_lane_fence(pool->session, lane->index,
						  atomic_load(&pool->last_fence),
						  vmferry_now() + LANE_STUCK_NS);
		if (mark_wanted(lane, fence)) {
			r = mark(lane, fence);
			if (r < 0)
				return r;
		}
		if (sent) {
			lane_count(&lane->counts.sweeps, 1);
			continue;
		}
		r = probe(lane);
		if (r < 0)
			return r;
		atomic_store_explicit(&lane->counts.seen, generation, memory_order_release);
		if (!sleep_until_work(lane, generation))
			return 0;
	}
}

static void note_error(struct lane_pool *pool, int error)
{
	int expected = 0;

	if (error < 0)
		atomic_compare_exchange_strong(&pool->error, &expected, error);
}

static void *lane_main(void *arg)
{
	struct lane *lane = arg;
	struct lane_pool *pool = lane->pool;
	int r;

	thread_stay_near(vmferry_lane_numa_node(pool->session, lane->index));
	r = first_pass(lane);
	if (r == 0)
		r = stream(lane);
	note_error(pool, r);
	atomic_store_explicit(&lane->counts.cpu_ns, thread_cpu_ns(), memory_order_relaxed);
	pthread_mutex_lock(&pool->lock);
	/* release: the resent maps and counts of this lane are read by who sees it finished. */
	atomic_fetch_sub_explicit(&pool->running, 1, memory_order_release);
	pthread_cond_broadcast(&pool->done);
	pthread_mutex_unlock(&pool->lock);
	return NULL;
}

/* Looking through a lane's words should cost nothing beside sending what they stand for. */
static uint64_t look_bytes(const struct dirty_map *map)
{
	uint64_t words = 0;

	for (unsigned int i = 0; i < map->region_count; i++)
		words += map->regions[i].words;
	return words * LOOK_BYTES_PER_WORD > LOOK_BYTES_MIN ? words * LOOK_BYTES_PER_WORD
							    : LOOK_BYTES_MIN;
}

int lanes_new(struct vmferry_session *session, struct dirty_map *map,
	      struct vmferry_memory **memories, struct page_sets *sets, uint64_t bandwidth,
	      struct lane_pool **out)
{
	struct lane_pool *pool = calloc(1, sizeof(*pool));

	if (pool == NULL)
		return -ENOMEM;
	pthread_mutex_init(&pool->lock, NULL);
	pthread_cond_init(&pool->work, NULL);
	pthread_cond_init(&pool->done, NULL);
	pool->session = session;
	pool->map = map;
	pool->memories = memories;
	pool->sets = sets;
	pool->look_bytes = look_bytes(map);
	pool->verify = sets->resent != NULL;
	pace_init(&pool->pace, bandwidth);
	pool->lane_count = vmferry_session_lanes(session);
	pool->lanes = calloc(pool->lane_count, sizeof(*pool->lanes));
	if (pool->lanes == NULL) {
		lanes_free(&pool);
		return -ENOMEM;
	}
	*out = pool;
	return 0;
}

int lanes_start(struct lane_pool *pool)
{
	/* Never equal to a lane's seen before that lane has swept. */
	atomic_store(&pool->generation, 1);
	for (unsigned int i = 0; i < pool->lane_count; i++) {
		struct lane *lane = &pool->lanes[i];
		char name[THREAD_NAME_MAX];
		int r;

		lane->pool = pool;
		lane->index = i;
		lane->patience_ns = LANE_STUCK_NS;
		atomic_fetch_add(&pool->running, 1);
		snprintf(name, sizeof(name), "vmf-send-%u", i % VMFERRY_LANES_MAX);
		r = thread_start(&lane->thread, name, lane_main, lane);
		if (r < 0) {
			atomic_fetch_sub(&pool->running, 1);
			log_error("lane %u: no thread for it: %s: raise the limit of processes", i,
				  strerror(-r));
			return r;
		}
		lane->started = true;
	}
	return 0;
}

static void wake_all(struct lane_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	/* Whom the lanes were taken from has nothing to do, and the processor may be wanted. */
	if (!pool->taken || lanes_must_stop(pool))
		pthread_cond_broadcast(&pool->work);
	pthread_mutex_unlock(&pool->lock);
}

void lanes_wake(struct lane_pool *pool)
{
	/* release: pairs with the acquire in stream(). */
	atomic_fetch_add_explicit(&pool->generation, 1, memory_order_release);
	wake_all(pool);
}

void lanes_mark(struct lane_pool *pool, uint32_t fence)
{
	atomic_store_explicit(&pool->mark, fence, memory_order_release);
	wake_all(pool);
}

bool lanes_marked(const struct lane_pool *pool, uint32_t fence)
{
	for (unsigned int i = 0; i < pool->lane_count; i++) {
		if (atomic_load_explicit(&pool->lanes[i].counts.marked, memory_order_acquire) <
		    fence)
			return false;
	}
	return true;
}

/* ---- without the workers --------------------------------------------------------------------- */

static bool is_small(const struct dirty_map *map)
{
	uint64_t words = 0;

	for (unsigned int i = 0; i < map->region_count; i++)
		words += map->regions[i].words;
	return words <= LITTLE_WORDS;
}

bool lanes_take(struct lane_pool *pool)
{
	bool idle = is_small(pool->map);

	pthread_mutex_lock(&pool->lock);
	for (unsigned int i = 0; idle && i < pool->lane_count; i++)
		idle = pool->lanes[i].idle;
	pool->taken = idle;
	pthread_mutex_unlock(&pool->lock);
	return idle;
}

static void give_back(struct lane_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	pool->taken = false;
	pthread_mutex_unlock(&pool->lock);
	wake_all(pool);
}

static bool is_little(const struct lane_pool *pool)
{
	return dirty_map_count(pool->map) <= LITTLE_PAGES;
}

void lanes_review(struct lane_pool *pool)
{
	if (pool->taken && !is_little(pool))
		give_back(pool);
}

/*
 * The workers sleep: their lanes, and their words of the maps, are this thread's. The lock was
 * between the two.
 */
static int finish_here(struct lane_pool *pool, uint32_t fence, uint64_t deadline)
{
	uint64_t now = vmferry_now();
	int r = 0;

	for (unsigned int i = 0; r == 0 && i < pool->lane_count; i++) {
		struct lane *lane = &pool->lanes[i];
		bool sent;

		lane->patience_ns = deadline > now ? deadline - now : 0;
		r = lane_sweep(lane, &sent);
		r = r < 0 ? r : vmferry_lane_fence(pool->session, i, fence, deadline);
	}
	pool->finished = true;
	return r;
}

int lanes_finish(struct lane_pool *pool, uint32_t fence, uint64_t deadline)
{
	atomic_store(&pool->last_fence, fence);
	atomic_store_explicit(&pool->finish, true, memory_order_release);
	lanes_review(pool);
	if (pool->taken)
		return finish_here(pool, fence, deadline);
	wake_all(pool);
	return 0;
}

int lanes_finished(struct lane_pool *pool, uint64_t deadline)
{
	struct timespec ts = deadline_timespec(deadline);
	bool all;
	int r = 0;

	if (pool->finished)
		return lanes_error(pool);
	pthread_mutex_lock(&pool->lock);
	while (atomic_load_explicit(&pool->running, memory_order_acquire) > 0 && r == 0)
		r = pthread_cond_clockwait(&pool->done, &pool->lock, CLOCK_MONOTONIC, &ts);
	all = atomic_load_explicit(&pool->running, memory_order_acquire) == 0;
	pthread_mutex_unlock(&pool->lock);
	pool->finished = all;
	if (lanes_error(pool) < 0)
		return lanes_error(pool);
	return all ? 0 : -ETIMEDOUT;
}

void lanes_look_after(struct lane_pool *pool)
{
	for (unsigned int i = 0; pool->finished && !pool->placed && i < pool->lane_count; i++) {
		int r = vmferry_lane_fence_wait(pool->session, i, atomic_load(&pool->last_fence),
						0);

		if (r != -ETIMEDOUT)
			note_error(pool, r);
	}
}

void lanes_placed(struct lane_pool *pool)
{
	pool->placed = true;
}

void lanes_free(struct lane_pool **out)
{
	struct lane_pool *pool = *out;

	if (pool == NULL)
		return;
	atomic_store_explicit(&pool->stop, true, memory_order_release);
	wake_all(pool);
	for (unsigned int i = 0; pool->lanes != NULL && i < pool->lane_count; i++) {
		if (pool->lanes[i].started)
			pthread_join(pool->lanes[i].thread, NULL);
	}
	free(pool->lanes);
	pthread_cond_destroy(&pool->done);
	pthread_cond_destroy(&pool->work);
	pthread_mutex_destroy(&pool->lock);
	free(pool);
	*out = NULL;
}

int lanes_error(const struct lane_pool *pool)
{
	return atomic_load(&pool->error);
}

bool lanes_first_pass_done(const struct lane_pool *pool)
{
	for (unsigned int i = 0; i < pool->lane_count; i++) {
		if (atomic_load_explicit(&pool->lanes[i].counts.first_done_ns,
					 memory_order_acquire) == 0)
			return false;
	}
	return true;
}

bool lanes_idle(const struct lane_pool *pool)
{
	uint64_t generation = atomic_load_explicit(&pool->generation, memory_order_acquire);

	for (unsigned int i = 0; i < pool->lane_count; i++) {
		if (atomic_load_explicit(&pool->lanes[i].counts.seen, memory_order_acquire) !=
		    generation)
			return false;
	}
	return true;
}

static uint64_t get(const _Atomic uint64_t *counter)
{
	return atomic_load_explicit(counter, memory_order_relaxed);
}

void lanes_totals(const struct lane_pool *pool, struct lane_totals *t)
{
	memset(t, 0, sizeof(*t));
	for (unsigned int i = 0; i < pool->lane_count; i++) {
		const struct lane_counts *c = &pool->lanes[i].counts;

		t->bytes += get(&c->bytes);
		t->pages += get(&c->pages);
		t->zero_pages += get(&c->zero_pages);
		t->first_bytes += get(&c->first_bytes);
		t->cpu_ns += get(&c->cpu_ns);
		t->resent_pages += get(&c->resent_pages);
		if (get(&c->first_done_ns) > t->first_done_ns)
			t->first_done_ns = get(&c->first_done_ns);
		if (get(&c->sweeps) > t->sweeps)
			t->sweeps = get(&c->sweeps);
	}
}
