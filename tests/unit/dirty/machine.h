/* SPDX-License-Identifier: MIT */
/*
 * A guest of a few instructions, run by threads of the test: each vCPU writes random pages as fast
 * as it can, in long mode ring 3 with page tables in guest memory, so that the page walker's own
 * writes must be found too.
 */
#ifndef TEST_MACHINE_H
#define TEST_MACHINE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/migration.h>

#define MACHINE_VCPUS	2
#define MACHINE_REGIONS 3

struct machine;

struct machine_vcpu {
	struct machine *machine;
	int fd;
	struct kvm_run *run;
	pthread_t thread;
};

struct machine {
	int kvm_fd;
	int vm_fd;
	unsigned int vcpus;
	size_t run_bytes;
	uint32_t ring_entries; /* 0: no ring */
	struct machine_vcpu vcpu[MACHINE_VCPUS];
	int vcpu_fds[MACHINE_VCPUS];
	struct vmferry_region regions[MACHINE_REGIONS];
	bool running;
	atomic_bool stop;
	atomic_uint ring_full; /* exits because a ring was full */
	atomic_uint failed;    /* an exit that nobody expects, plus one */
};

/* Skips the test where there is no KVM. */
void machine_need_kvm(void);

/* With @ring_entries of 0 the VM has no ring. Fails the test if anything goes wrong. */
void machine_make(struct machine *m, unsigned int vcpus, uint32_t ring_entries);

/*
 * Gives all vCPUs another program, @code to @end, in ring 0. It gets the address of the memory that
 * it may write in r8 and rdi, of its end in r9, and 0 in rax.
 */
void machine_set_kernel(struct machine *m, const char *code, const char *end);
void machine_run(struct machine *m);
void machine_stop(struct machine *m);
void machine_free(struct machine *m);

struct vmferry_vm machine_vm(const struct machine *m);

/* How often the guest has written a page, all pages together. Stop it first. */
uint64_t machine_writes(const struct machine *m);

#endif
