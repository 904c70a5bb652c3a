/* SPDX-License-Identifier: MIT */
/*
 * The guest's view of its machine: vCPUs, descriptor tables, local APIC, clocks, and the few
 * instructions that C lacks.
 */
#ifndef GUEST_MACHINE_H
#define GUEST_MACHINE_H

#include <stddef.h>
#include <stdint.h>

#include "layout.h"

/* Of each vCPU; at the lowest address of its ring 0 stack, where the interrupt entries find it. */
struct cpu {
	uint32_t index;
	uint32_t beat_left;  /* timer interrupts until the next beat */
	uint32_t beat_every; /* timer interrupts a beat */
	/*
	 * For a timer that is set anew at each interrupt: in ring 0's TSC ticks; period is 0 if it
	 * is periodic.
	 */
	uint64_t period, next;
	uint64_t scale; /* timer counts a tick, times 2^32 */
};

_Static_assert(offsetof(struct cpu, index) == CPU_INDEX, "layout.h");
_Static_assert(offsetof(struct cpu, beat_left) == CPU_BEAT_LEFT, "layout.h");
_Static_assert(offsetof(struct cpu, beat_every) == CPU_BEAT_EVERY, "layout.h");
_Static_assert(offsetof(struct cpu, period) == CPU_PERIOD, "layout.h");
_Static_assert(offsetof(struct cpu, next) == CPU_NEXT, "layout.h");
_Static_assert(offsetof(struct cpu, scale) == CPU_SCALE, "layout.h");

struct clocks {
	uint64_t tsc_hz;
	uint64_t apic_hz; /* timer counts a second */
};

extern struct clocks clocks;

/*
 * Ring 0, vCPU 0, first of all: descriptor tables, the PIC silenced; the gate works from here on.
 */
void machine_setup(void);

/* Ring 0: @tsc_hz 0 finds out. Dies if it cannot. */
void machine_calibrate(uint64_t tsc_hz);

/* Ring 0: starts vCPU @index, which turns up in machine_enter(entry). Dies if it does not. */
void machine_start_cpu(uint32_t index, void (*entry)(struct cpu *));

/* Ring 0 to ring 3, on this vCPU's other stack. Does not return. */
void machine_enter(struct cpu *cpu, void (*entry)(struct cpu *));

struct cpu *machine_cpu(uint32_t index);

/*
 * Ring 3: from now on the timer interrupts @hz times a second, and every @every-th interrupt is a
 * beat.
 */
void machine_start_timer(struct cpu *cpu, uint32_t hz, uint32_t every);

/* Ring 3: @hz beats a second and nothing else, for good. */
_Noreturn void machine_idle(struct cpu *cpu, uint32_t hz);

/* Ring 0: says why on the console and the status port, and halts this vCPU for good. */
_Noreturn void die(const char *reason);

/* All memory is mapped one to one. */
static inline void *at_address(uint64_t address)
{
	return (void *)address; /* NOLINT(performance-no-int-to-ptr) */
}

static inline uint64_t read_tsc(void)
{
	uint32_t low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (uint64_t)high << 32 | low;
}

static inline void cpu_relax(void)
{
	__asm__ volatile("pause" ::: "memory");
}

static inline void gate_out(uint32_t port, const char *bytes, uint32_t count)
{
	uint32_t operation = GATE_OUT;

	__asm__ volatile("call gate"
			 : "+a"(operation), "+S"(bytes), "+c"(count)
			 : "d"(port)
			 : "memory", "cc");
}

static inline void gate_sleep(void)
{
	__asm__ volatile("call gate" ::"a"(GATE_SLEEP) : "memory", "cc");
}

_Noreturn static inline void gate_idle(uint32_t index, uint32_t entry, uint32_t count)
{
	__asm__ volatile("call gate"
			 :
			 : "a"(GATE_IDLE), "D"(index), "S"(entry), "d"(count)
			 : "memory", "cc");
	__builtin_unreachable();
}

static inline void gate_timer(uint32_t entry, uint32_t count)
{
	__asm__ volatile("call gate"
			 :
			 : "a"(GATE_TIMER), "S"(entry), "d"(count)
			 : "rcx", "memory", "cc");
}

#endif
