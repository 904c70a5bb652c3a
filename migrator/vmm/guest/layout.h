/* SPDX-License-Identifier: MIT */
/*
 * Numbers that the guest's assembly and its C code share: selectors, vectors, gate operations, and
 * where the fields of struct cpu lie.
 */
#ifndef GUEST_LAYOUT_H
#define GUEST_LAYOUT_H

#define SELECTOR_CODE	   0x08
#define SELECTOR_DATA	   0x10
#define SELECTOR_USER_CODE 0x1b
#define SELECTOR_USER_DATA 0x23
#define SELECTOR_CODE32	   0x28
#define SELECTOR_TSS	   0x30 /* one of 16 bytes for each vCPU from here on */

#define VECTOR_UD	6
#define VECTOR_TIMER	0x20
#define VECTOR_IDLE	0x21 /* the timer too, when there is nothing to do but to beat */
#define VECTOR_SPURIOUS 0xff

#define APIC_BASE	   0xfee00000
#define APIC_EOI	   0xb0
#define APIC_LVT_TIMER	   0x320
#define APIC_TIMER_INITIAL 0x380

#define TRAMPOLINE 0x8000

/* What ring 3 asks of ring 0. */
#define GATE_SLEEP 0 /* HLT until the next interrupt */
#define GATE_IDLE \
	1 /* HLT for ever, beats come; ESI, EDX as for GATE_TIMER, EDI: the vCPU's index */
#define GATE_OUT   2 /* RSI: bytes, RCX: how many (> 0), EDX: port */
#define GATE_TIMER 3 /* ESI: LVT entry, EDX: initial count */

/*
 * A ring 0 stack, aligned to its size, with its vCPU's struct cpu at its lowest address. Not more
 * than a page: the linker aligns the image in its file as the most aligned thing in it, and loaders
 * look for the multiboot header in the first 8 KiB only.
 */
#define STACK_BYTES 4096

#define CPU_INDEX      0
#define CPU_BEAT_LEFT  4
#define CPU_BEAT_EVERY 8
#define CPU_PERIOD     16
#define CPU_NEXT       24
#define CPU_SCALE      32

#endif
