/* SPDX-License-Identifier: MIT */
/*
 * Where the blocks of a migration stream are in the QEMU that receives them, and the ways to their
 * memory.
 *
 * MAPPED   The block is a file (memfd, tmpfs, hugetlbfs) that QEMU maps shared, and so does this
 *          process: a page that is written here, by the CPU or by a NIC, is the guest's.
 * PROCESS  The block is private memory of QEMU; pages are copied to it by process_vm_writev(2).
 * FORWARD  The pages stay in the stream and QEMU places them itself.
 *
 * A block is matched only when there is one possibility. A tie is FORWARD, with the reason.
 */
#ifndef QEMU_PLACEMENT_H
#define QEMU_PLACEMENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define PLACEMENT_NAME_MAX   256
#define PLACEMENT_REASON_MAX 160
#define PLACEMENT_PAGES_MAX  512 /* of one placement_write() */

struct qemu_process;
struct qmp;

enum placement_kind { PLACEMENT_FORWARD, PLACEMENT_PROCESS, PLACEMENT_MAPPED };

/* AUTO takes the best that each block allows; MAPPED and PROCESS allow only that, or FORWARD. */
enum placement_wish {
	PLACEMENT_WISH_AUTO,
	PLACEMENT_WISH_MAPPED,
	PLACEMENT_WISH_PROCESS,
	PLACEMENT_WISH_FORWARD
};

/* A block of the stream's MEM_SIZE list: its name and its used length. */
struct placement_block {
	char name[PLACEMENT_NAME_MAX];
	uint64_t bytes;
};

struct placement {
	char name[PLACEMENT_NAME_MAX];
	uint64_t bytes;
	enum placement_kind kind;
	char reason[PLACEMENT_REASON_MAX]; /* why it is not MAPPED; "": it is */
	uint64_t host_address;		   /* in QEMU; 0 if not found */
	pid_t pid;
	bool shared;	/* mapped shared by QEMU */
	bool anonymous; /* private memory without a file */
	bool hugetlb;
	bool pristine;	      /* nothing was ever written to it: all of it reads as zeroes */
	bool hugepages;	      /* hugetlb, or transparent huge pages are to be had */
	bool small_pages;     /* neither; of a tmpfs with a path that is not known */
	uint64_t page_bytes;  /* of hugetlb, else the host's */
	void *base;	      /* MAPPED: where this process maps it, else NULL */
	size_t mapped_bytes;  /* what is mapped there: @bytes, rounded up to page_bytes */
	int file;	      /* open if the memory is shared, else -1 */
	uint64_t file_offset; /* of the block's first byte in it */
};

/* An address in QEMU, for process_vm_writev(2): it means nothing in this process. */
static inline void *placement_pointer(const struct placement *placement, uint64_t offset)
{
	/* NOLINTNEXTLINE(performance-no-int-to-ptr) */
	return (void *)(uintptr_t)(placement->host_address + offset);
}

/* "mapped", "process", "forward". */
const char *placement_kind_name(enum placement_kind kind);

/*
 * Finds each of the @count @blocks in @process and maps what can be mapped. @qmp NULL: by /proc
 * alone. No block's failure is an error: it is FORWARD, with the reason. Small blocks and those
 * that belong to devices or firmware are FORWARD. Negative errno only when nothing at all can be
 * said. The caller releases @out.
 */
int placement_find(const struct qemu_process *process, struct qmp *qmp, enum placement_wish wish,
		   const struct placement_block *blocks, unsigned int count, struct placement *out);

/* Unmaps and closes; what is left of each is FORWARD. */
void placement_release(struct placement *placements, unsigned int count);

struct placement_extent {
	uint64_t offset;
	uint64_t bytes;
};

/*
 * The extents of the block that may hold something other than zeroes, in order. To be asked before
 * anything is written or populated. -E2BIG: more than @max; and on any other error, take all of it
 * as written.
 */
int placement_extents(const struct placement *placement, struct placement_extent *list,
		      unsigned int max, unsigned int *count);

/*
 * Threads that make the pages of MAPPED and PROCESS blocks present before they are written to; no
 * content changes. They do what placement_populate_ahead() asks for, in its order, and nothing
 * else: memory that nobody writes to stays without pages. Purely an acceleration: failures are
 * logged once, as warnings. @placements must outlive it and stay unreleased.
 */
struct populate;

int placement_populate_start(const struct placement *placements, unsigned int count,
			     unsigned int threads, struct populate **populate);

/*
 * Pages from @offset to @offset + @bytes of a block will probably be written soon. What was asked
 * for before is left out, what leaves the block, too. Never waits: where there is too much to do it
 * forgets. Any thread.
 */
void placement_populate_ahead(struct populate *populate, unsigned int block, uint64_t offset,
			      uint64_t bytes);

/* Whether all that was asked for is done; @bytes (may be NULL) that are. Any thread. */
bool placement_populate_done(struct populate *populate, uint64_t *bytes);

/* Cancels what is left, within some milliseconds. Accepts a pointer to NULL. */
void placement_populate_stop(struct populate **populate);

struct placement_page {
	uint64_t offset; /* in the block */
	const void *data;
	size_t bytes; /* neighbouring pages may be one */
};

/*
 * Copies pages to a placed block, PROCESS or MAPPED. All or an error: -ESRCH when QEMU is gone,
 * -EPERM, -EFAULT, and -ERANGE for an offset outside of the block. At most PLACEMENT_PAGES_MAX. Any
 * thread, several at once for different pages.
 */
int placement_write(const struct placement *placement, const struct placement_page *pages,
		    unsigned int count);

#endif
