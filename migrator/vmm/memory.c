/* SPDX-License-Identifier: MIT */
/*
 * Guest memory: one memory file for each region, mapped shared and given to KVM as a slot. Fresh
 * ones are holes, so memory that the guest never touches costs nothing and reads as zeroes.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <numa.h>
#include <numaif.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <unistd.h>

#include "internal.h"
#include "log.h"

unsigned int memory_layout(uint64_t memory, struct vmferry_region regions[VMM_REGIONS_MAX])
{
	uint64_t low = memory < LOW_END ? memory : LOW_END;

	memset(regions, 0, VMM_REGIONS_MAX * sizeof(*regions));
	for (uint32_t i = 0; i < VMM_REGIONS_MAX; i++) {
		regions[i].fd = -1;
		regions[i].slot = i;
	}
	regions[0].size = low;
	if (memory == low)
		return 1;
	regions[1].address = HIGH_START;
	regions[1].size = memory - low;
	return 2;
}

/* Address space aligned to huge pages: without that neither the kernel nor KVM can map any. */
static void *reserve_aligned(uint64_t size)
{
	size_t whole = size + HUGE_PAGE_BYTES;
	char *p = mmap(NULL, whole, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	size_t head;

	if (p == MAP_FAILED)
		return NULL;
	head = (HUGE_PAGE_BYTES - ((uintptr_t)p & (HUGE_PAGE_BYTES - 1))) & (HUGE_PAGE_BYTES - 1);
	if (head)
		munmap(p, head);
	if (head < HUGE_PAGE_BYTES)
		munmap(p + head + size, HUGE_PAGE_BYTES - head);
	return p + head;
}

/*
 * A file on a tmpfs of our own that has huge pages where madvise() asks for them. For a memfd that
 * is up to the administrator, in transparent_hugepage/shmem_enabled, and "never" by default: then
 * the first touch of memory costs three times as much. Needs CAP_SYS_ADMIN; a negative errno where
 * it cannot be had. The mount is never attached, so nobody else sees it and it goes with the file.
 */
static int huge_tmpfs_file(void)
{
	int context = fsopen("tmpfs", FSOPEN_CLOEXEC);
	int mount = -1;
	int fd;

	if (context < 0)
		return -errno;
	/*
	 * A size of 0 is no limit, as memfds have none; the default is half of the host's memory.
	 */
	if (fsconfig(context, FSCONFIG_SET_STRING, "huge", "advise", 0) == 0 &&
	    fsconfig(context, FSCONFIG_SET_STRING, "size", "0", 0) == 0 &&
	    fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0)
		mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
	fd = mount < 0 ? -1 : openat(mount, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		fd = -errno;
	if (mount >= 0)
		close(mount);
	close(context);
	return fd;
}

static int region_file(const struct vmm *vmm)
{
	bool huge = vmm->config.pages == VMM_PAGES_HUGE;
	int fd = vmm->config.pages == VMM_PAGES_THP ? huge_tmpfs_file() : -1;

	return fd >= 0 ? fd
		       : memfd_create("guest",
				      MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
}

static int region_open(const struct vmm *vmm, struct vmferry_region *r)
{
	bool huge = vmm->config.pages == VMM_PAGES_HUGE;
	int err;

	r->fd = region_file(vmm);
	if (r->fd < 0) {
		err = -errno;
		vmm_error("memory %u: cannot make a memfd: %s%s", r->slot, strerror(-err),
			  huge ? ": the kernel has no 2 MiB huge pages: run without them" : "");
		return err;
	}
	if (ftruncate(r->fd, (off_t)r->size) < 0) {
		err = -errno;
		vmm_error("memory %u: cannot size the memfd: %s", r->slot, strerror(-err));
		return err;
	}
	return 0;
}

static int region_mmap(const struct vmm *vmm, struct vmferry_region *r)
{
	void *base = reserve_aligned(r->size);
	int err;

	if (!base) {
		err = -errno;
		vmm_error("memory %u: no address space for %llu MiB: %s", r->slot,
			  (unsigned long long)(r->size / MIB), strerror(-err));
		return err;
	}
	if (mmap(base, r->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, r->fd, 0) ==
	    MAP_FAILED) {
		err = -errno;
		vmm_error("memory %u: cannot map %llu MiB: %s%s", r->slot,
			  (unsigned long long)(r->size / MIB), strerror(-err),
			  vmm->config.pages == VMM_PAGES_HUGE
				  ? ": raise /proc/sys/vm/nr_hugepages or run without huge pages"
				  : "");
		munmap(base, r->size);
		return err;
	}
	r->base = base;
	return 0;
}

/* Only advice: what cannot be had is not an error. */
static void region_advise(const struct vmm *vmm, const struct vmferry_region *r)
{
	if (vmm->config.pages == VMM_PAGES_THP && madvise(r->base, r->size, MADV_HUGEPAGE) < 0)
		vmm_info("memory %u: no transparent huge pages: %s", r->slot, strerror(errno));
	if (vmm->config.pages == VMM_PAGES_4K && madvise(r->base, r->size, MADV_NOHUGEPAGE) < 0)
		vmm_info("memory %u: cannot rule out huge pages: %s", r->slot, strerror(errno));
}

static int region_bind(const struct vmferry_region *r, int node)
{
	struct bitmask *nodes;
	long ret;
	int err;

	if (numa_available() < 0 || node > numa_max_node()) {
		vmm_error("memory %u: no NUMA node %d here: leave the node out", r->slot, node);
		return -EINVAL;
	}
	nodes = numa_allocate_nodemask();
	if (!nodes)
		return -ENOMEM;
	numa_bitmask_setbit(nodes, (unsigned int)node);
	ret = mbind(r->base, r->size, MPOL_BIND, nodes->maskp, nodes->size + 1, 0);
	err = ret < 0 ? -errno : 0;
	numa_free_nodemask(nodes);
	if (err)
		vmm_error("memory %u: cannot bind to NUMA node %d: %s", r->slot, node,
			  strerror(-err));
	return err;
}

/* A failure only means that the guest's first touch of each page is slow, as it is without. */
static void region_populate(const struct vmferry_region *r)
{
	if (madvise(r->base, r->size, MADV_POPULATE_WRITE) < 0)
		vmm_warn("memory %u: cannot populate %llu MiB: %s: give the guest less memory",
			 r->slot, (unsigned long long)(r->size / MIB), strerror(errno));
}

static int region_slot(const struct vmm *vmm, const struct vmferry_region *r)
{
	struct kvm_userspace_memory_region slot = {
		.slot = r->slot,
		.guest_phys_addr = r->address,
		.memory_size = r->size,
		.userspace_addr = (uintptr_t)r->base,
	};
	int err;

	if (ioctl(vmm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) == 0)
		return 0;
	err = -errno;
	vmm_error("memory %u: kvm does not take the slot: %s", r->slot, strerror(-err));
	return err;
}

static int region_map(const struct vmm *vmm, struct vmferry_region *r)
{
	int err = region_open(vmm, r);

	if (!err)
		err = region_mmap(vmm, r);
	if (err)
		return err;
	region_advise(vmm, r);
	if (vmm->config.numa_node >= 0) {
		err = region_bind(r, vmm->config.numa_node);
		if (err)
			return err;
	}
	if (vmm->config.prealloc)
		region_populate(r);
	return region_slot(vmm, r);
}

int memory_map(struct vmm *vmm)
{
	vmm->region_count = memory_layout(vmm->config.memory, vmm->regions);
	for (unsigned int i = 0; i < vmm->region_count; i++) {
		int err = region_map(vmm, &vmm->regions[i]);

		if (err)
			return err;
	}
	return 0;
}

void memory_unmap(struct vmm *vmm)
{
	for (unsigned int i = 0; i < vmm->region_count; i++) {
		struct vmferry_region *r = &vmm->regions[i];

		if (r->base)
			munmap(r->base, r->size);
		if (r->fd >= 0)
			close(r->fd);
	}
	vmm->region_count = 0;
}
