/* SPDX-License-Identifier: MIT */
/* The state of a paused machine as bytes, and back. */
#ifndef VMM_STATE_H
#define VMM_STATE_H

#include "internal.h"

/*
 * Lets the vCPU threads begin to save their state, so that it happens while the library harvests
 * the last pages. Only when paused, and with every vCPU: an interrupt from one that still ran could
 * be lost.
 */
void state_save_begin(struct vmm *vmm);

/* Waits for them (begins if nobody did) and appends everything. */
int state_save(struct vmm *vmm, struct vmferry_blob *out);

/*
 * Saves once for nothing: a thread's first save or load costs milliseconds for its heap and for
 * code that was never run, and the next one is within a blackout.
 */
int state_warm_up(struct vmm *vmm);

/* -EPROTO if the bytes are not sound: then nothing was loaded. */
int state_load(struct vmm *vmm, const void *data, size_t length);

#endif
