/* SPDX-License-Identifier: MIT */
/*
 * Resetting rings. KVM's reset begins at an index of its own and ends at the first entry that is
 * not marked RESET.
 *
 * OVERFLOW  KVM asks the vCPU to leave when 64 free entries are left, but looks only between two
 *           entries of the guest. An instruction that KVM emulates pushes an entry for every store
 *           (REP STOS: up to 1024), and where whole batches are emulated (PVM) so does each of
 *           them. What comes after the last free entry overwrites the oldest. Pages are lost then,
 *           so the caller protects everything anew; and once the ring has been reset, KVM counts
 *           entries in it that are nowhere to be read: a gap of free entries, at its begin, and its
 *           next entry comes after that.
 *
 * BOUND     Free entries in a gap are marked too, for else KVM would stand before them for ever.
 *           But the reset must not come to KVM's own next entry, of which we know nothing: once
 *           beyond it KVM counts 2^32 entries, and the vCPU never runs again. Two things keep it
 *           from that. Where we have read an entry, KVM's next is not before the one that follows:
 *           that one is left free (bridge()). And a vCPU that KVM holds for a full ring has at
 *           least as many entries as KVM holds it for: so many may be marked, be they where they
 *           are (advance()). Both hold while the vCPU pushes on: what is dirty is never marked
 *           there, and KVM's next only moves away.
 */
#include "ring_reset.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>

#include "common/clock.h"
#include "common/log.h"

#define RESET_TIMEOUT_NS (2 * NS_PER_S)
#define FUTILE_MAX	 10
#define IDLE_PASSES	 2 /* so many that did nothing: there is nothing that KVM would do */

/*
 * Grows when this thread waits, and so when it is stopped: at the latest on its way out of a system
 * call.
 */
static long waits(void)
{
	struct rusage usage = {0};

	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nvcsw;
}

