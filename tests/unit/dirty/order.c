/* SPDX-License-Identifier: MIT */
/*
 * The one order that loses nothing, on a model of KVM: a writer whose first write to a protected
 * page is recorded, a tracker that collects, protects and publishes, a lane that takes and copies.
 * With the last two of the tracker's steps exchanged the same check must find that a page is lost,
 * or it would prove nothing.
 */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "migrator/dirty/map.h"

#define PAGES	 256u
#define WORDS	 (PAGES / MAP_WORD_PAGES)
#define HARVESTS 400u

TestSuite(order, .timeout = 300);

enum order { PROTECT_THEN_PUBLISH, PUBLISH_THEN_PROTECT };

struct page {
	pthread_mutex_t mmu; /* what makes a protection fault atomic against protecting */
	bool protect;	     /* under @mmu */
	bool recorded;	     /* under @mmu: in the ring */
	atomic_uint content; /* what the guest writes while the lane reads */
	unsigned int copy;   /* the lane's alone */
};

struct model {
	enum order order;
	struct page page[PAGES];
	struct dirty_map *map;
	atomic_bool stop_writer;
	atomic_bool stop_lane;
	atomic_uint writes; /* passes over all pages */
	atomic_uint sweeps; /* of the lane over the map */
	pthread_t writer;
	pthread_t lane;
};

static void write_page(struct page *p)
{
	pthread_mutex_lock(&p->mmu);
	if (p->protect) {
		p->protect = false;
		p->recorded = true;
	}
	atomic_fetch_add_explicit(&p->content, 1, memory_order_relaxed);
	pthread_mutex_unlock(&p->mmu);
}

static void *writer(void *arg)
{
	struct model *m = arg;

	while (!atomic_load(&m->stop_writer)) {
		for (unsigned int i = 0; i < PAGES; i++)
			write_page(&m->page[i]);
		atomic_fetch_add(&m->writes, 1);
		sched_yield();
	}
	return NULL;
}

static void sweep(struct model *m)
{
	for (uint64_t w = 0; w < WORDS; w++) {
		uint64_t bits = dirty_map_take(&m->map->regions[0], w, ~0ull);

		for (; bits != 0; bits &= bits - 1) {
			struct page *p = &m->page[w * MAP_WORD_PAGES + __builtin_ctzll(bits)];

			p->copy = atomic_load_explicit(&p->content, memory_order_relaxed);
		}
	}
	atomic_fetch_add(&m->sweeps, 1);
}

static void *lane(void *arg)
{
	struct model *m = arg;

	while (!atomic_load(&m->stop_lane)) {
		sweep(m);
		sched_yield();
	}
	return NULL;
}

static void collect(struct model *m, uint64_t *bits)
{
	for (unsigned int i = 0; i < PAGES; i++) {
		struct page *p = &m->page[i];

		pthread_mutex_lock(&p->mmu);
		if (p->recorded)
			bits[i / MAP_WORD_PAGES] |= 1ull << (i % MAP_WORD_PAGES);
		p->recorded = false;
		pthread_mutex_unlock(&p->mmu);
	}
}

static void protect(struct model *m, const uint64_t *bits)
{
	for (unsigned int i = 0; i < PAGES; i++) {
		if (((bits[i / MAP_WORD_PAGES] >> (i % MAP_WORD_PAGES)) & 1) == 0)
			continue;
		pthread_mutex_lock(&m->page[i].mmu);
		m->page[i].protect = true;
		pthread_mutex_unlock(&m->page[i].mmu);
	}
}

static void publish(struct model *m, const uint64_t *bits)
{
	for (uint64_t w = 0; w < WORDS; w++)
		dirty_map_publish(&m->map->regions[0], w, bits[w]);
}

/* @between runs between the last two steps, where a bad order has its hole. */
static void harvest(struct model *m, void (*between)(struct model *m))
{
	uint64_t bits[WORDS] = {0};

	collect(m, bits);
	if (m->order == PROTECT_THEN_PUBLISH)
		protect(m, bits);
	else
		publish(m, bits);
	if (between != NULL)
		between(m);
	if (m->order == PROTECT_THEN_PUBLISH)
		publish(m, bits);
	else
		protect(m, bits);
}

static void wait_for(atomic_uint *counter, unsigned int more)
{
	unsigned int goal = atomic_load(counter) + more;

	while ((int)(goal - atomic_load(counter)) > 0)
		usleep(10);
}

/* The lane has gone over the map, then the guest writes every page once more and never again. */
static void last_writes(struct model *m)
{
	wait_for(&m->sweeps, 2);
	wait_for(&m->writes, 2);
	atomic_store(&m->stop_writer, true);
	pthread_join(m->writer, NULL);
}

static void make(struct model *m, enum order order)
{
	struct vmferry_region region = {.size = (uint64_t)PAGES * VMFERRY_PAGE_SIZE};
	struct vmferry_vm vm = {.regions = &region, .region_count = 1};

	m->order = order;
	for (unsigned int i = 0; i < PAGES; i++) {
		pthread_mutex_init(&m->page[i].mmu, NULL);
		m->page[i].protect = true;
	}
	cr_assert_eq(dirty_map_new(&vm, &m->map), 0);
}

/* How many pages are not what the guest wrote last. */
static unsigned int lost_pages(enum order order)
{
	struct model *m = calloc(1, sizeof(*m));
	unsigned int lost = 0;

	cr_assert_not_null(m);
	make(m, order);
	cr_assert_eq(pthread_create(&m->writer, NULL, writer, m), 0);
	cr_assert_eq(pthread_create(&m->lane, NULL, lane, m), 0);
	for (unsigned int i = 0; i < HARVESTS; i++)
		harvest(m, NULL);
	wait_for(&m->writes, 2);
	harvest(m, last_writes);
	harvest(m, NULL);
	atomic_store(&m->stop_lane, true);
	pthread_join(m->lane, NULL);
	sweep(m);
	for (unsigned int i = 0; i < PAGES; i++) {
		lost += m->page[i].copy != atomic_load(&m->page[i].content);
		pthread_mutex_destroy(&m->page[i].mmu);
	}
	dirty_map_free(&m->map);
	free(m);
	return lost;
}

Test(order, protect_then_publish__no_page_is_lost)
{
	cr_assert_eq(lost_pages(PROTECT_THEN_PUBLISH), 0);
}

Test(order, publish_then_protect__pages_are_lost_and_it_shows)
{
	cr_assert_gt(lost_pages(PUBLISH_THEN_PROTECT), 0);
}
