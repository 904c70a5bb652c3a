/* SPDX-License-Identifier: MIT */
/*
 * The VMM's inside: the machine, its vCPUs and how they are commanded.
 *
 * COMMANDS  vmm->word holds a generation and a command. Whoever has vmm->control posts a new word;
 *           each vCPU thread carries out the newest word that it sees and stores it in vcpu->done.
 *           A thread that was late finds the next word and goes on with that, so nothing has to be
 *           undone after a timeout.
 */
#ifndef VMM_INTERNAL_H
#define VMM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <stdatomic.h>

#include "vmm.h"

#define MIB 1048576ull
#define GIB 1073741824ull

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

#define HUGE_PAGE_BYTES (2 * MIB)
/* memory ends here and goes on at HIGH_START: devices live between */
#define LOW_END		(3 * GIB)
#define HIGH_START	(4 * GIB)
#define VMM_MEMORY_MAX	(4096 * GIB)
#define VMM_REGIONS_MAX 2

#define CONSOLE_BYTES 16384

enum vcpu_command {
	VCPU_PAUSE,
	VCPU_RUN,
	VCPU_SAVE,
	VCPU_LOAD,
	VCPU_QUIT,
};

#define COMMAND_BITS 3u

static inline enum vcpu_command command_of(uint32_t word)
{
	return (enum vcpu_command)(word & ((1u << COMMAND_BITS) - 1));
}

struct vcpu {
	/* Written by the vCPU's thread alone, read by all; a cache line of its own. */
	_Alignas(64) _Atomic uint64_t beats;
	_Atomic uint64_t first_ns;
	_Atomic uint64_t last_ns;
	_Atomic uint64_t max_gap_ns;
	_Atomic uint32_t done; /* the last word that was carried out */
	int result;	       /* of SAVE or LOAD, published by done */

	struct vmferry_blob *state; /* filled by SAVE, read by LOAD */

	struct vmm *vmm;
	struct kvm_run *run;
	pthread_t thread;
	unsigned int index;
	int fd;
	bool started;
	bool was_beating; /* at the source, when this VMM took it over */
};

struct console {
	pthread_mutex_t lock;
	int fd;
	bool lossy; /* text was dropped and that was said */
	size_t used;
	char text[CONSOLE_BYTES];
};

struct vmm {
	struct vcpu vcpu[VMM_VCPUS_MAX]; /* config.vcpus of them */
	struct vmm_config config;
	struct vmferry_region regions[VMM_REGIONS_MAX];
	unsigned int region_count;
	uint32_t ring_entries;
	size_t run_size;
	int vcpu_fds[VMM_VCPUS_MAX];
	int kvm_fd;
	int vm_fd;
	struct vmferry_blob *kvm_spec; /* vmferry_kvm_describe(), made when first needed */

	pthread_mutex_t control; /* who posts words */
	_Atomic uint32_t word;
	_Atomic uint32_t acks; /* raised with each done; the poster sleeps on it */
	bool saving;	       /* SAVE was posted and not yet gathered; under control */
	bool booted;	       /* has a guest, loaded or arrived */

	_Atomic bool stop_claimed; /* who sets it writes stop_reason, then stopped */
	_Atomic bool stopped;
	_Atomic bool ready;
	int blackout_error; /* this and the next two: what the destination's closing() said */
	/* between a vCPU's last beat here and its first there, 0: it has none */
	uint64_t silence_ns[VMM_VCPUS_MAX];
	uint64_t peer_faults;
	char stop_reason[128];

	_Atomic uint64_t faults;
	_Atomic uint64_t scrubs;
	pthread_rwlock_t source_lock; /* readers are inside vmferry_source_ring_full() */
	struct vmferry_source *source;
	struct console console;
};

/* memory.c */

/*
 * Where @memory bytes lie in the guest: the same on every host. Fills address, size and slot;
 * returns how many.
 */
unsigned int memory_layout(uint64_t memory, struct vmferry_region regions[VMM_REGIONS_MAX]);
int memory_map(struct vmm *vmm);
void memory_unmap(struct vmm *vmm);

/* cpuid.c */

int cpuid_supported(int kvm_fd, struct kvm_cpuid2 **cpuid);
/* Makes @cpuid that of vCPU @index of @count. */
void cpuid_for_vcpu(struct kvm_cpuid2 *cpuid, unsigned int index, unsigned int count,
		    bool tsc_deadline);

/* ports.c */

void ports_io(struct vcpu *vcpu, uint64_t now);
void console_flush(struct console *console);

/* vcpu.c */

int vcpu_create(struct vcpu *vcpu, struct kvm_cpuid2 *cpuid);
int vcpu_start(struct vcpu *vcpu);
void vcpu_destroy(struct vcpu *vcpu);

/* Posts a command; under vmm->control. */
void vcpus_post(struct vmm *vmm, enum vcpu_command command);
/* Waits until all have carried out the last word. -ETIMEDOUT, and logs who is late. */
int vcpus_wait(struct vmm *vmm, uint64_t deadline);
/* Joins the threads, when all of them have carried out VCPU_QUIT. */
void vcpus_join(struct vmm *vmm);

/* The guest cannot go on: ends all vCPUs' runs. The first reason is kept. Any thread. */
__attribute__((format(printf, 2, 3))) void vmm_stop(struct vmm *vmm, const char *fmt, ...);

/* vmm.c */

/* The guest's description for vmferry_kvm_check(); pauses for a moment if it is not known yet. */
int vmm_kvm_spec(struct vmm *vmm, const struct vmferry_blob **spec);

#endif
