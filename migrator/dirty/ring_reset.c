/* SPDX-License-Identifier: MIT */
/*
 * Resetting rings. KVM's reset begins at an index of its own and ends at the first entry that is not marked RESET.
 *
 * OVERFLOW  KVM asks the vCPU to leave when 64 free entries are left, but looks only between two entries of the guest. An
 *           instruction that KVM emulates pushes an entry for every store (REP STOS: up to 1024), and where whole batches are
 *           emulated (PVM) so does each of them. What comes after the last free entry overwrites the oldest. Pages are lost
 *           then, so the caller protects everything anew; and once the ring has been reset, KVM counts entries in it that
 *           are nowhere to be read: its next one comes after a gap. When that is seen, the gap is marked too ("bridged").
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

/* Grows when this thread waits, and so when it is stopped: at the latest on its way out of a system call. */
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

/* As far as KVM goes. */
static int pass_to_end(struct rings *r)
{
	uint64_t deadline = vmferry_now() + RESET_TIMEOUT_NS;
	unsigned int idle = 0;

	while (idle < IDLE_PASSES) {
		bool disturbed;
		int done = pass(r, &disturbed);

		if (done < 0)
			return done;
		if (done > 0 && disturbed)
			r->cut = true;
		if (done > 0)
			return 0;
		idle += !disturbed;
		if (disturbed && vmferry_now() > deadline)
			return too_late();
	}
	return 0;
}

static bool is_marked(const struct ring *ring, uint32_t index)
{
	return (ring_flags(ring, index & (ring->entries - 1)) & KVM_DIRTY_GFN_F_RESET) != 0;
}

static void set_flags(struct ring *ring, uint32_t index, uint32_t flags)
{
	__atomic_store_n(&ring->gfns[index & (ring->entries - 1)].flags, flags, __ATOMIC_RELEASE);
}

/* Where a row of marked entries begins. */
static bool find_marked(const struct ring *ring, uint32_t *at)
{
	for (*at = 0; *at < ring->entries; (*at)++)
		if (is_marked(ring, *at) && !is_marked(ring, *at - 1))
			return true;
	*at = 0;
	return is_marked(ring, 0);
}

/* What the vCPU has pushed by now must stay. */
static void unmark(struct ring *ring, uint32_t at, uint32_t count)
{
	for (uint32_t i = 0; i < count; i++) {
		uint32_t index = (at + i) & (ring->entries - 1), marked = KVM_DIRTY_GFN_F_RESET;

		__atomic_compare_exchange_n(&ring->gfns[index].flags, &marked, 0, false,
					    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
}

/*
 * Marks entries before those that KVM does not reach, until it does. One by one: what is marked before KVM's index would later
 * take it beyond its own last entry, from where it never comes back. A vCPU that still writes overwrites marks; before that
 * becomes a race without end they are given up, which is one more gap.
 */
static int bridge(struct rings *r, struct ring *ring, uint32_t *steps)
{
	uint32_t at;

	while (find_marked(ring, &at)) {
		do {
			int rc;

			if (++*steps > ring->entries) {
				unmark(ring, 0, ring->entries);
				return 0;
			}
			at = (at - 1) & (ring->entries - 1);
			set_flags(ring, at, KVM_DIRTY_GFN_F_RESET);
			rc = pass_to_end(r);
			if (rc < 0)
				return rc;
		} while (is_marked(ring, at));
	}
	return 0;
}

void rings_note_full(struct rings *rings, struct ring *ring)
{
	rings->overflowed = true;
	ring->lost = true;
	ring->located = false;
}

/*
 * KVM has nothing to do, but not all that is owed was done. A vCPU that writes on may have come round in the meantime and have
 * overwritten marks, also in rings where none is left: then the entry before all that was marked is not free. That may also be
 * because it has just been filled in good order, but a false alarm does no harm.
 */
static int bridge_all(struct rings *r)
{
	for (unsigned int i = 0; i < r->count; i++) {
		struct ring *ring = &r->ring[i];
		bool expected = ring->lost;
		uint32_t steps = 0, last;
		int rc = bridge(r, ring, &steps);

		if (rc < 0)
			return rc;
		last = (ring->next - ring->marked - steps - 1) & (ring->entries - 1);
		if ((steps > 0 && !expected) || steps + ring->marked >= ring->entries ||
		    (steps + ring->marked > 0 && ring_flags(ring, last) != 0))
			rings_note_full(r, ring);
	}
	r->owed = 0;
	return 0;
}

/*
 * Over and over until all is done: from Linux 6.17 the ioctl stops early when a signal is pending and returns how many entries
 * it got to. Worse, it then drops the batch that it was about to protect (up to 64 pages), although it counts its entries
 * as done (seen with 6.18). So signals are blocked around it, and what cannot be blocked (a stop, the cgroup freezer, a
 * debugger) is found out: cut, and the caller protects everything anew.
 */
static int reset(struct rings *r, struct ring *none)
{
	uint64_t deadline = vmferry_now() + RESET_TIMEOUT_NS;
	unsigned int idle = 0;

	(void)none;
	while (r->owed > 0) {
		bool disturbed;
		int done = pass(r, &disturbed);

		if (done < 0)
			return done;
		r->owed -= (uint64_t)done < r->owed ? (uint64_t)done : r->owed;
		/* With nothing left to do a batch can still be dropped, the last one; then only the stop itself tells. */
		if (done > 0 && (r->owed > 0 || disturbed))
			r->cut = true;
		idle = done > 0 ? 0 : idle + !disturbed;
		if (idle >= IDLE_PASSES)
			return bridge_all(r);
		if (r->owed > 0 && vmferry_now() > deadline)
			return too_late();
	}
	return 0;
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

/* Marks @count entries that were free, has KVM take what it can, and frees the rest. *@taken if it took the last. */
static int try_stretch(struct rings *r, struct ring *ring, uint32_t at, uint32_t count, bool *taken)
{
	int rc;

	for (uint32_t i = 0; i < count; i++)
		set_flags(ring, at + i, KVM_DIRTY_GFN_F_RESET);
	rc = pass_to_end(r);
	*taken = !is_marked(ring, at + count - 1);
	unmark(ring, at, count);
	return rc;
}

/*
 * Takes KVM's index on in a ring without entries, by no more than what KVM counts at least when it calls the ring full. The
 * index is most likely where the reader was.
 */
static int advance(struct rings *r, struct ring *ring)
{
	uint32_t count = ring->entries - RING_RESERVE_MAX;
	bool taken = false;

	for (uint32_t i = 0; i < ring->entries; i++)
		if (ring_flags(ring, i) != 0)
			return 0;
	for (uint32_t tried = 0; tried < ring->entries; tried += count) {
		int rc = try_stretch(r, ring, ring->next, count, &taken);

		if (rc < 0)
			return rc;
		ring->next = (ring->next + count) & (ring->entries - 1);
		ring->lost = true;
		ring->located = false;
		if (taken) {
			ring->futile = 0;
			return 0;
		}
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

		/* Also where all seems well: a gap may have been a whole ring longer than it looked. */
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
