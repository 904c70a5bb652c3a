/* SPDX-License-Identifier: MIT */
/*
 * KVM and those of its capabilities that a migration uses, asked of a VM that is made for the
 * purpose.
 */
#include "host_check.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "kvm_present.h"

#ifndef KVM_CAP_DIRTY_LOG_RING_ACQ_REL
#define KVM_CAP_DIRTY_LOG_RING_ACQ_REL 223
#endif

#define RING_ENTRY_BYTES 16
#define NEWER_KERNEL	 "boot a newer kernel"

static int extension(int fd, int capability)
{
	int value = ioctl(fd, KVM_CHECK_EXTENSION, (long)capability);

	return value < 0 ? 0 : value;
}

static void check_trackers(struct json_object *checks, int vm)
{
	int ring = extension(vm, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
	int log = extension(vm, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
	struct check_item item = {.name = "dirty ring", .remedy = NEWER_KERNEL " (5.11, x86)"};

	if (ring == 0)
		ring = extension(vm, KVM_CAP_DIRTY_LOG_RING);
	item.ok = ring > 0;
	item.required = log == 0;
	if (item.ok)
		check_add(checks, &item, "up to %d entries a vCPU", ring / RING_ENTRY_BYTES);
	else
		check_add(checks, &item, "no; the dirty log is used instead");
	item = (struct check_item){.name = "dirty log, manual protect",
				   .ok = log != 0,
				   .required = ring == 0,
				   .remedy = NEWER_KERNEL " (5.0)"};
	check_add(checks, &item, item.ok ? "yes" : "no");
}

static void check_state(struct json_object *checks, int vm)
{
	int xsave = extension(vm, KVM_CAP_XSAVE2);
	struct check_item item = {
		.name = "XSAVE2", .ok = xsave > 0, .remedy = NEWER_KERNEL " (5.17)"};

	if (item.ok)
		check_add(checks, &item, "%d bytes", xsave);
	else
		check_add(checks, &item,
			  "no; guests with more than 4 KiB of XSAVE state cannot move");
}

static void check_vm(struct json_object *checks, int kvm)
{
	int version = ioctl(kvm, KVM_GET_API_VERSION, 0);
	int vm = ioctl(kvm, KVM_CREATE_VM, 0);
	struct check_item item = {.name = "KVM",
				  .ok = version == KVM_API_VERSION && vm >= 0,
				  .required = true,
				  .remedy = "look into the kernel's log (dmesg) for what KVM says"};

	if (vm < 0)
		check_add(checks, &item, "no VM can be made: %s", strerror(errno));
	else
		check_add(checks, &item, "API version %d", version);
	if (vm < 0)
		return;
	check_trackers(checks, vm);
	check_state(checks, vm);
	close(vm);
}

void check_kvm(struct json_object *checks)
{
	int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int error = errno;
	struct check_item item = {.name = "KVM", .required = true};

	if (kvm >= 0) {
		check_vm(checks, kvm);
		close(kvm);
		return;
	}
	item.remedy = kvm_remedy(error);
	check_add(checks, &item, "/dev/kvm: %s", strerror(error));
}
