/* SPDX-License-Identifier: MIT */
/* Which MSRs make up a vCPU's state, and their values, in as few ioctls as KVM allows. */
#ifndef KVM_MSRS_H
#define KVM_MSRS_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define MSR_TSC		      0x10u
#define MSR_ARCH_CAPABILITIES 0x10au
#define MSR_TSC_DEADLINE      0x6e0u

struct msr_list {
	size_t count;
	uint32_t index[];
};

/*
 * The MSRs that this host's KVM saves, in the order in which they may be set. Asked once in a
 * process: @kvm_fd may be -1, then /dev/kvm is opened if nobody has asked before. Any thread.
 */
int msr_list_get(int kvm_fd, const struct msr_list **list);

bool msr_list_has(const struct msr_list *list, uint32_t index);

/* Reads those that the vCPU has into @entries (room for list->count); returns how many. */
int msrs_read(int vcpu_fd, const struct msr_list *list, struct kvm_msr_entry *entries);

/* Sets @count MSRs, TSC first and TSC_DEADLINE last whatever their order is. Changes @entries. */
int msrs_write(int vcpu_fd, struct kvm_msr_entry *entries, size_t count);

#endif
