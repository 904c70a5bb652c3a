/* SPDX-License-Identifier: MIT */
#include "vm.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"

static int bad_region(const struct vmferry_region *r, const char *why)
{
	log_error("region 0x%llx of %llu bytes: %s", (unsigned long long)r->address,
		  (unsigned long long)r->size, why);
	return -EINVAL;
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
