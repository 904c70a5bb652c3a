/* SPDX-License-Identifier: MIT */
/*
 * The migration layer: moves a running VM to another host and keeps the pause as short as the link
 * allows.
 *
 * The VMM describes its VM (struct vmferry_vm) and gives callbacks. At the source it starts a
 * vmferry_source, at the destination a vmferry_destination; each works in threads of its own and
 * tells by a file descriptor when it is done.
 *
 *   source:      SETUP -> CHECK -> PRECOPY -> SWITCHOVER -> COMMITTED -> DONE
 *                any before COMMITTED -> CANCELLED or FAILED, and the guest runs on here
 *   destination: LISTEN -> CHECK -> RECEIVE -> LOAD -> READY -> RUNNING -> DONE
 *                any before RUNNING -> FAILED, and the guest never runs here
 *
 * A connection that is lost in SWITCHOVER, before GO, leads back to PRECOPY, and from LOAD or READY
 * to RECEIVE: the guest runs on at the source until both are connected again.
 *
 * EXACTLY ONE RUNNER  Until the source says GO it may resume the guest; from then on it never does
 * by itself, and the destination runs the guest only on GO. If the answer to GO is lost the source
 * asks again over a new connection; if nobody answers it stays paused and the result is
 * INDETERMINATE.
 *
 * THREADS  Functions may be called from any thread unless they say otherwise; new, free and start
 * of one object from one thread at a time. Callbacks are called from the object's own control
 * thread, one at a time.
 */
#ifndef VMFERRY_MIGRATION_H
#define VMFERRY_MIGRATION_H

#include <vmferry/transport.h>
#include <vmferry/vmferry.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

/* ---- the VM ---------------------------------------------------------------------------------- */

#define VMFERRY_PAGE_SIZE   4096u
#define VMFERRY_REGIONS_MAX 64
#define VMFERRY_VCPUS_MAX   1024

/*
 * A piece of guest memory. Mapped shared from @fd (a memfd) at @fd_offset, or @fd is -1; with an
 * fd, holes in it are never read and cost nothing at the destination. At the destination it must
 * read as zeroes when handed over.
 */
struct vmferry_region {
	uint64_t address;   /* guest physical, a multiple of VMFERRY_PAGE_SIZE */
	uint64_t size;	    /* bytes, a multiple of VMFERRY_PAGE_SIZE */
	void *base;	    /* where it is mapped in this process */
	int fd;		    /* -1: none */
	uint64_t fd_offset; /* bytes */
	uint32_t slot;	    /* KVM memory slot */
};

enum vmferry_tracker {
	VMFERRY_TRACKER_AUTO, /* the best that the VM allows: ring, then log, then caller */
	/* KVM dirty ring; enabled before the vCPUs, see vmferry_kvm_enable_ring() */
	VMFERRY_TRACKER_RING,
	VMFERRY_TRACKER_LOG, /* KVM dirty log with manual protect; the ring must not be enabled */
	VMFERRY_TRACKER_CALLER, /* only what vmferry_source_mark_dirty() is told */
};

/*
 * A VM. The library copies the structure and the arrays; memory and fds stay the caller's and must
 * live as long as the object that they were given to.
 */
struct vmferry_vm {
	size_t size; /* sizeof(struct vmferry_vm) */
	const struct vmferry_region *regions;
	unsigned int region_count;
	int vm_fd;	     /* KVM VM, -1: none, only VMFERRY_TRACKER_CALLER works */
	const int *vcpu_fds; /* @vcpu_count of them */
	unsigned int vcpu_count;
	uint32_t ring_entries; /* entries of the dirty ring of each vCPU, 0: not enabled */
};

/* ---- source ---------------------------------------------------------------------------------- */

/*
 * What the source asks of its VMM. All callbacks return 0 or a negative errno, and an error before
 * the commit point ends the migration with the guest running on.
 */
struct vmferry_source_ops {
	size_t size; /* sizeof(struct vmferry_source_ops) */

	/* Describe the machine for the destination's check; opaque to the library. */
	int (*describe)(void *ctx, struct vmferry_blob *spec);

	/*
	 * Return when every vCPU has left KVM_RUN with nothing pending and no device writes memory
	 * any more. Besides the switchover, pause(), save() and resume() are called in a row in
	 * CHECK, twice, and now and then in PRECOPY: that rehearsal measures what they cost, for
	 * the prediction, and its state is loaded at the destination for trial.
	 */
	int (*pause)(void *ctx);

	/*
	 * Let the guest run on. Called only after pause(), also after one that failed, and never
	 * after GO.
	 */
	int (*resume)(void *ctx);

	/*
	 * Append the state of vCPUs and devices. The VM is paused. If the connection is lost after
	 * that, it is resumed, and all is done again.
	 */
	int (*save)(void *ctx, struct vmferry_blob *state);

	/*
	 * The guest runs at the destination; @words are what its VMM's closing() said. May be NULL.
	 * The VM stays paused here and is the caller's to destroy.
	 */
	void (*committed)(void *ctx, const void *words, size_t length);
};

