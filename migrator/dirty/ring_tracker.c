/* SPDX-License-Identifier: MIT */
/*
 * The tracker on KVM's dirty rings, one a vCPU. Its cost follows the entries that are found, not
 * the size of the guest.
 *
 * ORDER  Entries of all vCPUs are collected into private bits and marked RESET,
 *        KVM_RESET_DIRTY_RINGS protects their pages, and only when it has done all of them are the
 *        bits published: a lane that read a page before it is protected would lose the write that
 *        follows, for nobody would be told of it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"
#include "ring_reset.h"
#include "slots.h"
#include "trackers.h"

/* How long stop() waits for stuck vCPUs to show, and for them to get free, see rings_unstick(). */
#define STUCK_POLL_US	500
#define STUCK_POLLS_MAX 4000
/*
 * 300 ms: on a host with more to do than CPUs a vCPU thread may not run for that long, and be stuck
 * when it does.
 */
#define QUIET_POLLS 600

/* A word of the private bits that is not zero. */
struct touched {
	uint32_t region;
	uint32_t word; /* 2^32 words are a region of 1 PiB */
};

struct ring_tracker {
	struct tracker head;
	bool started; /* the slots log */

	struct rings rings; /* the array is owned, as are the mappings */

	/* Collected and not yet published; the harvesting thread's alone. */
	uint64_t *bits; /* owned; the words of all regions, one after the other */
	uint64_t *region_bits[VMFERRY_REGIONS_MAX]; /* where each region's begin in @bits */
	struct touched *touched; /* owned; room for all that the full rings can touch */
	size_t touched_count;

	unsigned int last_region; /* of the last entry: the next is most likely in the same */
	bool stray_logged;
	bool overflow_logged;
};

static struct ring_tracker *ring_tracker(struct tracker *t)
{
	return (struct ring_tracker *)t;
}

/* The region behind a slot, address space id included; region_count if none. */
static unsigned int find_region(struct ring_tracker *t, uint32_t slot)
{
	const struct dirty_map *map = t->head.map;

	if (map->regions[t->last_region].region.slot == slot)
		return t->last_region;
	for (unsigned int i = 0; i < map->region_count; i++) {
		if (map->regions[i].region.slot == slot) {
			t->last_region = i;
			return i;
		}
	}
	return map->region_count;
}

/*
 * Logging of a slot that is not ours was switched on by the VMM: its memory is not migrated by us.
 */
static void note_stray(struct ring_tracker *t, uint32_t slot)
{
	if (t->stray_logged)
		return;
	t->stray_logged = true;
	log_warn("tracker ring: entries of slot 0x%x, which is no region: ignored: if it is guest "
		 "memory, give it as a region",
		 slot);
}

static int note_entry(struct ring_tracker *t, uint32_t slot, uint64_t offset)
{
	unsigned int region = find_region(t, slot);
	uint64_t word = offset / MAP_WORD_PAGES;
	uint64_t *bits;

	if (region == t->head.map->region_count) {
		note_stray(t, slot);
		return 0;
	}
	if (offset >= t->head.map->regions[region].pages)
		return -ERANGE;
	bits = &t->region_bits[region][word];
	if (*bits == 0)
		t->touched[t->touched_count++] =
			(struct touched){.region = region, .word = (uint32_t)word};
	*bits |= 1ull << (offset % MAP_WORD_PAGES);
	return 0;
}

static uint64_t collect_ring(struct ring_tracker *t, struct ring *ring, int *rc)
{
	uint64_t offset, taken = 0;
	uint32_t slot, last;

	if (!ring->located && !ring_locate(ring))
		return 0;
	/*
	 * With the reset done, KVM's index is where we begin: the entry before is the last that is
	 * free.
	 */
	last = (ring->next - 1) & (ring->entries - 1);
	while (taken < ring->entries && ring_take(ring, &slot, &offset)) {
		taken++;
		if (note_entry(t, slot, offset) < 0)
			*rc = -ERANGE;
	}
	if (taken > 0)
		ring->entered = 0;
	if ((taken > 0 && ring_flags(ring, last) != 0) || ring_has_hole(ring))
		rings_note_lost(&t->rings, ring);
	return taken;
}

/*
 * Nothing is reset in here, so that even vCPUs that write all the time can fill each ring only
 * once.
 */
static int collect(struct ring_tracker *t, uint64_t *pages)
{
	uint64_t taken = 0;
	int rc = 0;

	for (unsigned int i = 0; i < t->rings.count; i++)
		taken += collect_ring(t, &t->rings.ring[i], &rc);
	t->rings.owed += taken;
	*pages += taken;
	/*
	 * An entry that was overwritten while it was read may say anything; all pages will count as
	 * dirty.
	 */
	if (rc == 0 || t->rings.overflowed)
		return 0;
	log_error("tracker ring: an entry lies behind the end of its slot: pages would be "
		  "lost: leave slots as they were given while a migration runs");
	return rc;
}

