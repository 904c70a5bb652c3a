/* SPDX-License-Identifier: MIT */
/*
 * KVM's dirty rings without KVM: what virt/kvm/dirty_ring.c does, in memory that is mapped as KVM's
 * would be. ioctl(), usleep() and getrusage() of the executable are the model's, and in each of
 * them its vCPUs go on, by chance: so one seed is one order of events. Nothing else runs; all of it
 * is one thread.
 */
#ifndef TEST_DIRTY_MODEL_H
#define TEST_DIRTY_MODEL_H

#include <stdbool.h>
#include <stdint.h>

#include <vmferry/migration.h>

#include "migrator/dirty/map.h"

#define MODEL_VCPUS 2
#define MODEL_PAGES 512u

enum vcpu_state { VCPU_OUT, VCPU_ENTERED, VCPU_WRITING, VCPU_LEAVING };

struct model_vcpu {
	int fd;
	struct kvm_run *run;
	struct kvm_dirty_gfn *gfns;
	uint32_t dirty_index;
	uint32_t reset_index;
	bool asked; /* KVM_REQ_DIRTY_RING_SOFT_FULL */
	enum vcpu_state state;
	uint32_t burst; /* writes until it looks at the request again */
	uint64_t writes;
};

struct model {
	uint32_t random;
	uint32_t entries;
	uint32_t soft_limit;
	uint32_t burst_max;
	bool emulates; /* every write pushes an entry, else the first to a protected page */
	bool logs;
	bool paused; /* no vCPU enters KVM_RUN */
	unsigned int vcpus;
	struct model_vcpu vcpu[MODEL_VCPUS];
	int vcpu_fds[MODEL_VCPUS];
	struct vmferry_region region;
	bool writable[MODEL_PAGES];
	uint32_t content[MODEL_PAGES];
	struct dirty_map *map;	    /* what the lane reads: the test's */
	uint32_t copy[MODEL_PAGES]; /* the destination */

	/* What went wrong, of interest to the test. */
	bool overran;	    /* KVM's reset has come beyond its last entry */
	uint64_t overflows; /* entries that were overwritten */
};

/* There is one at a time, which the functions that it replaces work on. */
void model_make(struct model *m, uint32_t seed);
void model_free(struct model *m);

/* Of [0, @below). */
uint32_t model_random(struct model *m, uint32_t below);

/* Up to @most steps of the vCPUs and the lane. */
void model_run(struct model *m, uint32_t most);

/* Takes all vCPUs out of KVM_RUN, where they stay. */
void model_pause(struct model *m);

/* The lane takes all bits once. */
void model_sweep(struct model *m);

struct vmferry_vm model_vm(const struct model *m);

#endif
