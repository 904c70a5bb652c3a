/* SPDX-License-Identifier: MIT */
/*
 * One vCPU's dirty ring, as its reader sees it: the kernel fills entries in order and never skips
 * one, the reader marks them as collected in the same order, and KVM_RESET_DIRTY_RINGS makes them
 * free again.
 */
#ifndef DIRTY_RING_H
#define DIRTY_RING_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define RING_ENTRIES_MIN     1024u
#define RING_ENTRIES_DEFAULT 16384u
#define RING_RESERVE_MAX     576u /* what the kernel keeps free at most when it calls a ring full */

struct ring {
	struct kvm_dirty_gfn *gfns; /* the kernel's memory, mapped by ring_map() */
	uint32_t entries;	    /* a power of two */
	uint32_t next;		    /* where the reader is, valid once @located */
	bool located;
	bool lost;	 /* KVM's index may be before the oldest entry, with a gap in between */
	uint32_t marked; /* since the last reset that was finished */

	struct kvm_run *run;  /* the VMM's page of the vCPU */
	unsigned int entered; /* see ring_seen_full() */
	unsigned int futile;  /* attempts to find KVM's index in an empty ring */
};

/*
 * Maps the ring of a vCPU and checks that it has @entries, no more and no fewer. The fd stays the
 * caller's.
 */
int ring_map(struct ring *r, int vcpu_fd, uint32_t entries);

/* Accepts a ring that is all zero. */
void ring_unmap(struct ring *r);

/*
 * Finds the oldest dirty entry: the kernel does not tell where in the ring it stands, and a reader
 * before this one may have left it anywhere. False while there is no entry at all.
 */
bool ring_locate(struct ring *r);

/* Makes dirty again what a reader before this one has marked as collected and not got reset. */
void ring_reclaim(struct ring *r);

/*
 * There is no entry where the reader is, but one right behind it, dirty or already taken. KVM
 * leaves such a hole when it overwrites the very entry that it is resetting.
 */
bool ring_has_hole(const struct ring *r);

/* The vCPU's last exit was for a full ring, or an exit is being made just now. */
bool ring_reported_full(const struct ring *r);

/*
 * True if the vCPU has entered KVM_RUN since the first of a row of calls, and left it because the
 * ring was full. To be called when nothing in the ring is to be read or reset; after "true" the row
 * begins anew.
 */
bool ring_seen_full(struct ring *r);

static inline uint32_t ring_flags(const struct ring *r, uint32_t index)
{
	/* acquire: slot and offset of the entry are read after the kernel has written them. */
	return __atomic_load_n(&r->gfns[index].flags, __ATOMIC_ACQUIRE) & KVM_DIRTY_GFN_F_MASK;
}

/* Takes the next entry and marks it as collected. False when there is none. */
static inline bool ring_take(struct ring *r, uint32_t *slot, uint64_t *offset)
{
	struct kvm_dirty_gfn *gfn;

	if (!r->located && !ring_locate(r))
		return false;
	if (ring_flags(r, r->next) != KVM_DIRTY_GFN_F_DIRTY)
		return false;
	gfn = &r->gfns[r->next];
	*slot = gfn->slot;
	*offset = gfn->offset;
	r->marked++;
	/* release: the entry was read before the kernel may write it again. */
	__atomic_store_n(&gfn->flags, (uint32_t)KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
	r->next = (r->next + 1) & (r->entries - 1);
	return true;
}

#endif