/* One call of the ioctl: how many entries it did. *@disturbed is set if it may have ended early. */
static int pass(struct rings *r, bool *disturbed)
{
	long before = waits();
	int done = ioctl(r->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
	int error = errno;

	*disturbed = done < 0 || waits() != before;
	if (done >= 0)
		return done;
	if (error == EINTR || error == EAGAIN)
		return 0;
	log_error("tracker ring: reset of %llu entries: %s: give the VM's own fd",
		  (unsigned long long)r->owed, strerror(error));
	return -error;
}

static int too_late(void)
{
	log_error("tracker ring: entries not reset in time: nothing else may reset this VM's "
		  "rings, and the process may not be stopped: use one tracker at a time");
	return -ETIMEDOUT;
}

/* As far as KVM goes. *@moved if that was anywhere. */
static int pass_to_end(struct rings *r, bool *moved)
{
	uint64_t deadline = vmferry_now() + RESET_TIMEOUT_NS;
	unsigned int idle = 0;

	*moved = false;
	while (idle < IDLE_PASSES) {
		bool disturbed;
		int done = pass(r, &disturbed);

		if (done < 0)
			return done;
		if (done > 0) {
			r->cut |= disturbed;
			*moved = true;
			return 0;
		}
		idle += !disturbed;
		if (disturbed && vmferry_now() > deadline)
			return too_late();
	}
	return 0;
}

/* How many it changed. What the vCPU pushes meanwhile stays. */
static uint32_t change_flags(struct ring *ring, uint32_t at, uint32_t count, uint32_t from,
			     uint32_t to)
{
	uint32_t changed = 0;

	for (uint32_t i = 0; i < count; i++) {
		uint32_t index = (at + i) & (ring->entries - 1), expected = from;

		changed += __atomic_compare_exchange_n(&ring->gfns[index].flags, &expected, to,
						       false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
	return changed;
}

static void mark_free(struct ring *ring, uint32_t at, uint32_t count)
{
	change_flags(ring, at, count, 0, KVM_DIRTY_GFN_F_RESET);
}

static void unmark_all(struct ring *ring)
{
	change_flags(ring, 0, ring->entries, KVM_DIRTY_GFN_F_RESET, 0);
}

static void note_lost(struct rings *rings, struct ring *ring)
{
	rings->overflowed = true;
	rings->gaps = true;
	ring->lost = true;
	ring->located = false;
	ring->entered = 0;
}

/* Where a row of marked entries ends. */
static bool find_end(const struct ring *ring, uint32_t *end)
{
	for (uint32_t i = 0; i < ring->entries; i++) {
		*end = (i + 1) & (ring->entries - 1);
		if ((ring_flags(ring, i) & KVM_DIRTY_GFN_F_RESET) != 0 &&
		    (ring_flags(ring, *end) & KVM_DIRTY_GFN_F_RESET) == 0)
			return true;
	}
	return false;
}

void rings_note_lost(struct rings *rings, struct ring *ring)
{
	/*
	 * All that is older than the vCPU's next entry goes at once, so that there is never a gap
	 * between two entries.
	 */
	rings->owed +=
		change_flags(ring, 0, ring->entries, KVM_DIRTY_GFN_F_DIRTY, KVM_DIRTY_GFN_F_RESET);
	note_lost(rings, ring);
}

/*
 * KVM has nothing to do, but not all that is owed was done. If the last entry that was taken is
 * still marked, KVM is in a gap before it. If it is dirty again, a vCPU that writes on has come
 * round and has overwritten marks. What KVM does not get to even now is given up, which is one more
 * gap.
 */
static int bridge(struct rings *r, struct ring *ring)
{
	uint32_t last = (ring->next - 1) & (ring->entries - 1), end;
	bool known = true, moved;
	int rc = 0;

	if (find_end(ring, &end)) {
		known = ring->lost && end == ring->next;
		mark_free(ring, end + 1, ring->entries - 1);
		rc = pass_to_end(r, &moved);
	}
	if (!known || (ring->marked > 0 && ring_flags(ring, last) != 0))
		note_lost(r, ring);
	unmark_all(ring);
	return rc;
}

static int bridge_all(struct rings *r)
{
	int rc = 0;

	r->gaps = true;
	for (unsigned int i = 0; rc == 0 && i < r->count; i++)
		rc = bridge(r, &r->ring[i]);
	if (rc == 0)
		r->owed = 0;
	return rc;
}

/*
 * Over and over until all is done: from Linux 6.17 the ioctl stops early when a signal is pending
 * and returns how many entries it got to. Worse, it then drops the batch that it was about to
 * protect (up to 64 pages), although it counts its entries as done (seen with 6.18). So signals are
 * blocked around it, and what cannot be blocked (a stop, the cgroup freezer, a debugger) is found
 * out: cut, and the caller protects everything anew.
 */
static int reset(struct rings *r, struct ring *none)
{
	uint64_t deadline = vmferry_now() + RESET_TIMEOUT_NS;
	unsigned int idle = 0, useful = 0;

	(void)none;
	while (r->owed > 0 && idle < IDLE_PASSES) {
		bool disturbed;
		int done = pass(r, &disturbed);

		if (done < 0)
			return done;
		r->owed -= (uint64_t)done < r->owed ? (uint64_t)done : r->owed;
		/*
		 * With nothing left to do a batch can still be dropped, the last one; then only the
		 * stop itself tells.
		 */
		if (done > 0 && (disturbed || useful++ > 0))
			r->cut = true;
		idle = done > 0 ? 0 : idle + !disturbed;
		if (r->owed > 0 && vmferry_now() > deadline)
			return too_late();
	}
	return r->owed > 0 ? bridge_all(r) : 0;
}

/* Runs @step with all signals blocked. */
static int undisturbed(int (*step)(struct rings *r, struct ring *ring), struct rings *r,
		       struct ring *ring)
{
	sigset_t all, before;
	int rc;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = step(r, ring);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return rc;
}

int rings_reset(struct rings *rings)
{
	int rc;

	if (rings->owed == 0)
		return 0;
	rc = undisturbed(reset, rings, NULL);
	for (unsigned int i = 0; rc == 0 && i < rings->count; i++) {
		rings->ring[i].lost &= !rings->ring[i].located;
		rings->ring[i].marked = 0;
	}
	return rc;
}

/*
 * For a vCPU that KVM holds though there is nothing that its reader could read: takes KVM's index
 * on in the empty ring, once. It is most likely where the reader was.
 */
static int advance(struct rings *r, struct ring *ring)
{
	uint32_t count = ring->entries - RING_RESERVE_MAX, at = ring->next;

	/* Entries that the reader does not see, for it is elsewhere. */
	if (change_flags(ring, 0, ring->entries, KVM_DIRTY_GFN_F_DIRTY, 0) > 0)
		note_lost(r, ring);
	for (uint32_t tried = 0; tried < ring->entries; tried += count) {
		bool moved;
		int rc;

		mark_free(ring, at, count);
		rc = pass_to_end(r, &moved);
		unmark_all(ring);
		if (rc < 0)
			return rc;
		at = (at + count) & (ring->entries - 1);
		if (!moved)
			continue;
		ring->next = at;
		ring->lost = true;
		ring->located = false;
		ring->futile = 0;
		return 0;
	}
	/* The vCPU may have come in between, but not time and again. */
	if (++ring->futile < FUTILE_MAX)
		return 0;
	log_error("tracker ring: the ring of a vcpu is full and empty at once, and no place in it "
		  "is KVM's: use more ring_entries");
	return -EOVERFLOW;
}

int rings_unstick(struct rings *rings, bool *stuck)
{
	*stuck = false;
	for (unsigned int i = 0; i < rings->count; i++) {
		struct ring *ring = &rings->ring[i];
		int rc = 0;

		/*
		 * Also where all seems well: a gap may have been a whole ring longer than it
		 * looked.
		 */
		if (!ring_reported_full(ring))
			continue;
		*stuck = true;
		if (ring_seen_full(ring))
			rc = undisturbed(advance, rings, ring);
		if (rc < 0)
			return rc;
	}
	return 0;
}
