/* SPDX-License-Identifier: MIT */
#include "populate.h"

#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/node.h"
#include "common/thread.h"

#define POPULATE_THREADS_MAX 8
/* A step is what a thread takes at once and the longest that an early end waits for. */
#define POPULATE_STEP (8ull << 20)

struct populate {
	struct populate_range *ranges; /* read only */
	uint64_t *first_step; /* read only: number of the range's first step; one more at the end */
	unsigned int count;
	_Atomic uint64_t next_step; /* any of the threads */
	_Atomic bool stop;
	_Atomic unsigned int working;
	_Atomic uint64_t finished_ns;
	uint64_t started_ns;
	unsigned int thread_count;
	unsigned int joined;  /* so many of @threads were */
	pthread_mutex_t lock; /* only for waiting until @working is 0 */
	pthread_cond_t done;
	pthread_t threads[POPULATE_THREADS_MAX];
};

static uint64_t steps_of(uint64_t length)
{
	return (length + POPULATE_STEP - 1) / POPULATE_STEP;
}

/*
 * A page comes from where the VMM has bound the memory to, whoever touches it; but clearing it is
 * faster from there. Memory that is not bound comes from the node of the thread that touches it
 * first: where its guest will run the VMM knows and not we, so that such a thread goes nowhere, and
 * the kernel spreads them over what the VMM has left to it.
 */
static void populate_step(const struct populate *p, unsigned int range, uint64_t step,
			  struct thread_home *home)
{
	const struct populate_range *r = &p->ranges[range];
	uint64_t offset = (step - p->first_step[range]) * POPULATE_STEP;
	uint64_t length = r->length - offset;

	if (length > POPULATE_STEP)
		length = POPULATE_STEP;
	thread_go_near(home, memory_node((char *)r->base + offset));
	/*
	 * A failure costs only time: the page is faulted in when its bytes arrive, and that is
	 * where it would be told.
	 */
	if (madvise((char *)r->base + offset, length, MADV_POPULATE_WRITE) < 0)
		log_debug("populate: %llu bytes: %s", (unsigned long long)length, strerror(errno));
}

static void *populate_main(void *arg)
{
	struct populate *p = arg;
	struct thread_home home;
	unsigned int range = 0;

	thread_home_init(&home);
	for (;;) {
		uint64_t step = atomic_fetch_add_explicit(&p->next_step, 1, memory_order_relaxed);

		if (step >= p->first_step[p->count] || atomic_load(&p->stop))
			break;
		while (step >= p->first_step[range + 1])
			range++;
		populate_step(p, range, step, &home);
	}
	thread_home_free(&home);
	pthread_mutex_lock(&p->lock);
	if (atomic_fetch_sub(&p->working, 1) == 1)
		atomic_store(&p->finished_ns, vmferry_now());
	pthread_cond_broadcast(&p->done);
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

static unsigned int useful_threads(uint64_t steps)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	uint64_t n = cpus > 0 ? (uint64_t)cpus : 1;

	if (n > POPULATE_THREADS_MAX)
		n = POPULATE_THREADS_MAX;
	return (unsigned int)(n < steps ? n : steps);
}

static void start_threads(struct populate *p)
{
	unsigned int wanted = useful_threads(p->first_step[p->count]);

	atomic_store(&p->working, wanted);
	while (p->thread_count < wanted &&
	       thread_start(&p->threads[p->thread_count], "vmf-populate", populate_main, p) == 0)
		p->thread_count++;
	/* Fewer threads than wanted only make it slower. */
	for (unsigned int i = p->thread_count; i < wanted; i++)
		atomic_fetch_sub(&p->working, 1);
}

int populate_start(const struct populate_range *ranges, unsigned int count,
		   struct populate **populate)
{
	struct populate *p = calloc(1, sizeof(*p));

	if (p == NULL)
		return -ENOMEM;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->done, NULL);
	p->ranges = calloc(count + 1, sizeof(*p->ranges));
	p->first_step = calloc(count + 1, sizeof(*p->first_step));
	if (p->ranges == NULL || p->first_step == NULL) {
		populate_finish(&p);
		return -ENOMEM;
	}
	p->count = count;
	for (unsigned int i = 0; i < count; i++) {
		p->ranges[i] = ranges[i];
		p->first_step[i + 1] = p->first_step[i] + steps_of(ranges[i].length);
	}
	p->started_ns = vmferry_now();
	start_threads(p);
	*populate = p;
	return 0;
}

int populate_wait(struct populate *p, uint64_t deadline)
{
	struct timespec ts = deadline_timespec(deadline);
	int r = 0;

	pthread_mutex_lock(&p->lock);
	while (atomic_load(&p->working) > 0 && r == 0)
		r = pthread_cond_clockwait(&p->done, &p->lock, CLOCK_MONOTONIC, &ts);
	r = atomic_load(&p->working) > 0 ? -ETIMEDOUT : 0;
	pthread_mutex_unlock(&p->lock);
	return r;
}

void populate_stop(struct populate *p)
{
	atomic_store(&p->stop, true);
	for (; p->joined < p->thread_count; p->joined++)
		pthread_join(p->threads[p->joined], NULL);
}

void populate_finish(struct populate **populate)
{
	struct populate *p = *populate;

	if (p == NULL)
		return;
	populate_stop(p);
	pthread_cond_destroy(&p->done);
	pthread_mutex_destroy(&p->lock);
	free(p->first_step);
	free(p->ranges);
	free(p);
	*populate = NULL;
}

uint64_t populate_ns(const struct populate *p)
{
	uint64_t finished = atomic_load(&((struct populate *)p)->finished_ns);

	return finished > p->started_ns ? finished - p->started_ns : 0;
}
