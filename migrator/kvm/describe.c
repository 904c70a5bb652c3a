/* SPDX-License-Identifier: MIT */
/*
 * What a destination must know of a guest to judge, before anything is moved, whether it can
 * run there.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include <common/log.h>
#include <common/wire.h>
#include <vmferry/kvm.h>

#include "cpuid.h"
#include "description.h"
#include "msrs.h"
#include "parts.h"

static const struct {
	uint32_t cap;
	const char *name;
} caps[] = {
	{KVM_CAP_MP_STATE, "MP_STATE"},	  {KVM_CAP_SREGS2, "SREGS2"},
	{KVM_CAP_XSAVE, "XSAVE"},	  {KVM_CAP_XCRS, "XCRS"},
	{KVM_CAP_DEBUGREGS, "DEBUGREGS"}, {KVM_CAP_VCPU_EVENTS, "VCPU_EVENTS"},
	{KVM_CAP_IRQCHIP, "IRQCHIP"},	  {KVM_CAP_ADJUST_CLOCK, "ADJUST_CLOCK"},
};

#define CAP_COUNT (sizeof(caps) / sizeof(caps[0]))

const char *description_cap_name(uint32_t cap)
{
	for (size_t i = 0; i < CAP_COUNT; i++)
		if (caps[i].cap == cap)
			return caps[i].name;
	return NULL;
}

static int describe_cpuid(int vcpu_fd, struct vmferry_blob *blob)
{
	struct kvm_cpuid2 *cpuid;
	int e = cpuid_query(vcpu_fd, KVM_GET_CPUID2, &cpuid);

	if (e < 0)
		return e;
	e = section_append(blob, DESC_CPUID, cpuid->entries,
			   cpuid->nent * sizeof(cpuid->entries[0]));
	free(cpuid);
	return e;
}

/* Only those that are not zero: zeroes are what a vCPU without the MSR is taken to hold. */
static int describe_msrs(int kvm_fd, int vcpu_fd, struct vmferry_blob *blob)
{
	const struct msr_list *list;
	struct kvm_msr_entry *entries;
	size_t used = 0;
	int r = msr_list_get(kvm_fd, &list);

	if (r < 0)
		return r;
	entries = calloc(list->count, sizeof(*entries));
	if (entries == NULL)
		return -ENOMEM;
	r = msrs_read(vcpu_fd, list, entries);
	for (int i = 0; i < r; i++)
		if (entries[i].data != 0)
			entries[used++] = entries[i];
	if (r >= 0)
		r = section_append(blob, DESC_MSRS, entries, used * sizeof(*entries));
	free(entries);
	return r;
}

static int append_u32(struct vmferry_blob *blob, enum section_id id, uint32_t value)
{
	uint8_t bytes[4];

	wire_put_u32(bytes, value);
	return section_append(blob, id, bytes, sizeof(bytes));
}

static int describe_caps(int vm_fd, struct vmferry_blob *blob)
{
	struct description_cap have[CAP_COUNT];

	for (size_t i = 0; i < CAP_COUNT; i++) {
		have[i].cap = caps[i].cap;
		have[i].value = (uint32_t)kvm_capability(vm_fd, (int)caps[i].cap);
	}
	return section_append(blob, DESC_CAPS, have, sizeof(have));
}

int vmferry_kvm_describe(int kvm_fd, int vm_fd, int vcpu_fd, struct vmferry_blob *blob)
{
	int khz = kvm_ioctl(vcpu_fd, KVM_GET_TSC_KHZ, NULL);
	int e = describe_cpuid(vcpu_fd, blob);

	if (e == 0)
		e = describe_msrs(kvm_fd, vcpu_fd, blob);
	if (e == 0)
		e = append_u32(blob, DESC_XSAVE_SIZE,
			       (uint32_t)kvm_capability(vm_fd, KVM_CAP_XSAVE2));
	if (e == 0) /* 0: not known, nothing is promised to the guest */
		e = append_u32(blob, DESC_TSC_KHZ, khz < 0 ? 0 : (uint32_t)khz);
	if (e == 0)
		e = describe_caps(vm_fd, blob);
	return e < 0 ? e : sections_finish(blob);
}
