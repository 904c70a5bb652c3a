/* SPDX-License-Identifier: MIT */
#include "hash.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "common/log.h"
#include "common/thread.h"
#include "content.h"

#define HASH_THREADS_MAX 8
/* Pages that a thread takes at once. */
#define HASH_STEP_PAGES 1024u
/* Below this many pages a second thread costs more than it helps. */
#define HASH_ALONE_PAGES 256u

static const uint8_t zero_page[VMFERRY_PAGE_SIZE];

int hash_table_new(const struct vmferry_region *regions, unsigned int count,
		   struct hash_table **table)
{
	struct hash_table *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return -ENOMEM;
	t->regions = regions;
	t->region_count = count;
	t->first = calloc(count + 1, sizeof(*t->first));
	if (t->first == NULL)
		goto err_free;
	for (unsigned int i = 0; i < count; i++)
		t->first[i + 1] = t->first[i] + regions[i].size / VMFERRY_PAGE_SIZE;
	t->of_page = calloc(t->first[count] + 1, sizeof(*t->of_page));
	if (t->of_page == NULL)
		goto err_free;
	*table = t;
	return 0;

err_free:
	hash_table_free(&t);
	return -ENOMEM;
}

void hash_table_free(struct hash_table **table)
{
	struct hash_table *t = *table;

	if (t == NULL)
		return;
	free(t->of_page);
	free(t->first);
	free(t);
	*table = NULL;
}

static void hash_page(struct hash_table *t, unsigned int region, uint64_t page)
{
	const uint8_t *base = t->regions[region].base;

	t->of_page[t->first[region] + page] =
		XXH3_64bits(base + page * VMFERRY_PAGE_SIZE, VMFERRY_PAGE_SIZE);
}

/* One job of several threads: each takes steps until none is left. */
struct hash_job {
	struct hash_table *table;
	unsigned int region;
	uint64_t first; /* page, or word of @words */
	uint64_t end;
	uint64_t step;
	const uint64_t *words; /* NULL: every page */
	const _Atomic bool *stop;
	_Atomic uint64_t next;
};

static void hash_words(struct hash_job *job, uint64_t from, uint64_t to)
{
	for (uint64_t w = from; w < to; w++) {
		for (uint64_t bits = job->words[w]; bits != 0; bits &= bits - 1)
			hash_page(job->table, job->region,
				  w * 64 + (uint64_t)__builtin_ctzll(bits));
	}
}

static void hash_range(struct hash_job *job, uint64_t from, uint64_t to)
{
	for (uint64_t page = from; page < to; page++)
		hash_page(job->table, job->region, page);
}

static void *hash_main(void *arg)
{
	struct hash_job *job = arg;

	for (;;) {
		uint64_t from =
			atomic_fetch_add_explicit(&job->next, job->step, memory_order_relaxed);
		uint64_t to = from + job->step < job->end ? from + job->step : job->end;

		if (from >= job->end || (job->stop != NULL && atomic_load(job->stop)))
			return NULL;
		if (job->words != NULL)
			hash_words(job, from, to);
		else
			hash_range(job, from, to);
	}
}

static void run_job(struct hash_job *job, bool alone)
{
	pthread_t threads[HASH_THREADS_MAX];
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	unsigned int count = 0;

	atomic_store(&job->next, job->first);
	while (!alone && count + 1 < HASH_THREADS_MAX && (long)count + 1 < cpus &&
	       thread_start(&threads[count], "vmf-hash", hash_main, job) == 0)
		count++;
	hash_main(job);
	for (unsigned int i = 0; i < count; i++)
		pthread_join(threads[i], NULL);
}

static int hash_region(struct hash_table *t, unsigned int region, const _Atomic bool *stop)
{
	struct content_extent e;
	uint64_t offset = 0;
	int r;

	while ((r = content_next(&t->regions[region], offset, &e)) > 0) {
		struct hash_job job = {
			.table = t,
			.region = region,
			.first = e.offset / VMFERRY_PAGE_SIZE,
			.end = (e.offset + e.length) / VMFERRY_PAGE_SIZE,
			.step = HASH_STEP_PAGES,
			.stop = stop,
		};

		run_job(&job, job.end - job.first < HASH_ALONE_PAGES);
		offset = e.offset + e.length;
		if (stop != NULL && atomic_load(stop))
			return -ECANCELED;
	}
	return r;
}

int hash_all(struct hash_table *t, const _Atomic bool *stop)
{
	uint64_t zero = XXH3_64bits(zero_page, sizeof(zero_page));
	int r = 0;

	for (uint64_t i = 0; i < hash_table_pages(t); i++)
		t->of_page[i] = zero;
	for (unsigned int i = 0; i < t->region_count && r == 0; i++)
		r = hash_region(t, i, stop);
	return r;
}

void hash_again(struct hash_table *t, unsigned int region, const uint64_t *words,
		uint64_t word_count)
{
	struct hash_job job = {
		.table = t,
		.region = region,
		.end = word_count,
		.step = HASH_STEP_PAGES / 64,
		.words = words,
	};
	uint64_t pages = 0;

	for (uint64_t w = 0; w < word_count; w++)
		pages += (uint64_t)__builtin_popcountll(words[w]);
	if (pages > 0)
		run_job(&job, pages < HASH_ALONE_PAGES);
}
