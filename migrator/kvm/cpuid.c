/* SPDX-License-Identifier: MIT */
/* CPUID tables as KVM has them: asking for them, finding leaves, and whether two are the same. */
#include "cpuid.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <common/log.h>

#include "parts.h"

/*
 * KVM_MAX_CPUID_ENTRIES of the kernel; 80 before Linux 5.11, which takes a larger table all the
 * same.
 */
#define ENTRIES_MAX 256u

int cpuid_new(size_t count, const void *bytes, struct kvm_cpuid2 **cpuid)
{
	struct kvm_cpuid2 *c = calloc(1, sizeof(*c) + count * sizeof(c->entries[0]));

	if (c == NULL)
		return -ENOMEM;
	c->nent = (uint32_t)count;
	if (bytes != NULL)
		memcpy(c->entries, bytes, count * sizeof(c->entries[0]));
	*cpuid = c;
	return 0;
}

int cpuid_query(int fd, unsigned long request, struct kvm_cpuid2 **cpuid)
{
	struct kvm_cpuid2 *c;
	int e = cpuid_new(ENTRIES_MAX, NULL, &c);

	if (e < 0)
		return e;
	e = kvm_ioctl(fd, request, c);
	if (e < 0) {
		log_error("kvm fd %d: get cpuid: %s", fd, strerror(-e));
		free(c);
		return e;
	}
	*cpuid = c;
	return 0;
}

const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t leaf,
					  uint32_t sub)
{
	for (uint32_t i = 0; i < cpuid->nent; i++) {
		const struct kvm_cpuid_entry2 *e = &cpuid->entries[i];

		if (e->function != leaf)
			continue;
		if (!(e->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX) || e->index == sub)
			return e;
	}
	return NULL;
}

/*
 * What kvm_update_cpuid_runtime() of the kernel sets from CR4, XCR0, APIC_BASE and MISC_ENABLE.
 */
static uint32_t runtime_bits(const struct kvm_cpuid_entry2 *e, unsigned int reg)
{
	if (e->function == 1 && reg == CPUID_ECX)
		return 1u << 27 | 1u << 3; /* osxsave, monitor */
	if (e->function == 1 && reg == CPUID_EDX)
		return 1u << 9; /* apic */
	if (e->function == 7 && e->index == 0 && reg == CPUID_ECX)
		return 1u << 4; /* ospke */
	if (e->function == 0xd && e->index <= 1 && reg == CPUID_EBX)
		return ~0u; /* size of the state that is enabled now */
	return 0;
}

static bool same_entry(const struct kvm_cpuid_entry2 *a, const struct kvm_cpuid_entry2 *b)
{
	if (a->function != b->function || a->index != b->index || a->flags != b->flags)
		return false;
	for (unsigned int reg = 0; reg < CPUID_REGISTERS; reg++)
		if ((cpuid_value(a, reg) ^ cpuid_value(b, reg)) & ~runtime_bits(a, reg))
			return false;
	return true;
}

bool cpuid_same(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b)
{
	if (a->nent != b->nent)
		return false;
	for (uint32_t i = 0; i < a->nent; i++)
		if (!same_entry(&a->entries[i], &b->entries[i]))
			return false;
	return true;
}
