/* SPDX-License-Identifier: MIT */
/*
 * A VM without KVM: memory in memfds and a thread that plays the guest, writing pages and telling
 * the library of each. Both ends of a migration can live in one process, so that memory can be
 * compared byte by byte at the moment of the switchover.
 */
#ifndef FAKEVM_H
#define FAKEVM_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <vmferry/migration.h>

#define FAKEVM_REGIONS 2
#define FAKEVM_LOW     (12ull << 20)
#define FAKEVM_HIGH    ((5ull << 20) + VMFERRY_PAGE_SIZE)
#define FAKEVM_HIGH_AT (4ull << 30)

/* What other processes may see of it: in shared memory when the test forks. */
struct fakevm_pulse {
	_Atomic uint64_t writes;
	_Atomic bool running;
	_Atomic uint64_t resumes;
	_Atomic int64_t resumed_ns;
};

struct fakevm {
	struct vmferry_region regions[FAKEVM_REGIONS];
	struct fakevm_pulse *pulse;
	struct fakevm_pulse own_pulse;
	_Atomic(struct vmferry_source *) source; /* who is told of writes */
	uint64_t pace_ns;			 /* between two writes */
	uint64_t working_set;			 /* pages of the low region that are written */
	uint64_t state;				 /* the "registers": travels as the VM's state */

	pthread_t thread;
	bool started;
	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool want_run, is_running, quit; /* @lock */

	/* Faults to play. */
	int fail_save, fail_load, fail_run, fail_prepare, fail_pause;
	const char *problem;		   /* that check() shall name */
	const struct fakevm *compare_with; /* at run(): all memory must be equal to this one's */
	uint64_t differing_pages;
	_Atomic bool compared;
	void (*in_run)(void *ctx);
	void (*in_load)(void *ctx);
	void *hook_ctx;
	_Atomic bool abandoned;
	char words[64];
	bool committed;
};

void fakevm_init(struct fakevm *vm);
void fakevm_destroy(struct fakevm *vm);

/* Fills the first @share percent of each region with distinct non-zero pages. */
void fakevm_fill(struct fakevm *vm, unsigned int share);

void fakevm_run(struct fakevm *vm);
void fakevm_describe(struct fakevm *vm, struct vmferry_vm *out);

/* Pages of @a that differ from those of @b. */
uint64_t fakevm_differing(const struct fakevm *a, const struct fakevm *b);

extern const struct vmferry_source_ops fakevm_source_ops;
extern const struct vmferry_destination_ops fakevm_destination_ops;

#endif
