/* SPDX-License-Identifier: MIT */
/* The topology that each vCPU sees. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "migrator/vmm/internal.h"

static struct kvm_cpuid_entry2 after(uint32_t function, uint32_t index, uint32_t eax,
				     unsigned int vcpu, unsigned int count)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + sizeof(c->entries[0]));
	struct kvm_cpuid_entry2 e;

	c->nent = 1;
	c->entries[0].function = function;
	c->entries[0].index = index;
	c->entries[0].eax = eax;
	cpuid_for_vcpu(c, vcpu, count, true);
	e = c->entries[0];
	free(c);
	return e;
}

Test(cpuid, features__apic_id_count_and_deadline_timer, .timeout = 300)
{
	struct kvm_cpuid_entry2 e = after(1, 0, 0, 2, 3);

	cr_assert_eq(e.ebx >> 24, 2);
	cr_assert_eq((e.ebx >> 16) & 0xff, 4);
	cr_assert(e.edx & (1u << 28));
	cr_assert(e.ecx & (1u << 24));
	cr_assert_not(after(1, 0, 0, 0, 1).edx & (1u << 28));
}

Test(cpuid, topology__one_thread_a_core, .timeout = 300)
{
	struct kvm_cpuid_entry2 threads = after(0xb, 0, 0, 5, 6);
	struct kvm_cpuid_entry2 cores = after(0xb, 1, 0, 5, 6);
	struct kvm_cpuid_entry2 end = after(0xb, 2, 0, 5, 6);

	cr_assert_eq(threads.eax, 0);
	cr_assert_eq(threads.ebx, 1);
	cr_assert_eq(threads.ecx, 0x100);
	cr_assert_eq(threads.edx, 5);
	cr_assert_eq(cores.eax, 3);
	cr_assert_eq(cores.ebx, 6);
	cr_assert_eq(cores.ecx, 0x201);
	cr_assert_eq(end.ebx, 0);
	cr_assert_eq(end.ecx, 2);
}

Test(cpuid, caches__last_level_shared, .timeout = 300)
{
	cr_assert_eq((after(4, 1, 0x21, 0, 4).eax >> 14) & 0xfff, 0);
	cr_assert_eq((after(4, 3, 0x63, 0, 4).eax >> 14) & 0xfff, 3);
	cr_assert_eq(after(4, 3, 0x63, 0, 4).eax >> 26, 3);
	cr_assert_eq(after(4, 4, 0, 0, 4).eax, 0);
}
