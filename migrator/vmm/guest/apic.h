/* SPDX-License-Identifier: MIT */
/*
 * Ring 0's interrupt controllers: the old PIC is silenced, the local APIC gives the timer and
 * starts vCPUs.
 */
#ifndef GUEST_APIC_H
#define GUEST_APIC_H

#include <stdint.h>

/* Once, on vCPU 0: apic_enable() and the PIC's end. */
void apic_setup(void);
/* On each vCPU: the local APIC on, its timer stopped. */
void apic_enable(void);
/* INIT and start-up interrupt to TRAMPOLINE. */
void apic_start_cpu(uint32_t index);
/* Timer counts a second, measured against the TSC, whose frequency is known. */
uint64_t apic_measure(void);

#endif
