/* SPDX-License-Identifier: MIT */
/*
 * A second mapping of QEMU's shared memory, in this process; and what was written to either kind of
 * memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "placement_parts.h"

#define PATH_BYTES	 64
#define STAT_BLOCK_BYTES 512U
#define PAGEMAP_ENTRIES	 8192U
#define PAGEMAP_PRESENT	 (UINT64_C(1) << 63)
#define PAGEMAP_SWAPPED	 (UINT64_C(1) << 62)

/*
 * Opens it by a descriptor of QEMU's own, which needs what reading its memory needs. Shared memory
 * without a file has none: it is to be had by the mapping itself, with CAP_SYS_ADMIN or
 * CAP_CHECKPOINT_RESTORE.
 */
static int open_file(pid_t pid, const struct process_mapping *mapping)
{
	char path[PATH_BYTES];
	struct stat file;
	int fd;

	if (mapping->file >= 0)
		snprintf(path, sizeof(path), "/proc/%d/fd/%d", pid, mapping->file);
	else
		snprintf(path, sizeof(path), "/proc/%d/map_files/%" PRIx64 "-%" PRIx64, pid,
			 mapping->address, mapping->address + mapping->bytes);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	/*
	 * The descriptor may have been closed and its number be another file's since it was looked
	 * at.
	 */
	if (fstat(fd, &file) == 0 && file.st_ino == mapping->inode && file.st_dev == mapping->dev)
		return fd;
	close(fd);
	return -ESTALE;
}

/* Why the open file is not to be mapped; NULL: it is. */
static const char *unmappable(const struct placement *placement)
{
	struct statfs system;
	struct stat file;
	uint64_t lacking;

	if (fstat(placement->file, &file) < 0 || fstatfs(placement->file, &system) < 0)
		return "its file cannot be examined";
	if (system.f_type == HUGETLBFS_MAGIC || system.f_type == TMPFS_MAGIC) {
		if ((uint64_t)file.st_size < placement->file_offset + placement->mapped_bytes)
			return "its file is shorter than the block";
	} else {
		/*
		 * The kernel does not pin such pages for RDMA, which its writeback would not see.
		 */
		return "its file is on a disk";
	}
	lacking = (uint64_t)file.st_size - (uint64_t)file.st_blocks * STAT_BLOCK_BYTES;
	if ((uint64_t)file.st_blocks * STAT_BLOCK_BYTES < (uint64_t)file.st_size &&
	    system.f_type == TMPFS_MAGIC && system.f_blocks != 0 &&
	    system.f_bavail < lacking / (uint64_t)system.f_bsize)
		return "its tmpfs has less room than the block needs: remount it with a larger "
		       "size";
	return NULL;
}

void placement_map(const struct process_mapping *mapping, bool map, struct placement *placement)
{
	const char *why;
	void *base;
	int file;

	placement->page_bytes = mapping->page_bytes;
	file = open_file(placement->pid, mapping);
	if (file < 0) {
		snprintf(placement->reason, sizeof(placement->reason),
			 "its file cannot be opened: %s", strerror(-file));
		return;
	}
	placement->file = file;
	placement->file_offset = mapping->offset + placement->host_address - mapping->address;
	placement->mapped_bytes = (placement->bytes + mapping->page_bytes - 1) /
				  mapping->page_bytes * mapping->page_bytes;
	if (!map)
		return;
	why = unmappable(placement);
	if (why != NULL) {
		snprintf(placement->reason, sizeof(placement->reason), "%s", why);
		return;
	}
	base = mmap(NULL, placement->mapped_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file,
		    (off_t)placement->file_offset);
	if (base == MAP_FAILED) {
		snprintf(placement->reason, sizeof(placement->reason),
			 "its file cannot be mapped: %s", strerror(errno));
		return;
	}
	/* Says nothing with hugetlbfs, and is refused where the kernel has no huge pages. */
	madvise(base, placement->mapped_bytes, MADV_HUGEPAGE);
	madvise(base, placement->mapped_bytes, MADV_DONTFORK);
	placement->base = base;
	placement->kind = PLACEMENT_MAPPED;
}

