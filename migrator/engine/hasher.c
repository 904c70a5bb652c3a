/* SPDX-License-Identifier: MIT */
#include "hasher.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"
#include "messages.h"

#define FENCE_NS (10 * NS_PER_S)
#define REPLY_NS (5 * NS_PER_S)

struct hasher {
	struct vmferry_session *session;
	const struct vmferry_vm *vm;
	struct hash_table *table; /* the thread's while it runs */
	uint64_t **resent;	  /* control thread: named since the last start */
	uint64_t **working;	  /* the thread's while it runs */
	uint64_t fence;		  /* set before the thread starts, as the next one */
	bool first;		  /* the thread's while it runs */
	bool started;		  /* the thread exists and was not joined */
	pthread_t thread;
	_Atomic bool stop;
	_Atomic bool done;
	_Atomic int result;
};

static uint64_t words_of(const struct hasher *h, unsigned int region)
{
	return (h->vm->regions[region].size / VMFERRY_PAGE_SIZE + 63) / 64;
}

static void free_bits(const struct hasher *h, uint64_t **bits)
{
	for (unsigned int i = 0; bits != NULL && i < h->vm->region_count; i++)
		free(bits[i]);
	free(bits);
}

static int new_bits(const struct hasher *h, uint64_t ***bits)
{
	*bits = calloc(h->vm->region_count, sizeof(**bits));
	for (unsigned int i = 0; *bits != NULL && i < h->vm->region_count; i++) {
		(*bits)[i] = calloc(words_of(h, i), sizeof(uint64_t));
		if ((*bits)[i] == NULL)
			return -ENOMEM;
	}
	return *bits == NULL ? -ENOMEM : 0;
}

int hasher_new(struct vmferry_session *session, const struct vmferry_vm *vm, struct hasher **hasher)
{
	struct hasher *h = calloc(1, sizeof(*h));
	int r;

	if (h == NULL)
		return -ENOMEM;
	h->session = session;
	h->vm = vm;
	h->first = true;
	r = hash_table_new(vm->regions, vm->region_count, &h->table);
	r = r < 0 ? r : new_bits(h, &h->resent);
	r = r < 0 ? r : new_bits(h, &h->working);
	if (r < 0)
		hasher_free(&h);
	else
		*hasher = h;
	return r;
}

static void join(struct hasher *h)
{
	if (h->started)
		pthread_join(h->thread, NULL);
	h->started = false;
}

void hasher_free(struct hasher **hasher)
{
	struct hasher *h = *hasher;

	if (h == NULL)
		return;
	atomic_store(&h->stop, true);
	join(h);
	free_bits(h, h->working);
	free_bits(h, h->resent);
	hash_table_free(&h->table);
	free(h);
	*hasher = NULL;
}

/* Bits past a region's end would make the hasher read past its memory. */
static uint64_t inside(const struct hasher *h, unsigned int region, uint64_t word, uint64_t bits)
{
	uint64_t pages = h->vm->regions[region].size / VMFERRY_PAGE_SIZE;

	if (word == pages / 64 && pages % 64 != 0)
		bits &= (1ull << (pages % 64)) - 1;
	return bits;
}

int hasher_resent(struct hasher *h, const struct vmferry_message *message)
{
	struct words w;
	int r = words_unpack(message, &w);

	if (r < 0)
		return r;
	if (w.region >= h->vm->region_count || w.first > words_of(h, w.region) ||
	    w.count > words_of(h, w.region) - w.first) {
		log_error("verify: words %llu and %u more of region %u are outside of the guest: "
			  "protocol error",
			  (unsigned long long)w.first, w.count, w.region);
		return -EPROTO;
	}
	for (uint32_t i = 0; i < w.count; i++)
		h->resent[w.region][w.first + i] |=
			inside(h, w.region, w.first + i, wire_get(w.at + (size_t)i * 8, 8));
	return 0;
}

static int hash_named(struct hasher *h, uint64_t **bits)
{
	for (unsigned int i = 0; i < h->vm->region_count; i++) {
		hash_again(h->table, i, bits[i], words_of(h, i));
		memset(bits[i], 0, words_of(h, i) * sizeof(uint64_t));
	}
	return 0;
}

/*
 * A page that arrives while it is hashed spoils its hash, but the source will name it: it was sent
 * behind the fence.
 */
static void *hasher_main(void *arg)
{
	struct hasher *h = arg;
	int r = vmferry_fence_wait(h->session, (uint32_t)h->fence, vmferry_now() + FENCE_NS);
	uint64_t began = vmferry_now();

	if (r == 0)
		r = h->first ? hash_all(h->table, &h->stop) : hash_named(h, h->working);
	h->first = false;
	atomic_store(&h->result, r);
	atomic_store(&h->done, true);
	if (r == 0)
		message_send_number(h->session, VMFERRY_CONTROL, MESSAGE_HASHED,
				    vmferry_now() - began, vmferry_now() + REPLY_NS);
	return NULL;
}

int hasher_start(struct hasher *h, uint64_t fence)
{
	uint64_t **named = h->resent;
	int r;

	if (fence > UINT32_MAX || (h->started && !atomic_load(&h->done)))
		return -EPROTO;
	join(h);
	if (atomic_load(&h->result) < 0)
		return atomic_load(&h->result);
	h->resent = h->working;
	h->working = named;
	h->fence = fence;
	atomic_store(&h->done, false);
	r = thread_start(&h->thread, "vmf-hasher", hasher_main, h);
	h->started = r == 0;
	return r;
}

int hasher_finish(struct hasher *h)
{
	int r;

	/* @first is the thread's while there is one. */
	if (!h->started && h->first) {
		log_error("verify: the source asked for it but never for hashes: protocol error");
		return -EPROTO;
	}
	join(h);
	r = atomic_load(&h->result);
	return r < 0 ? r : hash_named(h, h->resent);
}

const struct hash_table *hasher_table(const struct hasher *h)
{
	return h->table;
}
