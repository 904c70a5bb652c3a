/* SPDX-License-Identifier: MIT */
/*
 * KVM_RESET_DIRTY_RINGS for all rings of a VM, and what to do when KVM does not get where the
 * reader is: because the reset was cut short, or because a ring overflowed.
 */
#ifndef DIRTY_RING_RESET_H
#define DIRTY_RING_RESET_H

#include "ring.h"

struct rings {
	int vm_fd; /* borrowed from the VMM */
	unsigned int count;
	struct ring *ring; /* owned by the tracker */
	uint64_t owed;	   /* entries marked RESET that the kernel has not yet reset */
	bool cut;	   /* out: a reset was cut short, pages may be left unprotected */
	bool overflowed;   /* out: entries were overwritten before they were read */
	bool gaps;	   /* out: KVM may count whole rings of entries that nobody sees; stays */
};

/* Resets what is owed, with all signals blocked. -EOVERFLOW if a ring is beyond repair. */
int rings_reset(struct rings *rings);

/*
 * Entries were overwritten, or may have been, and it is not known any more where in the ring KVM
 * is: the reader has to look for its place, and what is in the ring now is owed unread.
 */
void rings_note_lost(struct rings *rings, struct ring *ring);

/*
 * Frees rings that KVM takes for full although nothing in them can be read, as an overflow by more
 * than a whole ring leaves them. To be called when all rings were collected and reset. Needs to see
 * the vCPU exit for it, so it takes several calls, with collecting in between. True in *@stuck if
 * there may be such a ring still.
 */
int rings_unstick(struct rings *rings, bool *stuck);

#endif