void placement_release(struct placement *placements, unsigned int count)
{
	for (unsigned int i = 0; i < count; i++) {
		if (placements[i].base != NULL)
			munmap(placements[i].base, placements[i].mapped_bytes);
		if (placements[i].file >= 0)
			close(placements[i].file);
		placements[i].base = NULL;
		placements[i].file = -1;
		placements[i].kind = PLACEMENT_FORWARD;
	}
}

/* ---- what was written ---- */

struct extents {
	struct placement_extent *list;
	unsigned int max;
	unsigned int count;
};

/* Adds what follows, or continues, the last one. */
static int add_extent(struct extents *extents, uint64_t offset, uint64_t bytes)
{
	struct placement_extent *last = &extents->list[extents->count - 1];

	if (extents->count > 0 && last->offset + last->bytes == offset) {
		last->bytes += bytes;
		return 0;
	}
	if (extents->count == extents->max)
		return -E2BIG;
	extents->list[extents->count++] = (struct placement_extent){offset, bytes};
	return 0;
}

/* The kernel knows only of all of a hugetlbfs file how much of it is there. */
static int huge_extents(const struct placement *placement, struct extents *extents)
{
	struct stat file;

	if (fstat(placement->file, &file) < 0)
		return -errno;
	return file.st_blocks == 0 ? 0 : add_extent(extents, 0, placement->bytes);
}

static int file_extents(const struct placement *placement, struct extents *extents)
{
	const off_t start = (off_t)placement->file_offset;
	const off_t end = start + (off_t)placement->bytes;
	off_t hole;

	for (off_t data = start; data < end; data = hole) {
		int status;

		data = lseek(placement->file, data, SEEK_DATA);
		if (data < 0)
			return errno == ENXIO ? 0 : -errno;
		if (data >= end)
			return 0;
		hole = lseek(placement->file, data, SEEK_HOLE);
		if (hole < 0)
			return -errno;
		hole = hole < end ? hole : end;
		status = add_extent(extents, (uint64_t)(data - start), (uint64_t)(hole - data));
		if (status < 0)
			return status;
	}
	return 0;
}

static int scan_entries(const uint64_t *entries, size_t count, uint64_t offset, uint64_t page_bytes,
			struct extents *extents)
{
	for (size_t i = 0; i < count; i++) {
		int status;

		if ((entries[i] & (PAGEMAP_PRESENT | PAGEMAP_SWAPPED)) == 0)
			continue;
		status = add_extent(extents, offset + i * page_bytes, page_bytes);
		if (status < 0)
			return status;
	}
	return 0;
}

/* Private memory without a file: what is neither present nor in the swap was never written. */
static int private_extents(const struct placement *placement, struct extents *extents)
{
	const uint64_t page_bytes = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t entries[PAGEMAP_ENTRIES];
	char path[PATH_BYTES];
	uint64_t offset = 0;
	int status = 0;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", placement->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	while (status == 0 && offset < placement->bytes) {
		const uint64_t left = (placement->bytes - offset) / page_bytes;
		const size_t want = left < PAGEMAP_ENTRIES ? left : PAGEMAP_ENTRIES;
		const ssize_t got = pread(fd, entries, want * sizeof(*entries),
					  (off_t)((placement->host_address + offset) / page_bytes *
						  sizeof(*entries)));

		if (got < (ssize_t)sizeof(*entries)) {
			status = got < 0 ? -errno : -ESRCH;
			break;
		}
		status = scan_entries(entries, (size_t)got / sizeof(*entries), offset, page_bytes,
				      extents);
		offset += (uint64_t)got / sizeof(*entries) * page_bytes;
	}
	close(fd);
	return status;
}

int placement_extents(const struct placement *placement, struct placement_extent *list,
		      unsigned int max, unsigned int *count)
{
	struct extents extents = {.list = list, .max = max};
	int status = -EOPNOTSUPP;

	if (placement->kind == PLACEMENT_FORWARD)
		return -EINVAL;
	if (placement->file >= 0 && placement->hugetlb)
		status = huge_extents(placement, &extents);
	else if (placement->file >= 0)
		status = file_extents(placement, &extents);
	else if (placement->anonymous)
		status = private_extents(placement, &extents);
	if (status == 0)
		*count = extents.count;
	return status;
}