static void publish(struct ring_tracker *t)
{
	for (size_t i = 0; i < t->touched_count; i++) {
		struct touched at = t->touched[i];
		uint64_t *bits = &t->region_bits[at.region][at.word];

		dirty_map_publish(&t->head.map->regions[at.region], at.word, *bits);
		*bits = 0;
	}
	t->touched_count = 0;
}

static void tell_why(struct ring_tracker *t)
{
	if (!t->rings.overflowed) {
		log_warn("tracker ring: a reset was cut short because the process was stopped: all "
			 "memory counts as dirty again: do not stop or freeze it while a migration "
			 "runs");
		return;
	}
	if (!t->overflow_logged)
		log_warn("tracker ring: a ring of %u entries overflowed: all memory counts as "
			 "dirty again, each time: use more ring_entries, or the tracker 'log'",
			 t->rings.ring[0].entries);
	t->overflow_logged = true;
}

/*
 * Pages that KVM dropped cannot be told from the others, and nobody would hear of writes to them:
 * switching logging off and on protects every page again, and what was written in between is
 * covered by publishing them all.
 */
static int protect_all(struct ring_tracker *t)
{
	const struct dirty_map *map = t->head.map;
	int rc;

	tell_why(t);
	/*
	 * After stop() has switched logging off there is no protection to lose, but an entry still
	 * may have been.
	 */
	if (t->started) {
		rc = slots_log_off(t->rings.vm_fd, map);
		if (rc == 0)
			rc = slots_log_on(t->rings.vm_fd, map);
		if (rc < 0)
			return rc;
	}
	for (unsigned int i = 0; i < map->region_count; i++)
		dirty_region_mark(&map->regions[i], 0, map->regions[i].pages);
	t->rings.cut = t->rings.overflowed = false;
	return 0;
}

static int reset_and_publish(struct ring_tracker *t)
{
	int rc = rings_reset(&t->rings);

	if (rc < 0)
		return rc;
	if (t->rings.overflowed || (t->rings.cut && t->started)) {
		rc = protect_all(t);
		if (rc < 0)
			return rc;
	}
	publish(t);
	return 0;
}

static int drain(struct ring_tracker *t, uint64_t *pages)
{
	int rc = 0, collected;

	/*
	 * What a harvest before left behind comes first: the list has room for one filling of the
	 * rings.
	 */
	if (t->rings.owed > 0 || t->rings.cut || t->rings.overflowed)
		rc = reset_and_publish(t);
	if (rc < 0)
		return rc;
	collected = collect(t, pages);
	rc = reset_and_publish(t);
	return collected < 0 ? collected : rc;
}

static int drain_and_unstick(struct ring_tracker *t, uint64_t *pages, bool *stuck)
{
	int rc = drain(t, pages);

	if (rc == 0)
		rc = rings_unstick(&t->rings, stuck);
	return rc < 0 ? rc : reset_and_publish(t);
}

static int harvest(struct tracker *tracker, uint64_t *pages)
{
	struct ring_tracker *t = ring_tracker(tracker);
	bool stuck = true;

	return t->started ? drain_and_unstick(t, pages, &stuck) : -EINVAL;
}

/* Empties the rings of what is older than start(): its slots may not even exist any more. */
static int discard(struct ring_tracker *t)
{
	uint64_t offset;
	uint32_t slot;
	int rc;

	t->rings.owed = 0;
	for (unsigned int i = 0; i < t->rings.count; i++) {
		struct ring *ring = &t->rings.ring[i];

		ring_reclaim(ring);
		ring->lost = true;
		ring->located = false;
		ring->marked = 0;
		while (ring->marked < ring->entries && ring_take(ring, &slot, &offset))
			t->rings.owed++;
		if (ring->marked == ring->entries)
			rings_note_lost(&t->rings, ring);
	}
	rc = rings_reset(&t->rings);
	/* If one was full, its next entry comes after a gap. */
	for (unsigned int i = 0; i < t->rings.count; i++) {
		t->rings.ring[i].lost = true;
		t->rings.ring[i].located = false;
	}
	/* Of no account: logging is off, and switching it on protects every page. */
	t->rings.cut = t->rings.overflowed = false;
	return rc;
}