enum vmferry_phase {
	VMFERRY_SETUP,
	VMFERRY_CHECK,
	VMFERRY_PRECOPY,
	VMFERRY_SWITCHOVER,
	VMFERRY_COMMITTED,
	VMFERRY_LISTEN,
	VMFERRY_RECEIVE,
	VMFERRY_LOAD,
	VMFERRY_READY,
	VMFERRY_RUNNING,
	VMFERRY_DONE,
	VMFERRY_CANCELLED,
	VMFERRY_FAILED,
	VMFERRY_INDETERMINATE,
};

/* "setup", "check", ...; static storage; NULL for a number that is no phase. */
const char *vmferry_phase_name(enum vmferry_phase phase);

typedef void (*vmferry_phase_fn)(void *ctx, enum vmferry_phase phase);

struct vmferry_source_options {
	size_t size; /* sizeof(struct vmferry_source_options) */
	struct vmferry_transport_options transport;
	enum vmferry_tracker tracker;
	/* switch over when the predicted blackout is no longer; 0: the default */
	uint64_t downtime_ns;
	uint64_t bandwidth; /* bytes a second over all lanes, 0: no limit */
	/* give up, the guest running on, when not committed by then; 0: the default */
	uint64_t timeout_ns;
	bool verify; /* compare all memory of both sides as it was when the guest was paused */
	vmferry_phase_fn
		on_phase; /* called in the control thread when a phase begins; may be NULL */
	/*
	 * When lanes or the control connection are lost between CHECK and GO, the source tries to
	 * connect again for as long as this, and goes on where it was: the guest runs meanwhile,
	 * and only pages that may not have arrived are sent again. An hour at most. 0: the
	 * default; VMFERRY_RECONNECT_NEVER: the migration fails then.
	 */
	uint64_t reconnect_ns;
};

#define VMFERRY_RECONNECT_DEFAULT_NS 10000000000ull /* 10 s */
#define VMFERRY_RECONNECT_NEVER	     UINT64_MAX
#define VMFERRY_DOWNTIME_DEFAULT_NS  10000000ull     /* 10 ms */
#define VMFERRY_TIMEOUT_DEFAULT_NS   300000000000ull /* 5 min */

struct vmferry_source;

/*
 * @uri names the destination. @ctx is handed to all callbacks. @options NULL: the default of each.
 * Nothing is touched yet. A region's fd must be the file that is mapped, shared, at its base.
 * -EINVAL with the reason logged for a bad URI, region table or option.
 */
int vmferry_source_new(const struct vmferry_vm *vm, const struct vmferry_source_ops *ops, void *ctx,
		       const char *uri, const struct vmferry_source_options *options,
		       struct vmferry_source **source);

/* Begins to migrate, in threads of its own. Once. */
int vmferry_source_start(struct vmferry_source *source);

/* Readable when the migration is over, however it ended. Owned by the source. */
int vmferry_source_fd(const struct vmferry_source *source);

/*
 * Waits until it is over: 0 the guest runs at the destination; -ECANCELED and all other errors: it
 * runs on here; -EINPROGRESS: indeterminate, the guest is paused here and may run there; -EILSEQ:
 * it runs at the destination but --verify found a difference. -ETIMEDOUT at the deadline says
 * nothing of the migration: look at vmferry_source_phase() to tell it from a migration that ended
 * by its own timeout, which is -ETIME.
 */
int vmferry_source_wait(struct vmferry_source *source, uint64_t deadline);

/*
 * Asks to stop. Before the commit point the guest runs on within 100 ms; -EALREADY when GO was said
 * or it is over.
 */
int vmferry_source_cancel(struct vmferry_source *source);

enum vmferry_phase vmferry_source_phase(const struct vmferry_source *source);

/*
 * Tell that the VMM itself, a device or vhost has written guest memory. It costs an atomic OR for
 * each 64 pages, whether a migration runs or not. Call it after the write. -ERANGE if no region has
 * these addresses.
 */
int vmferry_source_mark_dirty(struct vmferry_source *source, uint64_t address, uint64_t length);

/*
 * Gives guest memory back to the system: what the VMM's balloon, free page reporting or unplugging
 * must call instead of madvise(2) or fallocate(2) as long as the source exists. The pages read as
 * zeroes then, here and later at the destination. -EBUSY, nothing is done, while they are
 * registered for RDMA, see vmferry_discard(): leave them to the guest, or ask again when the
 * migration is over. -ERANGE if no region holds all of the range; -EINVAL if it is empty or not of
 * whole pages. Any thread; it may take as long as pinning a chunk.
 */
int vmferry_source_discard(struct vmferry_source *source, uint64_t address, uint64_t length);

/*
 * A vCPU thread calls this on KVM_EXIT_DIRTY_RING_FULL: it waits (at most 10 ms) until the ring was
 * harvested. Then enter the guest again; should the ring still be full, KVM exits again.
 */
