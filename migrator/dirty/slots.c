/* SPDX-License-Identifier: MIT */
/*
 * Dirty logging of the KVM memory slots behind the regions. KVM has no call for the flag alone: the
 * slot is set again as it is, with KVM_MEM_LOG_DIRTY_PAGES more or less, which changes nothing else
 * and may be done while vCPUs run.
 */
#include "slots.h"

#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include "common/log.h"

int slots_check(const struct dirty_map *map)
{
	for (unsigned int i = 0; i < map->region_count; i++) {
		uint32_t slot = map->regions[i].region.slot;

		for (unsigned int j = 0; j < i; j++) {
			if (map->regions[j].region.slot != slot)
				continue;
			log_error(
				"region %u: slot 0x%x is region %u's already: a region must be one "
				"whole slot: give each its own",
				i, slot, j);
			return -EINVAL;
		}
	}
	return 0;
}

static int set_flags(int vm_fd, const struct vmferry_region *r, uint32_t flags)
{
	struct kvm_userspace_memory_region slot = {
		.slot = r->slot,
		.flags = flags,
		.guest_phys_addr = r->address,
		.memory_size = r->size,
		.userspace_addr = (uintptr_t)r->base,
	};
	int error;

	if (ioctl(vm_fd, KVM_SET_USER_MEMORY_REGION, &slot) == 0)
		return 0;
	error = errno;
	log_error("slot 0x%x: switching dirty logging %s: %s: give the region as the slot was set, "
		  "with the same address, size and mapping, and not read-only",
		  r->slot, flags != 0 ? "on" : "off", strerror(error));
	return -error;
}

int slots_log_on(int vm_fd, const struct dirty_map *map)
{
	unsigned int done;
	int rc = 0;

	for (done = 0; done < map->region_count && rc == 0; done++)
		rc = set_flags(vm_fd, &map->regions[done].region, KVM_MEM_LOG_DIRTY_PAGES);
	if (rc == 0)
		return 0;
	/* The last one tried is the one that failed: only those before it were changed. */
	for (unsigned int i = 0; i + 1 < done; i++)
		set_flags(vm_fd, &map->regions[i].region, 0);
	return rc;
}

int slots_log_off(int vm_fd, const struct dirty_map *map)
{
	int rc = 0;

	for (unsigned int i = 0; i < map->region_count; i++) {
		int one = set_flags(vm_fd, &map->regions[i].region, 0);

		if (rc == 0)
			rc = one;
	}
	return rc;
}
