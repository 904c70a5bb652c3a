/* SPDX-License-Identifier: MIT */
/*
 * What a vCPU does in ring 3: fill its share of memory, then rewrite and verify pages of its own.
 */
#ifndef GUEST_WORK_H
#define GUEST_WORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "machine.h"
#include "options.h"
#include "pace.h"

/* Each page is one vCPU's alone: a share of the working set, and a share of the rest. */
struct worker {
	struct cpu *cpu;
	uint64_t hot_first, hot_count;
	uint64_t cold_first, cold_count;
	struct pace rewrites, scrubs;
	uint64_t random;
	uint64_t cursor; /* next page of the sequential pattern, counted within the share */
	uint64_t scrub_at;
	uint32_t pass_done; /* passes that this vCPU is through with */
	uint64_t faults;
	/* Read by vCPU 0 for its report. */
	_Atomic uint64_t rewritten, scrubbed;
};

/* Set in ring 0, only read afterwards. */
extern struct options options;

/* Ring 3's entry, on every vCPU. */
void work(struct cpu *cpu);

uint64_t worker_random(struct worker *worker);

/*
 * check.c: each verifies one page and complains if it is not right, once, for it is rewritten
 * then.
 */
void check_rewrite(struct worker *worker, uint64_t page);
void check_scrub(struct worker *worker, uint64_t page);
/* Complaints of all vCPUs so far. */
uint64_t check_faults(void);

/* scrub.c: the next page of the pass over all memory; false if there is nothing to do now. */
void scrub_setup(uint32_t workers);
bool scrub_step(struct worker *worker);

#endif
