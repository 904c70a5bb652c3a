/* SPDX-License-Identifier: MIT */
/*
 * How fast the TSC and the APIC timer run. The TSC that ring 0 reads may differ by an offset from
 * the one that ring 3 reads (KVM without hardware help), so only differences within one ring are
 * ever used.
 */
#include <stdbool.h>

#include "apic.h"
#include "io.h"
#include "machine.h"

#define PIT_HZ	      1193182u
#define PIT_CHANNEL_0 0x40
#define PIT_COMMAND   0x43
#define PIT_ONE_SHOT_0 \
	0x30 /* channel 0, low byte then high byte, mode 0: its output rises at the end */
#define PIT_READ_BACK_0 0xe2 /* the next read of channel 0 gives its status */
#define PIT_STATUS_OUT	0x80

#define MEASURE_HZ    50 /* each measurement takes 1/50 s */
#define PIT_READS_MAX 2000000

#define LEAF_TSC	     0x15
#define LEAF_FEATURES	     1
#define LEAF_HYPERVISOR	     0x40000000
#define LEAF_KVM_FEATURES    0x40000001
#define LEAF_HYPERVISOR_TSC  0x40000010
#define ECX_HYPERVISOR	     (1u << 31)
#define EBX_KVM		     0x4b4d564b /* "KVMK" */
#define EAX_KVM_CLOCK	     (1u << 3)
#define MSR_KVM_CLOCK	     0x4b564d01
#define MSR_KVM_CLOCK_ENABLE 1
#define KVM_CLOCK_READS_MAX  100000

/* What KVM writes where MSR_KVM_CLOCK says: nanoseconds are (ticks << shift) * multiplier >> 32. */
struct kvm_clock {
	uint32_t version, pad;
	uint64_t tsc, nanoseconds;
	uint32_t multiplier;
	int8_t shift;
	uint8_t flags, pad2[2];
};

struct clocks clocks;

struct leaf {
	uint32_t a, b, c, d;
};

static struct leaf cpuid(uint32_t number)
{
	struct leaf leaf;

	__asm__ volatile("cpuid"
			 : "=a"(leaf.a), "=b"(leaf.b), "=c"(leaf.c), "=d"(leaf.d)
			 : "a"(number), "c"(0));
	return leaf;
}

static uint64_t tsc_by_cpuid(void)
{
	struct leaf leaf;

	if (cpuid(0).a < LEAF_TSC)
		return 0;
	leaf = cpuid(LEAF_TSC);
	return leaf.a ? (uint64_t)leaf.c * leaf.b / leaf.a : 0;
}

static void write_msr(uint32_t number, uint64_t value)
{
	__asm__ volatile("wrmsr" ::"c"(number), "a"((uint32_t)value), "d"((uint32_t)(value >> 32))
			 : "memory");
}

/*
 * KVM tells exactly, where a measurement would be off by what the host does meanwhile. Ends with
 * the clock off again: it would write to memory for ever.
 */
static uint64_t tsc_by_kvm_clock(void)
{
	static volatile struct kvm_clock clock __attribute__((aligned(32)));
	uint64_t hz;

	write_msr(MSR_KVM_CLOCK, (uint64_t)&clock | MSR_KVM_CLOCK_ENABLE);
	for (uint32_t i = 0; i < KVM_CLOCK_READS_MAX && clock.multiplier == 0; i++)
		cpu_relax();
	write_msr(MSR_KVM_CLOCK, 0);
	if (clock.multiplier == 0 || clock.shift < -31 || clock.shift > 31)
		return 0;
	hz = (1000000000ull << 32) / clock.multiplier;
	return clock.shift < 0 ? hz << -clock.shift : hz >> clock.shift;
}

static uint64_t tsc_by_hypervisor(void)
{
	struct leaf leaf = cpuid(LEAF_HYPERVISOR);

	if (!(cpuid(LEAF_FEATURES).c & ECX_HYPERVISOR))
		return 0;
	if (leaf.a >= LEAF_HYPERVISOR_TSC)
		return cpuid(LEAF_HYPERVISOR_TSC).a * 1000ull;
	if (leaf.b == EBX_KVM && leaf.a >= LEAF_KVM_FEATURES &&
	    cpuid(LEAF_KVM_FEATURES).a & EAX_KVM_CLOCK)
		return tsc_by_kvm_clock();
	return 0;
}

static bool pit_is_over(void)
{
	out_byte(PIT_COMMAND, PIT_READ_BACK_0);
	return in_byte(PIT_CHANNEL_0) & PIT_STATUS_OUT;
}

/*
 * TSC ticks in 1 / MEASURE_HZ s by the PIT, 0 if that does not run. Its interrupt is masked at the
 * PIC.
 */
static uint64_t pit_measure(void)
{
	uint32_t count = PIT_HZ / MEASURE_HZ;
	uint64_t start;

	out_byte(PIT_COMMAND, PIT_ONE_SHOT_0);
	out_byte(PIT_CHANNEL_0, (uint8_t)count);
	out_byte(PIT_CHANNEL_0, (uint8_t)(count >> 8));
	start = read_tsc();
	if (pit_is_over())
		return 0;
	for (uint32_t i = 0; i < PIT_READS_MAX; i++)
		if (pit_is_over())
			return read_tsc() - start;
	return 0;
}

/* The middle one of three, because any one may have been interrupted. */
static uint64_t middle(uint64_t a, uint64_t b, uint64_t c)
{
	if (a > b) {
		uint64_t swap = a;

		a = b;
		b = swap;
	}
	if (c <= a)
		return a;
	return c < b ? c : b;
}

static uint64_t tsc_by_pit(void)
{
	uint64_t a = pit_measure();
	uint64_t b = a ? pit_measure() : 0;
	uint64_t c = b ? pit_measure() : 0;

	return c ? middle(a, b, c) * MEASURE_HZ : 0;
}

void machine_calibrate(uint64_t tsc_hz)
{
	if (!tsc_hz)
		tsc_hz = tsc_by_hypervisor();
	if (!tsc_hz)
		tsc_hz = tsc_by_cpuid();
	if (!tsc_hz)
		tsc_hz = tsc_by_pit();
	if (!tsc_hz)
		die("the TSC's frequency is neither in CPUID nor can a PIT tell it: give tsc=HZ");
	clocks.tsc_hz = tsc_hz;
	clocks.apic_hz = middle(apic_measure(), apic_measure(), apic_measure());
	if (clocks.apic_hz == 0)
		die("the local APIC's timer does not run");
}
