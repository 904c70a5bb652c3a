/* SPDX-License-Identifier: MIT */
/*
 * Which tracker a VM gets. The ring and the log exclude each other in KVM, and the choice between
 * them was made when the VM was created, so a kind that cannot be had is an error that says what to
 * create differently.
 */
#include "tracker.h"

#include <errno.h>
#include <linux/kvm.h>
#include <sys/ioctl.h>

#include "common/log.h"
#include "slots.h"
#include "trackers.h"

/* No slot has this id: KVM looks at the ring before it looks at the slot, and writes nothing. */
#define NO_SLOT 0xffffu

static bool ring_enabled(int vm_fd)
{
	struct kvm_dirty_log probe = {.slot = NO_SLOT};

	return ioctl(vm_fd, KVM_GET_DIRTY_LOG, &probe) < 0 && errno == ENXIO;
}

static bool has_manual_protect(int vm_fd)
{
	int has = ioctl(vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);

	return has > 0 && (has & KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE) != 0;
}

static int choose_ring(const struct vmferry_vm *vm)
{
	if (vm->vm_fd < 0) {
		log_error(
			"tracker ring: no KVM VM was given: nothing to track: set vm_fd or use the "
			"tracker 'caller'");
		return -ENOTSUP;
	}
	if (vm->ring_entries == 0 || !ring_enabled(vm->vm_fd)) {
		log_error("tracker ring: the VM has no dirty ring: it cannot be had later: call "
			  "vmferry_kvm_enable_ring() before the first vCPU and set ring_entries");
		return -ENOTSUP;
	}
	if (vm->vcpu_count == 0 || vm->vcpu_count > VMFERRY_VCPUS_MAX || vm->vcpu_fds == NULL) {
		log_error("tracker ring: %u vcpu fds were given: rings are mapped from them: give "
			  "those of all vCPUs, 1 to %u",
			  vm->vcpu_count, VMFERRY_VCPUS_MAX);
		return -EINVAL;
	}
	return VMFERRY_TRACKER_RING;
}

static int choose_log(const struct vmferry_vm *vm)
{
	if (vm->vm_fd < 0) {
		log_error(
			"tracker log: no KVM VM was given: nothing to track: set vm_fd or use the "
			"tracker 'caller'");
		return -ENOTSUP;
	}
	if (vm->ring_entries != 0 || ring_enabled(vm->vm_fd)) {
		log_error("tracker log: the VM has a dirty ring: KVM refuses the log then: use the "
			  "tracker 'ring' with ring_entries set, or create the VM without a ring");
		return -ENOTSUP;
	}
	if (!has_manual_protect(vm->vm_fd)) {
		log_error("tracker log: the kernel has no manual dirty log protect: it came with "
			  "Linux 5.1: use a newer kernel, or report writes with the tracker "
			  "'caller'");
		return -ENOTSUP;
	}
	return VMFERRY_TRACKER_LOG;
}

static int choose(enum vmferry_tracker kind, const struct vmferry_vm *vm)
{
	switch (kind) {
	case VMFERRY_TRACKER_AUTO:
		if (vm->vm_fd < 0)
			return VMFERRY_TRACKER_CALLER;
		return vm->ring_entries != 0 ? choose_ring(vm) : choose_log(vm);
	case VMFERRY_TRACKER_RING:
		return choose_ring(vm);
	case VMFERRY_TRACKER_LOG:
		return choose_log(vm);
	case VMFERRY_TRACKER_CALLER:
		return VMFERRY_TRACKER_CALLER;
	}
	log_error("tracker: kind %d: unknown: use one of enum vmferry_tracker", (int)kind);
	return -EINVAL;
}

int tracker_new(enum vmferry_tracker kind, const struct vmferry_vm *vm, struct dirty_map *map,
		struct tracker **tracker)
{
	int chosen = choose(kind, vm);
	int rc;

	if (chosen < 0)
		return chosen;
	if (chosen == VMFERRY_TRACKER_CALLER)
		return caller_tracker_new(map, tracker);
	rc = slots_check(map);
	if (rc < 0)
		return rc;
	if (chosen == VMFERRY_TRACKER_RING)
		return ring_tracker_new(vm, map, tracker);
	return log_tracker_new(vm, map, tracker);
}

void tracker_free(struct tracker **tracker)
{
	struct tracker *t = *tracker;

	*tracker = NULL;
	if (t == NULL)
		return;
	t->ops->stop(t);
	t->ops->free(t);
}
