/* SPDX-License-Identifier: MIT */
/*
 * The local APIC in xAPIC mode, through its page.
 */
#include "apic.h"
#include "io.h"
#include "machine.h"

#define APIC_TASK_PRIORITY 0x80
#define APIC_SPURIOUS	   0xf0
#define APIC_COMMAND	   0x300
#define APIC_COMMAND_TO	   0x310
#define APIC_TIMER_CURRENT 0x390
#define APIC_TIMER_DIVIDE  0x3e0
#define APIC_ENABLE	   0x100
#define APIC_DIVIDE_BY_1   0xb
#define APIC_LVT_MASKED	   0x10000
#define APIC_LVT_PERIODIC  0x20000
#define APIC_COMMAND_INIT  0x4500
#define APIC_COMMAND_START 0x4600
#define MEASURE_MS	   10
#define INIT_DELAY_MS	   10

#define PIC_MASTER_DATA 0x21
#define PIC_SLAVE_DATA	0xa1

/*
 * Periodic timers faster than this are slowed down by KVM (min_timer_period_us, 200 by default):
 * re-arm them instead.
 */
#define PERIODIC_MAX_HZ 4000

static void write_register(uint32_t offset, uint32_t value)
{
	*(volatile uint32_t *)at_address(APIC_BASE + offset) = value;
}

static uint32_t read_register(uint32_t offset)
{
	return *(volatile uint32_t *)at_address(APIC_BASE + offset);
}

void apic_enable(void)
{
	write_register(APIC_TASK_PRIORITY, 0);
	write_register(APIC_LVT_TIMER, APIC_LVT_MASKED | VECTOR_TIMER);
	write_register(APIC_TIMER_DIVIDE, APIC_DIVIDE_BY_1);
	write_register(APIC_SPURIOUS, APIC_ENABLE | VECTOR_SPURIOUS);
}

void apic_setup(void)
{
	out_byte(PIC_MASTER_DATA, 0xff);
	out_byte(PIC_SLAVE_DATA, 0xff);
	apic_enable();
}

/*
 * The timer is read somewhere between two reads of the TSC, which a busy host may pull far apart:
 * their middle counts, so that the caller, who takes the middle of several results, sees small
 * errors to both sides.
 */
uint64_t apic_measure(void)
{
	uint64_t before, after, start, end;
	uint32_t left;

	before = read_tsc();
	write_register(APIC_TIMER_INITIAL, UINT32_MAX);
	start = before + (read_tsc() - before) / 2;
	while (read_tsc() - start < clocks.tsc_hz * MEASURE_MS / 1000)
		cpu_relax();
	before = read_tsc();
	left = read_register(APIC_TIMER_CURRENT);
	after = read_tsc();
	end = before + (after - before) / 2;
	write_register(APIC_TIMER_INITIAL, 0);
	return (UINT32_MAX - left) * (clocks.tsc_hz / 1000) / (end - start) * 1000;
}

static void command(uint32_t index, uint32_t what)
{
	write_register(APIC_COMMAND_TO, index << 24);
	write_register(APIC_COMMAND, what);
}

void apic_start_cpu(uint32_t index)
{
	uint64_t start = read_tsc();

	command(index, APIC_COMMAND_INIT);
	while (read_tsc() - start < clocks.tsc_hz * INIT_DELAY_MS / 1000)
		cpu_relax();
	command(index, APIC_COMMAND_START | TRAMPOLINE >> 12);
}

/* The timer's count for @hz. */
static uint32_t timer_setup(struct cpu *cpu, uint32_t hz, uint32_t every)
{
	cpu->beat_every = every;
	cpu->beat_left = every;
	cpu->period = hz <= PERIODIC_MAX_HZ ? 0 : clocks.tsc_hz / hz;
	cpu->scale = (clocks.apic_hz << 28) / (clocks.tsc_hz >> 4);
	return (uint32_t)(clocks.apic_hz / hz);
}

void machine_start_timer(struct cpu *cpu, uint32_t hz, uint32_t every)
{
	uint32_t count = timer_setup(cpu, hz, every);

	gate_timer(cpu->period ? VECTOR_TIMER : APIC_LVT_PERIODIC | VECTOR_TIMER, count);
}

void machine_idle(struct cpu *cpu, uint32_t hz)
{
	uint32_t count = timer_setup(cpu, hz, 1);

	gate_idle(cpu->index, cpu->period ? VECTOR_TIMER : APIC_LVT_PERIODIC | VECTOR_IDLE, count);
}
