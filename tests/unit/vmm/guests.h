/* SPDX-License-Identifier: MIT */
/* Tiny guests as bytes, machines that run them, and waiting for what they do. */
#ifndef TEST_VMM_GUESTS_H
#define TEST_VMM_GUESTS_H

#include "migrator/vmm/vmm.h"

#define COUNTER 0x200000u /* where the ticker counts */

enum guest_kind {
	/* says hi and READY; counts in memory and ESI, FAULT when they differ; beats */
	GUEST_TICKER,
	GUEST_HALTED, /* says READY; halts for ever */
	GUEST_ENTRY,  /* stores EAX, EBX and what port 0x60 reads at COUNTER; READY; halts */
	GUEST_WRITER, /* writes 4096 pages from 4 MiB on, beats, again */
	GUEST_FAULTY, /* triple-faults */
};

/* Skips the test without /dev/kvm. */
void need_kvm(void);

struct vmm_config small_config(void);

/* Makes and boots it, with messages quiet. The guest's file is gone when it returns. */
struct vmm *boot_guest(const struct vmm_config *config, enum guest_kind kind);

/*
 * Waits (10 s) until it has beaten @beats more often than now on every vCPU, is ready, or has
 * stopped.
 */
void wait_beats(const struct vmm *vmm, uint64_t beats);
void wait_ready(const struct vmm *vmm);
void wait_stopped(const struct vmm *vmm);

struct vmm_status status_of(const struct vmm *vmm);

/* A word of guest memory below 3 GiB. */
uint32_t guest_word(const struct vmm *vmm, uint32_t address);

#endif
