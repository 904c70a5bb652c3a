/* SPDX-License-Identifier: MIT */
/*
 * Judges a description against this host's KVM. What KVM lists as supported is asked of
 * /dev/kvm; what it really gives to a vCPU, of a scratch VM that lives as long as the check.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <common/log.h>
#include <common/wire.h>
#include <vmferry/kvm.h>

#include "cpuid.h"
#include "description.h"
#include "msrs.h"
#include "parts.h"
#include "tsc.h"

struct host {
	int kvm_fd; /* borrowed */
	int vm_fd;
	int vcpu_fd;
	struct kvm_cpuid2 *cpuid;
	const struct msr_list *msrs;
};

static int make_scratch(struct host *h)
{
	h->vm_fd = kvm_ioctl(h->kvm_fd, KVM_CREATE_VM, NULL);
	if (h->vm_fd < 0) {
		log_error("kvm fd %d: create a vm for the check: %s", h->kvm_fd,
			  strerror(-h->vm_fd));
		return h->vm_fd;
	}
	h->vcpu_fd = kvm_ioctl(h->vm_fd, KVM_CREATE_VCPU, NULL);
	if (h->vcpu_fd < 0) {
		log_error("kvm fd %d: create a vcpu for the check: %s", h->kvm_fd,
			  strerror(-h->vcpu_fd));
		return h->vcpu_fd;
	}
	return 0;
}

/*
 * A KVM that cannot hide the processor's own features from CPUID shows a vCPU more than it
 * lists (PVM does). A guest from such a host has these bits, and finds them here, too.
 */
static int add_unlisted(struct host *h)
{
	struct kvm_cpuid2 *real;
	int e = kvm_ioctl(h->vcpu_fd, KVM_SET_CPUID2, h->cpuid);

	if (e < 0) {
		log_error("kvm fd %d: set the supported cpuid on a vcpu: %s", h->kvm_fd,
			  strerror(-e));
		return e;
	}
	e = cpuid_query(h->vcpu_fd, KVM_GET_CPUID2, &real);
	if (e < 0)
		return e;
	e = cpuid_merge(&h->cpuid, real);
	free(real);
	return e;
}

/* Features of leaf 1 that some kernels show as capabilities only. */
static void add_by_capability(struct host *h)
{
	struct kvm_cpuid_entry2 *leaf = (struct kvm_cpuid_entry2 *)cpuid_find(h->cpuid, 1, 0);

	if (leaf == NULL)
		return;
	if (kvm_capability(h->vm_fd, KVM_CAP_TSC_DEADLINE_TIMER) > 0)
		leaf->ecx |= 1u << 24;
	if (kvm_capability(h->vm_fd, KVM_CAP_X86_DISABLE_EXITS) & KVM_X86_DISABLE_EXITS_MWAIT)
		leaf->ecx |= 1u << 3;
}

static int host_open(int kvm_fd, struct host *h)
{
	int e = make_scratch(h);

	if (e == 0)
		e = msr_list_get(kvm_fd, &h->msrs);
	if (e == 0)
		e = cpuid_query(kvm_fd, KVM_GET_SUPPORTED_CPUID, &h->cpuid);
	if (e == 0)
		e = add_unlisted(h);
	if (e == 0)
		add_by_capability(h);
	return e;
}

static void host_close(struct host *h)
{
	free(h->cpuid);
	if (h->vcpu_fd >= 0)
		close(h->vcpu_fd);
	if (h->vm_fd >= 0)
		close(h->vm_fd);
}

static bool needs_arch_capabilities(const struct kvm_cpuid2 *guest)
{
	const struct kvm_cpuid_entry2 *leaf = cpuid_find(guest, 7, 0);

	return leaf != NULL && (leaf->edx & 1u << 29) != 0;
}

/*
 * Immunities that the guest's kernel relies on; KVM takes any value, so that nobody else would
 * notice.
 */
static void check_arch_capabilities(const struct host *h, uint64_t guest,
				    struct vmferry_problems *problems)
{
	union {
		struct kvm_msrs head;
		uint8_t bytes[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
	} m = {.head = {.nmsrs = 1}};
	uint64_t missing = guest;
	char what[160];

