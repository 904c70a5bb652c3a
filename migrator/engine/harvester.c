/* SPDX-License-Identifier: MIT */
#include "harvester.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"

/*
 * How long pages gather between two harvests. A page is write-protected anew at each harvest that
 * finds it, so short periods cost the guest faults; long ones leave more for the blackout, and fill
 * rings.
 */
#define HARVEST_PERIOD_NS (5 * NS_PER_MS)
#define RATE_WINDOW_NS	  (100 * NS_PER_MS)

void harvester_init(struct harvester *h)
{
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->end, NULL);
}

void harvester_destroy(struct harvester *h)
{
	pthread_cond_destroy(&h->end);
	pthread_mutex_destroy(&h->lock);
}

static void smooth(_Atomic uint64_t *value, uint64_t sample)
{
	uint64_t old = atomic_load_explicit(value, memory_order_relaxed);

	atomic_store_explicit(value, old == 0 ? sample : (old * 3 + sample) / 4,
			      memory_order_relaxed);
}

static void account(struct harvester *h, uint64_t pages, uint64_t began, uint64_t now)
{
	atomic_fetch_add_explicit(&h->pages, pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&h->harvests, 1, memory_order_relaxed);
	smooth(&h->harvest_ns, now - began);
	h->window_pages += pages;
	if (now - h->window_start < RATE_WINDOW_NS)
		return;
	smooth(&h->dirty_rate, (uint64_t)((double)h->window_pages * VMFERRY_PAGE_SIZE *
					  (double)NS_PER_S / (double)(now - h->window_start)));
	h->window_start = now;
	h->window_pages = 0;
}

static int harvest_locked(struct harvester *h)
{
	uint64_t began = vmferry_now();
	uint64_t pages = 0;
	int none = 0;
	int r;

	if (h->tracker == NULL)
		return 0;
	r = tracker_harvest(h->tracker, &pages);
	if (r < 0)
		atomic_compare_exchange_strong(&h->error, &none, r);
	account(h, pages, began, vmferry_now());
	if (pages > 0 && h->lanes != NULL)
		lanes_wake(h->lanes);
	return r;
}

int harvester_now(struct harvester *h)
{
	int r;

	pthread_mutex_lock(&h->lock);
	r = harvest_locked(h);
	pthread_mutex_unlock(&h->lock);
	return r;
}

static void *harvester_main(void *arg)
{
	struct harvester *h = arg;

	pthread_mutex_lock(&h->lock);
	while (!h->stop) {
		struct timespec ts;

		/* The control thread sees the error and ends the migration. */
		if (harvest_locked(h) < 0)
			break;
		ts = deadline_timespec(vmferry_now() + HARVEST_PERIOD_NS);
		while (!h->stop &&
		       pthread_cond_clockwait(&h->end, &h->lock, CLOCK_MONOTONIC, &ts) == 0)
			;
	}
	pthread_mutex_unlock(&h->lock);
	atomic_store(&h->cpu_ns, thread_cpu_ns());
	return NULL;
}

int harvester_start(struct harvester *h, struct tracker *tracker, struct lane_pool *lanes)
{
	int r = tracker_start(tracker);

	if (r < 0)
		return r;
	pthread_mutex_lock(&h->lock);
	h->tracker = tracker;
	h->lanes = lanes;
	h->stop = false;
	h->window_start = vmferry_now();
	pthread_mutex_unlock(&h->lock);
	r = thread_start(&h->thread, "vmf-harvest", harvester_main, h);
	if (r < 0) {
		log_error("harvester: no thread for it: %s: raise the limit of processes",
			  strerror(-r));
		return r;
	}
	h->running = true;
	return 0;
}

void harvester_set_lanes(struct harvester *h, struct lane_pool *lanes)
{
	pthread_mutex_lock(&h->lock);
	h->lanes = lanes;
	pthread_mutex_unlock(&h->lock);
}

static void stop_thread(struct harvester *h)
{
	if (!h->running)
		return;
	pthread_mutex_lock(&h->lock);
	h->stop = true;
	pthread_cond_signal(&h->end);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->thread, NULL);
	h->running = false;
}

void harvester_end(struct harvester *h)
{
	stop_thread(h);
	pthread_mutex_lock(&h->lock);
	if (h->tracker != NULL)
		tracker_stop(h->tracker);
	h->tracker = NULL;
	h->lanes = NULL;
	pthread_mutex_unlock(&h->lock);
}
