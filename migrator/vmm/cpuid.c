/* SPDX-License-Identifier: MIT */
/*
 * CPUID of the guest: what this host's KVM supports, with each vCPU's own APIC id and a topology of
 * one package in which every vCPU is a core with one thread.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "internal.h"
#include "log.h"

#define ENTRIES_FIRST 128u
#define ENTRIES_MAX   4096u
#define ENTRIES_SPARE 2u /* levels that are added */

#define LEVEL_THREAD 1u
#define LEVEL_CORE   2u

/*
 * KVM may list level 0 of a topology leaf alone; the guest needs the level of cores too. Needs room
 * for one more.
 */
static void add_core_level(struct kvm_cpuid2 *cpuid, uint32_t leaf)
{
	bool has[2] = {false, false};

	for (uint32_t i = 0; i < cpuid->nent; i++) {
		if (cpuid->entries[i].function == leaf && cpuid->entries[i].index < 2)
			has[cpuid->entries[i].index] = true;
	}
	if (!has[0] || has[1])
		return;
	cpuid->entries[cpuid->nent++] = (struct kvm_cpuid_entry2){
		.function = leaf,
		.index = 1,
		.flags = KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
	};
}

int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **cpuid)
{
	int err = -E2BIG;

	for (uint32_t n = ENTRIES_FIRST; err == -E2BIG && n <= ENTRIES_MAX; n *= 2) {
		size_t room = n + ENTRIES_SPARE;
		struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + room * sizeof(c->entries[0]));

		if (!c)
			return -ENOMEM;
		c->nent = n;
		if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) == 0) {
			add_core_level(c, 0xb);
			add_core_level(c, 0x1f);
			*cpuid = c;
			return 0;
		}
		err = -errno;
		free(c);
	}
	vmm_error("kvm: cannot get the supported cpuid: %s", strerror(-err));
	return err;
}

static uint32_t set_field(uint32_t word, unsigned int shift, unsigned int bits, uint32_t value)
{
	uint32_t mask = ((1u << bits) - 1) << shift;

	return (word & ~mask) | ((value << shift) & mask);
}

/* How many bits an APIC id of @count vCPUs has. */
static unsigned int id_bits(unsigned int count)
{
	unsigned int bits = 0;

	while ((1u << bits) < count)
		bits++;
	return bits;
}

static void fix_features(struct kvm_cpuid_entry2 *e, unsigned int index, unsigned int count,
			 bool tsc_deadline)
{
	e->ebx = set_field(e->ebx, 24, 8, index);
	e->ebx = set_field(e->ebx, 16, 8, 1u << id_bits(count));
	e->edx = set_field(e->edx, 28, 1, count > 1); /* HTT: the field above is valid */
	/* KVM leaves this to the VMM, because it holds only with the in-kernel LAPIC. */
	e->ecx = set_field(e->ecx, 24, 1, tsc_deadline);
}

/* Cache levels 1 and 2 are each core's own, 3 is shared. */
static void fix_cache(struct kvm_cpuid_entry2 *e, unsigned int count)
{
	unsigned int level = (e->eax >> 5) & 7;

	if ((e->eax & 0x1f) == 0)
		return;
	e->eax = set_field(e->eax, 14, 12, level >= 3 ? (1u << id_bits(count)) - 1 : 0);
	if (e->function == 4)
		e->eax = set_field(e->eax, 26, 6, (1u << id_bits(count)) - 1);
}

static void fix_topology(struct kvm_cpuid_entry2 *e, unsigned int index, unsigned int count)
{
	uint32_t level = e->index;

	e->eax = level == 1 ? id_bits(count) : 0;
	e->ebx = level == 0 ? 1 : level == 1 ? count : 0;
	e->ecx = level;
	if (level == 0)
		e->ecx |= LEVEL_THREAD << 8;
	else if (level == 1)
		e->ecx |= LEVEL_CORE << 8;
	e->edx = index;
}

static void fix_entry(struct kvm_cpuid_entry2 *e, unsigned int index, unsigned int count,
		      bool tsc_deadline)
{
	switch (e->function) {
	case 0x1:
		fix_features(e, index, count, tsc_deadline);
		break;
	case 0x4:
	case 0x8000001d:
		fix_cache(e, count);
		break;
	case 0xb:
	case 0x1f:
		fix_topology(e, index, count);
		break;
	case 0x80000008:
		e->ecx = set_field(e->ecx, 0, 8, count - 1);
		e->ecx = set_field(e->ecx, 12, 4, id_bits(count));
		break;
	case 0x8000001e:
		e->eax = index;
		e->ebx = index;
		e->ecx = 0;
		break;
	default:
		break;
	}
}

void cpuid_for_vcpu(struct kvm_cpuid2 *cpuid, unsigned int index, unsigned int count,
		    bool tsc_deadline)
{
	for (uint32_t i = 0; i < cpuid->nent; i++)
		fix_entry(&cpuid->entries[i], index, count, tsc_deadline);
}
