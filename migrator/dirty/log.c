/* SPDX-License-Identifier: MIT */
/*
 * The tracker on KVM's dirty log: a bitmap a slot. With manual protect KVM_GET_DIRTY_LOG only
 * copies the bits, pages stay writable and bits set, until KVM_CLEAR_DIRTY_LOG protects exactly the
 * pages that were read; then they are published.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/log.h"
#include "slots.h"
#include "trackers.h"

/*
 * Words of one clear, 1 GiB of guest: lanes get the first pages while later ones are still being
 * protected.
 */
#define CLEAR_WORDS 4096u

struct log_tracker {
	struct tracker head;
	int vm_fd;	  /* borrowed from the VMM */
	bool started;	  /* the slots log */
	uint64_t *bitmap; /* owned; as many words as the largest region has */
};

static struct log_tracker *log_tracker(struct tracker *t)
{
	return (struct log_tracker *)t;
}

static int fail(const struct dirty_region *r, const char *what)
{
	int error = errno;

	log_error("tracker log: slot 0x%x: %s: %s: leave the slot as it was given, and its logging "
		  "on, while a migration runs",
		  r->region.slot, what, strerror(error));
	return -error;
}

/* Protects the pages of words @from to @to - 1 that are set in the bitmap, then publishes them. */
static int clear_and_publish(struct log_tracker *t, struct dirty_region *r, uint64_t from,
			     uint64_t to, uint64_t *pages)
{
	uint64_t first = from * MAP_WORD_PAGES;
	uint64_t end = to < r->words ? to * MAP_WORD_PAGES : r->pages;
	struct kvm_clear_dirty_log clear = {
		.slot = r->region.slot,
		.num_pages = (uint32_t)(end - first),
		.first_page = first,
		.dirty_bitmap = &t->bitmap[from],
	};

	if (ioctl(t->vm_fd, KVM_CLEAR_DIRTY_LOG, &clear) < 0)
		return fail(r, "protect pages again");
	for (uint64_t w = from; w < to; w++) {
		if (t->bitmap[w] == 0)
			continue;
		dirty_map_publish(r, w, t->bitmap[w]);
		*pages += (uint64_t)__builtin_popcountll(t->bitmap[w]);
	}
	return 0;
}

static int harvest_chunk(struct log_tracker *t, struct dirty_region *r, uint64_t from, uint64_t to,
			 uint64_t *pages)
{
	while (from < to && t->bitmap[from] == 0)
		from++;
	while (to > from && t->bitmap[to - 1] == 0)
		to--;
	return from < to ? clear_and_publish(t, r, from, to, pages) : 0;
}

static int harvest_region(struct log_tracker *t, struct dirty_region *r, uint64_t *pages)
{
	struct kvm_dirty_log get = {.slot = r->region.slot, .dirty_bitmap = t->bitmap};

	if (ioctl(t->vm_fd, KVM_GET_DIRTY_LOG, &get) < 0)
		return fail(r, "read the dirty log");
	for (uint64_t w = 0; w < r->words; w += CLEAR_WORDS) {
		uint64_t to = r->words - w < CLEAR_WORDS ? r->words : w + CLEAR_WORDS;
		int rc = harvest_chunk(t, r, w, to, pages);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int harvest(struct tracker *tracker, uint64_t *pages)
{
	struct log_tracker *t = log_tracker(tracker);

	if (!t->started)
		return -EINVAL;
	for (unsigned int i = 0; i < t->head.map->region_count; i++) {
		int rc = harvest_region(t, &t->head.map->regions[i], pages);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int start(struct tracker *tracker)
{
	struct log_tracker *t = log_tracker(tracker);
	/*
	 * Without INITIALLY_SET: with it every page starts as dirty and writable, which is right
	 * only for a caller whose first pass is taken from the log itself.
	 */
	struct kvm_enable_cap cap = {
		.cap = KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2,
		.args[0] = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
	};
	int rc;

	if (t->started)
		return -EALREADY;
	if (ioctl(t->vm_fd, KVM_ENABLE_CAP, &cap) < 0) {
		rc = -errno;
		log_error("tracker log: enable manual protect: %s: use the tracker 'ring'",
			  strerror(-rc));
		return rc;
	}
	rc = slots_log_on(t->vm_fd, t->head.map);
	t->started = rc == 0;
	return rc;
}

static int stop(struct tracker *tracker)
{
	struct log_tracker *t = log_tracker(tracker);
	uint64_t pages = 0;
	int rc, off;

	if (!t->started)
		return 0;
	rc = harvest(tracker, &pages);
	off = slots_log_off(t->vm_fd, t->head.map);
	t->started = false;
	return rc < 0 ? rc : off;
}

static void log_tracker_free(struct tracker *tracker)
{
	struct log_tracker *t = log_tracker(tracker);

	free(t->bitmap);
	free(t);
}

static const struct tracker_ops ops = {
	.name = "log",
	.start = start,
	.harvest = harvest,
	.stop = stop,
	.free = log_tracker_free,
};

int log_tracker_new(const struct vmferry_vm *vm, struct dirty_map *map, struct tracker **tracker)
{
	struct log_tracker *t = calloc(1, sizeof(*t));
	uint64_t words = 1;

	if (t == NULL)
		return -ENOMEM;
	t->head.ops = &ops;
	t->head.map = map;
	t->vm_fd = vm->vm_fd;
	for (unsigned int i = 0; i < map->region_count; i++)
		words = map->regions[i].words > words ? map->regions[i].words : words;
	t->bitmap = calloc(words, sizeof(*t->bitmap));
	if (t->bitmap == NULL) {
		free(t);
		return -ENOMEM;
	}
	*tracker = &t->head;
	return 0;
}
