/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <common/wire.h>
#include <migrator/kvm/cpuid.h>

void rig_ioctl(int fd, unsigned long request, void *argument)
{
	int r = ioctl(fd, request, argument);

	cr_assert(r >= 0, "ioctl 0x%lx: %s", request, strerror(errno));
}

static void add_memory(struct rig *rig)
{
	struct kvm_userspace_memory_region region = {.memory_size = RIG_MEMORY};

	rig->memory =
		mmap(NULL, RIG_MEMORY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert(rig->memory != MAP_FAILED);
	region.userspace_addr = (uintptr_t)rig->memory;
	rig_ioctl(rig->vm, KVM_SET_USER_MEMORY_REGION, &region);
}

void rig_open_bare(struct rig *rig, bool irqchip)
{
	struct kvm_pit_config pit = {0};

	rig->kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (rig->kvm < 0)
		cr_skip_test("no /dev/kvm here: vcpu and vm state cannot be tested");
	rig->vm = ioctl(rig->kvm, KVM_CREATE_VM, 0);
	cr_assert(rig->vm >= 0);
	if (irqchip) {
		rig_ioctl(rig->vm, KVM_CREATE_IRQCHIP, NULL);
		rig_ioctl(rig->vm, KVM_CREATE_PIT2, &pit);
	}
	rig->vcpu = ioctl(rig->vm, KVM_CREATE_VCPU, 0);
	cr_assert(rig->vcpu >= 0);
	rig->run_size = (size_t)ioctl(rig->kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	rig->run = mmap(NULL, rig->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, rig->vcpu, 0);
	cr_assert(rig->run != MAP_FAILED);
	add_memory(rig);
}

void rig_open(struct rig *rig, bool irqchip)
{
	struct kvm_cpuid2 *cpuid;

	rig_open_bare(rig, irqchip);
	cr_assert(cpuid_query(rig->kvm, KVM_GET_SUPPORTED_CPUID, &cpuid) == 0);
	rig_ioctl(rig->vcpu, KVM_SET_CPUID2, cpuid);
	free(cpuid);
}

void rig_close(struct rig *rig)
{
	munmap(rig->run, rig->run_size);
	munmap(rig->memory, RIG_MEMORY);
	close(rig->vcpu);
	close(rig->vm);
	close(rig->kvm);
}

void rig_run(struct rig *rig, const void *code, size_t length)
{
	struct kvm_sregs sregs;
	struct kvm_regs regs = {.rip = 0x1000, .rsp = 0x8000, .rflags = 2};

	memcpy(rig->memory + 0x1000, code, length);
	rig_ioctl(rig->vcpu, KVM_GET_SREGS, &sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	rig_ioctl(rig->vcpu, KVM_SET_SREGS, &sregs);
	rig_ioctl(rig->vcpu, KVM_SET_REGS, &regs);
	rig_ioctl(rig->vcpu, KVM_RUN, NULL);
	cr_assert(rig->run->exit_reason == KVM_EXIT_IO, "exit %u", rig->run->exit_reason);
	rig->run->immediate_exit = 1;
	cr_assert(ioctl(rig->vcpu, KVM_RUN, 0) < 0 && errno == EINTR);
	rig->run->immediate_exit = 0;
}

struct one_msr {
	uint32_t count;
	uint32_t pad;
	struct kvm_msr_entry entry;
};

uint64_t rig_msr(const struct rig *rig, uint32_t index)
{
	struct one_msr m = {.count = 1, .entry = {.index = index}};
	int r = ioctl(rig->vcpu, KVM_GET_MSRS, &m);

	cr_assert(r == 1, "get msr 0x%x", index);
	return m.entry.data;
}

void rig_set_msr(const struct rig *rig, uint32_t index, uint64_t value)
{
	struct one_msr m = {.count = 1, .entry = {.index = index, .data = value}};
	int r = ioctl(rig->vcpu, KVM_SET_MSRS, &m);

	cr_assert(r == 1, "set msr 0x%x", index);
}

uint8_t *rig_copy(const struct vmferry_blob *blob)
{
	uint8_t *copy = malloc(vmferry_blob_size(blob));

	cr_assert(copy != NULL);
	memcpy(copy, vmferry_blob_data(blob), vmferry_blob_size(blob));
	return copy;
}

uint8_t *rig_section(const void *data, size_t length, enum section_id id, uint32_t *size)
{
	const uint8_t *at = data;

	while (length >= SECTION_HEADER_SIZE) {
		uint32_t bytes = (uint32_t)wire_get(at + 4, 4);

		*size = bytes;
		if (wire_get(at, 2) == id)
			return (uint8_t *)at + SECTION_HEADER_SIZE;
		at += SECTION_HEADER_SIZE + bytes;
		length -= SECTION_HEADER_SIZE + bytes;
	}
	return NULL;
}
