/* SPDX-License-Identifier: MIT */
/*
 * Enabling KVM's dirty ring on a VM that has no vCPU yet. Where the kernel offers both flavours of
 * the capability the one with acquire and release semantics is taken, which is what the ring's
 * reader is written for.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include <vmferry/kvm.h>

#include "common/log.h"
#include "ring.h"

static uint32_t most_entries(int vm_fd, uint32_t *cap)
{
	static const uint32_t caps[] = {KVM_CAP_DIRTY_LOG_RING_ACQ_REL, KVM_CAP_DIRTY_LOG_RING};

	for (unsigned int i = 0; i < sizeof(caps) / sizeof(caps[0]); i++) {
		int bytes = ioctl(vm_fd, KVM_CHECK_EXTENSION, caps[i]);

		*cap = caps[i];
		if (bytes > 0)
			return (uint32_t)bytes / (uint32_t)sizeof(struct kvm_dirty_gfn);
	}
	return 0;
}

static int check_entries(uint32_t entries, uint32_t most)
{
	if (entries >= RING_ENTRIES_MIN && entries <= most && (entries & (entries - 1)) == 0)
		return 0;
	log_error("dirty ring: %u entries: not possible here: use a power of two from %u to %u",
		  entries, RING_ENTRIES_MIN, most);
	return -EINVAL;
}

int vmferry_kvm_enable_ring(int vm_fd, uint32_t entries, uint32_t *enabled)
{
	struct kvm_enable_cap enable = {0};
	uint32_t most = most_entries(vm_fd, &enable.cap);
	int rc;

	if (most < RING_ENTRIES_MIN) {
		log_warn("dirty ring: the kernel offers %u entries: too few: use the tracker 'log'",
			 most);
		return -ENOTSUP;
	}
	if (entries == 0)
		entries = most < RING_ENTRIES_DEFAULT ? most : RING_ENTRIES_DEFAULT;
	rc = check_entries(entries, most);
	if (rc < 0)
		return rc;
	enable.args[0] = (uint64_t)entries * sizeof(struct kvm_dirty_gfn);
	if (ioctl(vm_fd, KVM_ENABLE_CAP, &enable) < 0) {
		rc = -errno;
		log_error(
			"dirty ring: enable with %u entries: %s: enable it once, before the first "
			"vCPU is created",
			entries, strerror(-rc));
		return rc;
	}
	*enabled = entries;
	return 0;
}
