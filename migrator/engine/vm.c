/* SPDX-License-Identifier: MIT */
#include "vm.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "common/log.h"

static int bad_region(const struct vmferry_region *r, const char *why)
{
	log_error("region 0x%llx of %llu bytes: %s", (unsigned long long)r->address,
		  (unsigned long long)r->size, why);
	return -EINVAL;
}

struct mapping {
	uint64_t inode;
	uint64_t offset; /* of the address in the file */
	bool shared;
};

/* What is mapped at an address of this process: 0, or -ENOENT. */
static int find_mapping(const void *address, struct mapping *mapping)
{
	FILE *maps = fopen("/proc/self/maps", "re");
	unsigned long long begin, end, offset, inode;
	char access[5];
	char *line = NULL;
	size_t room = 0;
	int r = -ENOENT;

	if (maps == NULL)
		return -errno;
	while (r < 0 && getline(&line, &room, maps) > 0) {
		if (sscanf(line, "%llx-%llx %4s %llx %*s %llu", &begin, &end, access, &offset,
			   &inode) != 5 ||
		    (uintptr_t)address < begin || (uintptr_t)address >= end)
			continue;
		*mapping = (struct mapping){
			.inode = inode,
			.offset = offset + ((uintptr_t)address - begin),
			.shared = access[3] == 's',
		};
		r = 0;
	}
	free(line);
	fclose(maps);
	return r;
}

/* The fd tells which pages exist: with that of another file, pages would be left out. */
static int check_fd(const struct vmferry_region *r)
{
	struct mapping mapping = {0};
	struct stat st;

	if (r->fd < 0)
		return 0;
	if (fstat(r->fd, &st) < 0)
		return bad_region(r, "its fd is not open: give that of its memory, or -1");
	if (!S_ISREG(st.st_mode))
		return bad_region(r, "its fd is no memory: give that of its memory, or -1");
	if ((uint64_t)st.st_size < r->fd_offset || (uint64_t)st.st_size - r->fd_offset < r->size)
		return bad_region(r, "its fd's file is shorter");
	if (find_mapping(r->base, &mapping) < 0)
		return 0;
	if (mapping.inode != st.st_ino || mapping.offset != r->fd_offset)
		return bad_region(
			r, "its fd is not what is mapped there: give that of its memory, or -1");
	return mapping.shared
		       ? 0
		       : bad_region(r, "its fd is mapped private: map it shared, or give -1");
}

static int check_regions(const struct vmferry_vm *vm)
{
	if (vm->region_count == 0 || vm->region_count > VMFERRY_REGIONS_MAX) {
		log_error("vm: %u regions: give 1 to %u", vm->region_count, VMFERRY_REGIONS_MAX);
		return -EINVAL;
	}
	for (unsigned int i = 0; i < vm->region_count; i++) {
		const struct vmferry_region *r = &vm->regions[i];

		if (r->base == NULL || r->size == 0)
			return bad_region(r, "empty");
		if ((r->address | r->size | r->fd_offset) % VMFERRY_PAGE_SIZE != 0)
			return bad_region(r, "not whole pages");
		if (r->size > UINT64_MAX - r->address)
			return bad_region(r, "wraps around the address space");
		if (check_fd(r) < 0)
			return -EINVAL;
		for (unsigned int k = 0; k < i; k++) {
			const struct vmferry_region *o = &vm->regions[k];

			if (r->address < o->address + o->size && o->address < r->address + r->size)
				return bad_region(r, "overlaps another region");
		}
	}
	return 0;
}

int vm_copy(const struct vmferry_vm *from, struct vmferry_vm *to)
{
	struct vmferry_region *regions;
	int *vcpu_fds;
	int r = check_regions(from);

	if (r < 0)
		return r;
	regions = calloc(from->region_count, sizeof(*regions));
	vcpu_fds = calloc(from->vcpu_count + 1, sizeof(*vcpu_fds));
	if (regions == NULL || vcpu_fds == NULL) {
		free(regions);
		free(vcpu_fds);
		return -ENOMEM;
	}
	memcpy(regions, from->regions, from->region_count * sizeof(*regions));
	if (from->vcpu_count > 0)
		memcpy(vcpu_fds, from->vcpu_fds, from->vcpu_count * sizeof(*vcpu_fds));
	*to = *from;
	to->regions = regions;
	to->vcpu_fds = vcpu_fds;
	return 0;
}

void vm_release(struct vmferry_vm *vm)
{
	free((void *)vm->regions);
	free((void *)vm->vcpu_fds);
	vm->regions = NULL;
	vm->vcpu_fds = NULL;
}
