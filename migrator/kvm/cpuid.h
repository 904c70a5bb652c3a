/* SPDX-License-Identifier: MIT */
/* CPUID tables as KVM has them: asking for them, and comparing a guest's with a host's. */
#ifndef KVM_CPUID_H
#define KVM_CPUID_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>

#include <vmferry/vmferry.h>

enum cpuid_register { CPUID_EAX, CPUID_EBX, CPUID_ECX, CPUID_EDX };

#define CPUID_REGISTERS 4u

static inline uint32_t *cpuid_register(struct kvm_cpuid_entry2 *e, unsigned int reg)
{
	uint32_t *const registers[] = {&e->eax, &e->ebx, &e->ecx, &e->edx};

	return registers[reg];
}

static inline uint32_t cpuid_value(const struct kvm_cpuid_entry2 *e, unsigned int reg)
{
	const uint32_t values[] = {e->eax, e->ebx, e->ecx, e->edx};

	return values[reg];
}

/*
 * A table of @count zeroed entries, or a copy of @count entries at @bytes. To be freed with
 * free().
 */
int cpuid_new(size_t count, const void *bytes, struct kvm_cpuid2 **cpuid);

/* KVM_GET_CPUID2 of a vCPU or KVM_GET_SUPPORTED_CPUID of /dev/kvm. */
int cpuid_query(int fd, unsigned long request, struct kvm_cpuid2 **cpuid);

/* The entry of a leaf; NULL if there is none. @sub counts only for leaves that have subleaves. */
const struct kvm_cpuid_entry2 *cpuid_find(const struct kvm_cpuid2 *cpuid, uint32_t leaf,
					  uint32_t sub);

/* True if the tables differ in nothing but what KVM derives from the vCPU's other registers. */
bool cpuid_same(const struct kvm_cpuid2 *a, const struct kvm_cpuid2 *b);

/*
 * Adds to @host every feature bit that @more has beyond it, and every leaf that it does not
 * have.
 */
int cpuid_merge(struct kvm_cpuid2 **host, const struct kvm_cpuid2 *more);

/*
 * Adds to @problems what a guest that was started with @guest would miss on a host that offers
 * @host.
 */
void cpuid_compare(const struct kvm_cpuid2 *guest, const struct kvm_cpuid2 *host,
		   struct vmferry_problems *problems);

/*
 * The usual name of a feature bit as Linux and QEMU have it, NULL if it has none. @name: 32
 * bytes.
 */
const char *cpuid_bit_name(uint32_t leaf, uint32_t sub, unsigned int reg, unsigned int bit,
			   char name[32]);

#endif
