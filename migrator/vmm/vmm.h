/* SPDX-License-Identifier: MIT */
/*
 * The reference VMM: a small machine on KVM that runs multiboot guests. It uses the library's
 * public headers only, as any VMM would, and is what the command line drives.
 *
 * THREADS  One thread for each vCPU. All functions may be called from any one other thread at a
 *          time; vmm_pause(), vmm_resume(), vmm_save() may be called from the migration's control
 *          thread.
 */
#ifndef VMM_VMM_H
#define VMM_VMM_H

#include <vmferry/migration.h>
#include <vmferry/vmferry.h>

#include "guest/abi.h"

#define VMM_MEMORY_MIN (16ull << 20)
#define VMM_VCPUS_MAX  16

enum vmm_pages {
	/* 4 KiB pages, transparent huge pages where the system gives them (default) */
	VMM_PAGES_THP,
	VMM_PAGES_4K,
	VMM_PAGES_HUGE, /* 2 MiB huge pages from the pool */
};

struct vmm_config {
	uint64_t memory; /* bytes, a multiple of 2 MiB */
	unsigned int vcpus;
	enum vmm_pages pages;
	int numa_node; /* -1: not bound */
	enum vmferry_tracker
		tracker;       /* RING or AUTO enable the dirty ring where the kernel has it */
	uint32_t ring_entries; /* 0: default */
	int console_fd;	       /* where the guest's console goes, -1: nowhere */
	bool prealloc; /* populate all memory at once: the guest's first touch is then fast */
};

struct vmm;

/*
 * Where the VMM's own messages go; like vmferry_set_log(), but until it is called errors and
 * warnings go to standard error. Process-wide, before the first VMM is made.
 */
void vmm_set_log(vmferry_log_fn fn, void *ctx, enum vmferry_log_level level);

/*
 * Makes VM, memory, vCPUs and their threads; nothing runs. -ENODEV without /dev/kvm, with the
 * remedy logged.
 */
int vmm_new(const struct vmm_config *config, struct vmm **vmm);
void vmm_free(struct vmm **vmm);

/*
 * Loads a multiboot ELF image (@file NULL: the reference guest that is built in), its command line
 * and optional modules (files, "PATH ARGS"), and sets vCPU 0 to the multiboot entry state. -ENOEXEC
 * with the reason logged.
 */
int vmm_boot(struct vmm *vmm, const char *file, const char *command_line,
	     const char *const *modules, unsigned int module_count);

/* Lets the vCPUs run (first run or after a pause); stops them all, in parallel, I/O retired. */
int vmm_resume(struct vmm *vmm);
int vmm_pause(struct vmm *vmm);

/* The machine as the library wants it; the arrays are the vmm's. */
void vmm_describe_vm(const struct vmm *vmm, struct vmferry_vm *vm);

/*
 * Tells the vCPU threads which migration to turn to when a dirty ring is full. NULL when it is
 * over.
 */
void vmm_set_source(struct vmm *vmm, struct vmferry_source *source);

/*
 * The migration callbacks of a running VM: ctx is the struct vmm. They stamp and gather what the
 * heartbeats need: see vmm_observed_blackout().
 */
extern const struct vmferry_source_ops vmm_source_ops;

/*
 * The destination's: ctx is a struct vmm_arrival, zeroed but for its first part. prepare() makes
 * the vmm from the source's description; after run() it is the caller's.
 */
struct vmm_arrival {
	int console_fd;
	int numa_node;
	/* refuse a guest with more memory than this; 0: what the host has free */
	uint64_t memory_limit;
	struct vmm *vmm; /* out */
};
extern const struct vmferry_destination_ops vmm_destination_ops;

/* ---- observation ----------------------------------------------------------------------------- */

struct vmm_vcpu_pulse {
	uint64_t beats;	     /* since this VMM runs it */
	uint64_t first_ns;   /* CLOCK_MONOTONIC of the first beat here, 0: none */
	uint64_t last_ns;    /* and of the last */
	uint64_t max_gap_ns; /* between two beats here */
};

struct vmm_status {
	bool running;
	bool ready;	 /* the guest said GUEST_STATUS_READY (carried over a migration) */
	uint64_t faults; /* GUEST_STATUS_FAULT */
	uint64_t scrubs; /* GUEST_STATUS_SCRUB since this VMM runs it */
	bool stopped;	 /* the guest shut down, triple-faulted or a vCPU failed: see stop_reason */
	char stop_reason[128];
	unsigned int vcpus;
	uint64_t memory;
	struct vmm_vcpu_pulse pulse[VMM_VCPUS_MAX];
};

void vmm_status(const struct vmm *vmm, struct vmm_status *status);

/*
 * After a migration away: the longest time between the last beat here and the first beat there over
 * all vCPUs, in nanoseconds, from the words that the destination's closing() sent. -ENODATA if a
 * vCPU had no beat on one side, -EXDEV if the clocks are those of two hosts and cannot be compared.
 */
int vmm_observed_blackout(const struct vmm *vmm, uint64_t *ns);

/*
 * The same of one vCPU; 0 where vmm_observed_blackout() has nothing, or for a vCPU that does not
 * beat.
 */
uint64_t vmm_observed_silence(const struct vmm *vmm, unsigned int vcpu);

/*
 * Faults that the guest had found at the destination when closing() was called (it waits for first
 * beats).
 */
uint64_t vmm_peer_faults(const struct vmm *vmm);

#endif
