/* SPDX-License-Identifier: MIT */
/*
 * Mapping one vCPU's dirty ring, and finding the place where a reader who comes later has to begin.
 */
#include "ring.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/log.h"

/* A bit that KVM does not use: it sets the flags anew whenever a vCPU enters or leaves KVM_RUN. */
#define RUN_SEEN     0x8000u
#define RUN_VANISHES 3

static size_t bytes_of(uint32_t entries)
{
	return (size_t)entries * sizeof(struct kvm_dirty_gfn);
}

/*
 * A read past the kernel's ring is SIGBUS and a ring longer than we know would be read at the wrong
 * places, so both ends are tried with populate, which reports such a page as EFAULT.
 */
static int check_length(const struct ring *r, size_t page)
{
	char *start = (char *)r->gfns;
	size_t bytes = bytes_of(r->entries);

	if (madvise(start, bytes, MADV_POPULATE_READ) == 0 &&
	    madvise(start + bytes, page, MADV_POPULATE_READ) < 0 && errno == EFAULT)
		return 0;
	log_error("dirty ring: the vcpu's ring has not %u entries: it would be misread: set "
		  "ring_entries to what vmferry_kvm_enable_ring() returned",
		  r->entries);
	return -EINVAL;
}

static int map_run(struct ring *r, int vcpu_fd, size_t page)
{
	void *mapped = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
	int error = errno;

	if (mapped == MAP_FAILED) {
		log_error("dirty ring: map struct kvm_run of vcpu fd %d: %s: give the fds of the "
			  "vCPUs",
			  vcpu_fd, strerror(error));
		return -error;
	}
	r->run = mapped;
	return 0;
}

int ring_map(struct ring *r, int vcpu_fd, uint32_t entries)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	void *mapped;
	int rc;

	/* One page more than the ring, see check_length(). */
	mapped = mmap(NULL, bytes_of(entries) + page, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd,
		      (off_t)(page * KVM_DIRTY_LOG_PAGE_OFFSET));
	if (mapped == MAP_FAILED) {
		rc = -errno;
		log_error("dirty ring: map the ring of vcpu fd %d: %s: give the fds of the vCPUs",
			  vcpu_fd, strerror(-rc));
		return rc;
	}
	*r = (struct ring){.gfns = mapped, .entries = entries, .lost = true};
	rc = check_length(r, page);
	if (rc == 0)
		rc = map_run(r, vcpu_fd, page);
	if (rc < 0)
		ring_unmap(r);
	return rc;
}

void ring_unmap(struct ring *r)
{
	if (r->run != NULL) {
		__atomic_fetch_and(&r->run->flags, (uint16_t)~RUN_SEEN, __ATOMIC_SEQ_CST);
		munmap(r->run, (size_t)sysconf(_SC_PAGESIZE));
	}
	r->run = NULL;
	if (r->gfns != NULL)
		munmap(r->gfns, bytes_of(r->entries) + (size_t)sysconf(_SC_PAGESIZE));
	r->gfns = NULL;
}

bool ring_locate(struct ring *r)
{
	uint32_t mask = r->entries - 1;
	uint32_t at = 0;

	while (at < r->entries && ring_flags(r, at) != KVM_DIRTY_GFN_F_DIRTY)
		at++;
	if (at == r->entries)
		return false;
	/*
	 * What was pushed while we looked may have put older entries behind us: dirty entries have
	 * no gaps, so go back to the first. The kernel keeps a reserve of free entries, hence there
	 * is one.
	 */
	for (uint32_t n = 0; n < mask; n++) {
		if (ring_flags(r, (at - 1) & mask) != KVM_DIRTY_GFN_F_DIRTY)
			break;
		at = (at - 1) & mask;
	}
	r->next = at;
	r->located = true;
	r->entered = 0;
	return true;
}

void ring_reclaim(struct ring *r)
{
	for (uint32_t i = 0; i < r->entries; i++)
		if ((ring_flags(r, i) & KVM_DIRTY_GFN_F_RESET) != 0)
			__atomic_store_n(&r->gfns[i].flags, (uint32_t)KVM_DIRTY_GFN_F_DIRTY,
					 __ATOMIC_RELEASE);
}

bool ring_has_hole(const struct ring *r)
{
	/* In this order: KVM pushes them in that order. */
	return r->located && ring_flags(r, (r->next + 1) & (r->entries - 1)) != 0 &&
	       ring_flags(r, r->next) == 0;
}

bool ring_reported_full(const struct ring *r)
{
	return __atomic_load_n(&r->run->exit_reason, __ATOMIC_SEQ_CST) == KVM_EXIT_DIRTY_RING_FULL;
}

/*
 * Our bit vanishes when a KVM_RUN begins and when it ends. The first time may be the end of one
 * that looked at the ring before we came, the second the beginning of the next; so by the third one
 * has both begun and ended.
 */
bool ring_seen_full(struct ring *r)
{
	bool full;

	if (r->entered > 0 && (__atomic_load_n(&r->run->flags, __ATOMIC_SEQ_CST) & RUN_SEEN) != 0)
		return false;
	full = ring_reported_full(r);
	if (!full || r->entered == RUN_VANISHES) {
		r->entered = 0;
		return full;
	}
	r->entered++;
	__atomic_fetch_or(&r->run->flags, (uint16_t)RUN_SEEN, __ATOMIC_SEQ_CST);
	return false;
}