	m.head.entries[0] = (struct kvm_msr_entry){.index = MSR_ARCH_CAPABILITIES};
	if (kvm_ioctl(h->kvm_fd, KVM_GET_MSRS, &m) == 1)
		missing &= ~m.head.entries[0].data;
	if (missing == 0)
		return;
	snprintf(what, sizeof(what),
		 "msr 0x10a (arch_capabilities): the guest counts on bits 0x%llx, not here",
		 (unsigned long long)missing);
	vmferry_problems_add(
		problems, what,
		"start the guest with arch_capabilities masked, or use a host that has them");
}

static void check_msrs(const struct host *h, const struct kvm_cpuid2 *guest,
		       const struct section *s, struct vmferry_problems *problems)
{
	const uint8_t *at = s->data;
	struct kvm_msr_entry entry;
	char what[128];

	for (uint32_t i = 0; i < s->length / sizeof(entry); i++) {
		memcpy(&entry, at + i * sizeof(entry), sizeof(entry));
		if (entry.index == MSR_ARCH_CAPABILITIES && needs_arch_capabilities(guest))
			check_arch_capabilities(h, entry.data, problems);
		if (msr_list_has(h->msrs, entry.index))
			continue;
		snprintf(what, sizeof(what),
			 "msr 0x%x: the guest uses it (0x%llx), this host's kvm has none",
			 entry.index, (unsigned long long)entry.data);
		vmferry_problems_add(
			problems, what,
			"start the guest without the feature it belongs to, or use a newer kernel");
	}
}

static void check_xsave(const struct host *h, uint32_t guest, struct vmferry_problems *problems)
{
	uint32_t size = (uint32_t)kvm_capability(h->vm_fd, KVM_CAP_XSAVE2);
	char what[128];

	if (size < sizeof(struct kvm_xsave))
		size = sizeof(struct kvm_xsave);
	if (guest <= size)
		return;
	snprintf(what, sizeof(what), "xsave: the guest's state has %u bytes, this host takes %u",
		 guest, size);
	vmferry_problems_add(
		problems, what,
		"start the guest with the larger features (amx) masked, or use a newer kernel");
}

static void check_tsc(const struct host *h, uint32_t guest, struct vmferry_problems *problems)
{
	int khz = kvm_ioctl(h->vcpu_fd, KVM_GET_TSC_KHZ, NULL);
	char what[128];

	if (guest == 0 || kvm_capability(h->vm_fd, KVM_CAP_TSC_CONTROL) > 0)
		return;
	if (khz > 0 && tsc_khz_close(guest, (uint32_t)khz))
		return;
	snprintf(what, sizeof(what),
		 "tsc: the guest's runs at %u khz, this host's at %d and cannot scale", guest,
		 khz < 0 ? 0 : khz);
	vmferry_problems_add(
		problems, what,
		"use a host with the same tsc frequency, or one whose processor scales it");
}

static void check_caps(const struct host *h, const struct section *s,
		       struct vmferry_problems *problems)
{
	const uint8_t *at = s->data;
	struct description_cap cap;
	char what[128];

	for (uint32_t i = 0; i < s->length / sizeof(cap); i++) {
		const char *name;

		memcpy(&cap, at + i * sizeof(cap), sizeof(cap));
		name = description_cap_name(cap.cap);
		if (cap.value == 0 ||
		    (cap.cap < INT32_MAX && kvm_capability(h->vm_fd, (int)cap.cap) > 0))
			continue;
		snprintf(what, sizeof(what),
			 "kvm capability %u (%s): the source has it, this host does not", cap.cap,
			 name != NULL ? name : "not known here");
		vmferry_problems_add(problems, what, "use a newer kernel");
	}
}

static int judge(const struct host *h, const struct sections *d, struct vmferry_problems *problems)
{
	const struct section *cpuid = sections_at(d, DESC_CPUID);
	struct kvm_cpuid2 *guest;
	int e = cpuid_new(cpuid->length / sizeof(guest->entries[0]), cpuid->data, &guest);

	if (e < 0)
		return e;
	cpuid_compare(guest, h->cpuid, problems);
	check_msrs(h, guest, sections_at(d, DESC_MSRS), problems);
	check_xsave(h, (uint32_t)wire_get(sections_at(d, DESC_XSAVE_SIZE)->data, 4), problems);
	check_tsc(h, (uint32_t)wire_get(sections_at(d, DESC_TSC_KHZ)->data, 4), problems);
	check_caps(h, sections_at(d, DESC_CAPS), problems);
	free(guest);
	return 0;
}

int vmferry_kvm_check(int kvm_fd, const void *data, size_t length,
		      struct vmferry_problems *problems)
{
	struct host h = {.kvm_fd = kvm_fd, .vm_fd = -1, .vcpu_fd = -1};
	struct sections found;
	int e = sections_parse(SECTIONS_DESCRIPTION, data, length, &found);

	if (e < 0)
		return e;
	e = host_open(kvm_fd, &h);
	if (e == 0)
		e = judge(&h, &found, problems);
	host_close(&h);
	return e;
}
