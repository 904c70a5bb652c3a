/* SPDX-License-Identifier: MIT */
/*
 * KVM_RESET_DIRTY_RINGS for all rings of a VM, and what to do when KVM does not get where the reader is: because the reset
 * was cut short, or because a ring overflowed.
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
};

/* Resets what is owed, with all signals blocked. -EOVERFLOW if a ring is beyond repair. */
int rings_reset(struct rings *rings);

/* A ring was found full to the last entry: KVM may have gone round and overwritten some. */
void rings_note_full(struct rings *rings, struct ring *ring);

/*
 * Frees rings that KVM takes for full although they hold nothing, as an overflow by more than a whole ring leaves them.
 * Needs to see the vCPU exit for it, so it takes several calls. True in *@stuck if there may be such a ring still.
 */
int rings_unstick(struct rings *rings, bool *stuck);

#endif