static int start(struct tracker *tracker)
{
	struct ring_tracker *t = ring_tracker(tracker);
	int rc;

	if (t->started)
		return -EALREADY;
	rc = discard(t);
	if (rc < 0)
		return rc;
	/*
	 * Bits that a failed stop() had to keep are of an attempt that is over, but false-dirty
	 * does no harm.
	 */
	publish(t);
	rc = slots_log_on(t->rings.vm_fd, t->head.map);
	t->started = rc == 0;
	return rc;
}

/*
 * A vCPU must not stay in KVM_EXIT_DIRTY_RING_FULL for ever because nobody resets its ring any
 * more. One that is still in the burst that made its ring overflow has yet to exit for it, and one
 * that exits for it time and again is in KVM_RUN in between.
 */
static int free_stuck(struct ring_tracker *t)
{
	unsigned int least = t->rings.gaps ? QUIET_POLLS : 1, quiet = 0;
	uint64_t pages = 0;
	int rc = 0;

	for (unsigned int i = 0; rc == 0 && quiet < least && i < STUCK_POLLS_MAX; i++) {
		bool stuck = true;

		if (i > 0)
			usleep(STUCK_POLL_US);
		rc = drain_and_unstick(t, &pages, &stuck);
		quiet = stuck ? 0 : quiet + 1;
	}
	return rc;
}

static int stop(struct tracker *tracker)
{
	struct ring_tracker *t = ring_tracker(tracker);
	uint64_t pages = 0;
	int rc, off, last;

	if (!t->started)
		return 0;
	rc = drain(t, &pages);
	off = slots_log_off(t->rings.vm_fd, t->head.map);
	t->started = false;
	/* What vCPUs that still run wrote in between; from here on nothing is added. */
	last = drain(t, &pages);
	if (last == 0)
		last = free_stuck(t);
	if (rc == 0)
		rc = off;
	return rc < 0 ? rc : last;
}

static void ring_tracker_free(struct tracker *tracker)
{
	struct ring_tracker *t = ring_tracker(tracker);

	for (unsigned int i = 0; i < t->rings.count; i++)
		ring_unmap(&t->rings.ring[i]);
	free(t->rings.ring);
	free(t->bits);
	free(t->touched);
	free(t);
}

static int map_rings(struct ring_tracker *t, const struct vmferry_vm *vm)
{
	t->rings.ring = calloc(vm->vcpu_count, sizeof(*t->rings.ring));
	if (t->rings.ring == NULL)
		return -ENOMEM;
	t->rings.count = vm->vcpu_count;
	for (unsigned int i = 0; i < vm->vcpu_count; i++) {
		int rc = ring_map(&t->rings.ring[i], vm->vcpu_fds[i], vm->ring_entries);

		if (rc < 0)
			return rc;
	}
	return 0;
}

static int make_bits(struct ring_tracker *t, const struct vmferry_vm *vm)
{
	uint64_t in_rings = (uint64_t)vm->ring_entries * vm->vcpu_count;
	const struct dirty_map *map = t->head.map;
	uint64_t words = 0;

	for (unsigned int i = 0; i < map->region_count; i++) {
		if (map->regions[i].words > UINT32_MAX)
			return -EFBIG;
		words += map->regions[i].words;
	}
	if (words == 0)
		return -EINVAL;
	t->bits = calloc(words, sizeof(*t->bits));
	t->touched = calloc(words < in_rings ? words : in_rings, sizeof(*t->touched));
	if (t->bits == NULL || t->touched == NULL)
		return -ENOMEM;
	words = 0;
	for (unsigned int i = 0; i < map->region_count; i++) {
		t->region_bits[i] = &t->bits[words];
		words += map->regions[i].words;
	}
	return 0;
}

static const struct tracker_ops ops = {
	.name = "ring",
	.start = start,
	.harvest = harvest,
	.stop = stop,
	.free = ring_tracker_free,
};

int ring_tracker_new(const struct vmferry_vm *vm, struct dirty_map *map, struct tracker **tracker)
{
	struct ring_tracker *t;
	int rc;

	if (vm->ring_entries < RING_ENTRIES_MIN ||
	    (vm->ring_entries & (vm->ring_entries - 1)) != 0) {
		log_error(
			"tracker ring: %u entries: no ring has that size: set ring_entries to what "
			"vmferry_kvm_enable_ring() returned",
			vm->ring_entries);
		return -EINVAL;
	}
	t = calloc(1, sizeof(*t));
	if (t == NULL)
		return -ENOMEM;
	t->head.ops = &ops;
	t->head.map = map;
	t->rings.vm_fd = vm->vm_fd;
	rc = map_rings(t, vm);
	if (rc == 0)
		rc = make_bits(t, vm);
	if (rc < 0) {
		ring_tracker_free(&t->head);
		return rc;
	}
	*tracker = &t->head;
	return 0;
}
