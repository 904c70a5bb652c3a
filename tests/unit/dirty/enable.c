/* SPDX-License-Identifier: MIT */
/* Enabling the dirty ring on VMs that can have it and on those that cannot. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <vmferry/kvm.h>

#include "machine.h"

TestSuite(enable_ring, .init = machine_need_kvm, .timeout = 300);

static int new_vm(void)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);

	cr_assert_geq(vm, 0);
	close(kvm);
	return vm;
}

Test(enable_ring, no_number__default)
{
	uint32_t enabled = 0;
	int vm = new_vm();

	cr_assert_eq(vmferry_kvm_enable_ring(vm, 0, &enabled), 0);
	cr_assert_eq(enabled, 16384);
	close(vm);
}

Test(enable_ring, impossible_number__refused)
{
	static const uint32_t wrong[] = {1, 512, 1025, 3000, 1u << 31, UINT32_MAX};
	uint32_t enabled = 77;
	int vm = new_vm();

	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
		cr_assert_eq(vmferry_kvm_enable_ring(vm, wrong[i], &enabled), -EINVAL);
	cr_assert_eq(enabled, 77);
	close(vm);
}

Test(enable_ring, second_time_or_after_a_vcpu__refused)
{
	uint32_t enabled = 0;
	int vm = new_vm(), vcpu;

	cr_assert_eq(vmferry_kvm_enable_ring(vm, 1024, &enabled), 0);
	cr_assert_eq(vmferry_kvm_enable_ring(vm, 1024, &enabled), -EINVAL);
	close(vm);

	vm = new_vm();
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	cr_assert_geq(vcpu, 0);
	cr_assert_eq(vmferry_kvm_enable_ring(vm, 1024, &enabled), -EINVAL);
	close(vcpu);
	close(vm);
}

Test(enable_ring, fd_that_is_no_vm__not_supported)
{
	uint32_t enabled = 0;

	cr_assert_eq(vmferry_kvm_enable_ring(-1, 1024, &enabled), -ENOTSUP);
}