void vmferry_source_ring_full(struct vmferry_source *source);

struct vmferry_progress {
	enum vmferry_phase phase;
	uint64_t elapsed_ns;
	uint64_t bytes_total;	  /* what the guest's memory holds */
	uint64_t bytes_sent;	  /* payload so far, pages sent twice counted twice */
	uint64_t bytes_remaining; /* dirty or not yet sent */
	uint64_t rate;		  /* bytes a second, placed */
	uint64_t dirty_rate;	  /* bytes a second */
	uint64_t predicted_ns;	  /* blackout, if it switched over now; 0: not known yet */
	unsigned int round;
	unsigned int losses; /* how often the connection was lost */
	bool reconnecting;   /* it is lost now */
};

void vmferry_source_progress(const struct vmferry_source *source,
			     struct vmferry_progress *progress);

/*
 * The report as a JSON object, malloc'ed, the caller frees it. -EBUSY while the migration runs.
 */
int vmferry_source_report(const struct vmferry_source *source, char **json);

/* Cancels if needed, joins the threads, frees, sets *@source to NULL. Accepts a pointer to NULL. */
void vmferry_source_free(struct vmferry_source **source);

/* ---- destination ----------------------------------------------------------------------------- */

struct vmferry_destination_ops {
	size_t size; /* sizeof(struct vmferry_destination_ops) */

	/*
	 * Compare the description that the source's describe() made with this host and add every
	 * mismatch. Nothing is built yet.
	 */
	int (*check)(void *ctx, const void *spec, size_t length, struct vmferry_problems *problems);

	/*
	 * Build the VM, with all vCPUs and devices, so that loading state is all that remains, and
	 * fill @vm. What @vm points to must stay until abandon() or the end of the object.
	 */
	int (*prepare)(void *ctx, const void *spec, size_t length, struct vmferry_vm *vm);

	/*
	 * Load the state that the source's save() made. Called several times: for trial, when
	 * memory may not be in place yet, and when all of it is; again if the connection was lost
	 * before GO. Only the last one counts.
	 */
	int (*load)(void *ctx, const void *state, size_t length);

	/*
	 * The VM is owned here now: run it. Must return at once. An error here cannot be undone and
	 * is reported.
	 */
	int (*run)(void *ctx);

	/*
	 * The migration failed before run(): destroy what prepare() built. Called once for each
	 * prepare(), including one that returned an error.
	 */
	void (*abandon)(void *ctx);

	/*
	 * Append words for the source's committed(), at most 64 KiB; may wait up to a second. May
	 * be NULL.
	 */
	int (*closing)(void *ctx, struct vmferry_blob *words);
};

struct vmferry_destination_options {
	size_t size; /* sizeof(struct vmferry_destination_options) */
	struct vmferry_transport_options transport;
	vmferry_phase_fn
		on_phase; /* called in the control thread when a phase begins; may be NULL */
};

struct vmferry_destination;

/*
 * Listens at @uri at once, so that a bad or used address is reported here. @options NULL: the
 * default of each.
 */
int vmferry_destination_new(const struct vmferry_destination_ops *ops, void *ctx, const char *uri,
			    const struct vmferry_destination_options *options,
			    struct vmferry_destination **destination);

/* The URI to give to the source, with the real port. Owned by the destination. */
const char *vmferry_destination_uri(const struct vmferry_destination *destination);

/*
 * Begins to wait for a source. A source that fails its check or dies before the commit point is
 * logged and the wait goes on: only a guest that runs, or vmferry_destination_cancel(), ends it.
 */
int vmferry_destination_start(struct vmferry_destination *destination);

/* Readable when the guest runs here and the source has been told, or after a cancel. */
int vmferry_destination_fd(const struct vmferry_destination *destination);

/*
 * 0: the guest runs here. -ECANCELED. -ETIMEDOUT at the deadline. -EIO: ownership was taken but
 * run() failed.
 */
int vmferry_destination_wait(struct vmferry_destination *destination, uint64_t deadline);

/*
 * As vmferry_source_discard(), for the guest that runs here: it does as soon as run() was called,
 * but its memory is taken from the device only a moment later. -ERANGE while there is no VM here.
 */
int vmferry_destination_discard(struct vmferry_destination *destination, uint64_t address,
				uint64_t length);

int vmferry_destination_cancel(struct vmferry_destination *destination);

enum vmferry_phase vmferry_destination_phase(const struct vmferry_destination *destination);

/*
 * The last attempt's report as a JSON object, malloc'ed, the caller frees it. -EBUSY while one
 * runs. What this side does not know is null, as "placed_bytes" is over RDMA.
 */
int vmferry_destination_report(const struct vmferry_destination *destination, char **json);

/*
 * Ends the threads, frees, sets *@destination to NULL. Until then a source whose answer was lost is
 * told that the guest runs here; keep the object for as long as that matters.
 */
void vmferry_destination_free(struct vmferry_destination **destination);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
