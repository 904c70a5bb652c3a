/* SPDX-License-Identifier: MIT */
/* A small VM with one vCPU and 64 KiB of memory to save, load and describe. */
#ifndef TEST_RIG_H
#define TEST_RIG_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#include <migrator/kvm/sections.h>
#include <vmferry/kvm.h>

#define RIG_MEMORY 0x10000u

struct rig {
	int kvm;
	int vm;
	int vcpu;
	uint8_t *memory;
	struct kvm_run *run;
	size_t run_size;
};

/* Skips the test where there is no /dev/kvm. The vCPU has the supported CPUID. */
void rig_open(struct rig *rig, bool irqchip);

/* The same, but the vCPU has no CPUID yet, as at a destination. */
void rig_open_bare(struct rig *rig, bool irqchip);
void rig_close(struct rig *rig);

/* Runs @code in real mode until its first OUT, and retires that. */
void rig_run(struct rig *rig, const void *code, size_t length);

void rig_ioctl(int fd, unsigned long request, void *argument);
uint64_t rig_msr(const struct rig *rig, uint32_t index);
void rig_set_msr(const struct rig *rig, uint32_t index, uint64_t value);

/* A copy of the blob's bytes, to be changed and freed. */
uint8_t *rig_copy(const struct vmferry_blob *blob);

/* Where a section's bytes are in saved state that is sound; NULL if it is not there. */
uint8_t *rig_section(const void *data, size_t length, enum section_id id, uint32_t *size);

#endif
