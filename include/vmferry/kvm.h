/* SPDX-License-Identifier: MIT */
/*
 * Help for VMMs on KVM (x86-64): the dirty ring, the complete state of vCPUs and VM, and the check
 * whether a guest that runs on one host can run on another. All of it works on the VMM's own file
 * descriptors, which stay the VMM's.
 *
 * THREADS  Functions that take vCPU fds must not run while a vCPU is in KVM_RUN, unless they say
 *          otherwise.
 */
#ifndef VMFERRY_KVM_H
#define VMFERRY_KVM_H

#include <vmferry/vmferry.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/*
 * Enables the dirty ring with @entries entries a vCPU (a power of two, 1024 to what the kernel
 * allows; 0: the default of 16384, or the most that the kernel allows if that is less) and stores
 * the number. An entry takes 16 bytes of kernel memory. KVM keeps only 64 entries in reserve
 * whatever the size: where it emulates the guest's stores (REP STOS, all of ring 0 under PVM) a
 * ring that gets full overflows, which costs another pass over all memory, so it should not fill
 * within a harvest's period of 5 ms. Call it before the first vCPU is created, never together with
 * KVM_DIRTY_LOG_INITIALLY_SET. -ENOTSUP where the kernel has no ring.
 */
int vmferry_kvm_enable_ring(int vm_fd, uint32_t entries, uint32_t *enabled);

/*
 * Appends the state of one vCPU to @blob. The vCPU must have left KVM_RUN with nothing pending: run
 * it once with immediate_exit set after an I/O exit (it returns -EINTR). Safe from several threads
 * for different vCPUs and blobs.
 */
int vmferry_kvm_save_vcpu(int vcpu_fd, int vm_fd, struct vmferry_blob *blob);

/*
 * Loads what vmferry_kvm_save_vcpu() saved, in the order that KVM needs. -EPROTO if the bytes are
 * not sound; -ENOTSUP if this KVM lacks something that they need, named in the log; -EINVAL and
 * what else the ioctls say.
 */
int vmferry_kvm_load_vcpu(int vcpu_fd, int vm_fd, const void *data, size_t length);

/*
 * State of the VM itself: clock, and in-kernel PIC, IOAPIC and PIT where the VM has them. Save when
 * all vCPUs have stopped; load before any of them runs.
 */
int vmferry_kvm_save_vm(int vm_fd, struct vmferry_blob *blob);
int vmferry_kvm_load_vm(int vm_fd, const void *data, size_t length);

/*
 * Appends what a destination must know to judge whether this guest can run there: CPUID of the
 * vCPU, the MSRs in use, size of XSAVE, TSC frequency, capabilities. The vCPU may not be in
 * KVM_RUN; call it before the first run, or paused, and keep the blob: it does not change.
 */
int vmferry_kvm_describe(int kvm_fd, int vm_fd, int vcpu_fd, struct vmferry_blob *blob);

/*
 * Compares a description with what this host's KVM can do and adds every mismatch to @problems,
 * CPUID bit by bit. 0 however many there are; an error only if the check itself could not be done.
 */
int vmferry_kvm_check(int kvm_fd, const void *data, size_t length,
		      struct vmferry_problems *problems);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
