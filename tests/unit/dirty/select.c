/* SPDX-License-Identifier: MIT */
/* Which tracker a VM gets, and what is said when it cannot have the one that was asked for. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "scene.h"

TestSuite(select, .init = machine_need_kvm, .timeout = 300);

static char last_line[1024];

static void keep_line(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	strncpy(last_line, line, sizeof(last_line) - 1);
}

/* The tracker's name, or NULL and the error. */
static const char *chosen(enum vmferry_tracker kind, const struct vmferry_vm *vm, int *rc)
{
	struct tracker *tracker = NULL;
	struct dirty_map *map;
	const char *name = NULL;

	vmferry_set_log(keep_line, NULL, VMFERRY_LOG_DEBUG);
	cr_assert_eq(dirty_map_new(vm, &map), 0);
	*rc = tracker_new(kind, vm, map, &tracker);
	if (*rc == 0)
		name = tracker_name(tracker);
	tracker_free(&tracker);
	dirty_map_free(&map);
	return name;
}

static void check(enum vmferry_tracker kind, uint32_t entries, int fd, const char *name)
{
	struct machine m;
	struct vmferry_vm vm;
	int rc;

	machine_make(&m, 1, entries);
	vm = machine_vm(&m);
	if (fd < 0)
		vm.vm_fd = fd;
	cr_assert_str_eq(chosen(kind, &vm, &rc), name);
	machine_free(&m);
}

Test(select, auto_with_ring__ring)
{
	check(VMFERRY_TRACKER_AUTO, 4096, 0, "ring");
}

Test(select, auto_without_ring__log)
{
	check(VMFERRY_TRACKER_AUTO, 0, 0, "log");
}

Test(select, auto_without_kvm__caller)
{
	check(VMFERRY_TRACKER_AUTO, 0, -1, "caller");
}

Test(select, caller_with_ring__caller)
{
	check(VMFERRY_TRACKER_CALLER, 4096, 0, "caller");
}

static void refused(enum vmferry_tracker kind, struct vmferry_vm vm, int error, const char *said)
{
	int rc;

	last_line[0] = '\0';
	cr_assert_null(chosen(kind, &vm, &rc));
	cr_assert_eq(rc, error, "%d", rc);
	cr_assert_not_null(strstr(last_line, said), "%s", last_line);
}

Test(select, log_with_ring__refused_with_remedy)
{
	struct machine m;
	struct vmferry_vm vm;

	machine_make(&m, 1, 4096);
	vm = machine_vm(&m);
	refused(VMFERRY_TRACKER_LOG, vm, -ENOTSUP, "use the tracker 'ring'");
	/* The VMM forgot to say that there is one: KVM knows. */
	vm.ring_entries = 0;
	refused(VMFERRY_TRACKER_LOG, vm, -ENOTSUP, "use the tracker 'ring'");
	refused(VMFERRY_TRACKER_AUTO, vm, -ENOTSUP, "use the tracker 'ring'");
	machine_free(&m);
}

Test(select, ring_without_ring__refused_with_remedy)
{
	struct machine m;
	struct vmferry_vm vm;

	machine_make(&m, 1, 0);
	vm = machine_vm(&m);
	refused(VMFERRY_TRACKER_RING, vm, -ENOTSUP, "vmferry_kvm_enable_ring()");
	vm.ring_entries = 4096;
	refused(VMFERRY_TRACKER_RING, vm, -ENOTSUP, "vmferry_kvm_enable_ring()");
	vm.vm_fd = -1;
	refused(VMFERRY_TRACKER_RING, vm, -ENOTSUP, "set vm_fd");
	refused(VMFERRY_TRACKER_LOG, vm, -ENOTSUP, "set vm_fd");
	machine_free(&m);
}

Test(select, ring_of_another_size__refused)
{
	static const uint32_t wrong[] = {1, 1023, 1024, 4095, 8192, 65536, 1u << 31};
	struct machine m;
	struct vmferry_vm vm;

	machine_make(&m, 1, 4096);
	vm = machine_vm(&m);
	for (unsigned int i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		vm.ring_entries = wrong[i];
		refused(VMFERRY_TRACKER_RING, vm, -EINVAL, "ring_entries");
	}
	machine_free(&m);
}

Test(select, ring_without_vcpus__refused)
{
	struct machine m;
	struct vmferry_vm vm;

	machine_make(&m, 1, 4096);
	vm = machine_vm(&m);
	vm.vcpu_count = 0;
	refused(VMFERRY_TRACKER_RING, vm, -EINVAL, "vcpu fds");
	vm.vcpu_count = VMFERRY_VCPUS_MAX + 1;
	refused(VMFERRY_TRACKER_RING, vm, -EINVAL, "vcpu fds");
	machine_free(&m);
}

Test(select, one_slot_for_two_regions__refused)
{
	struct machine m;

	machine_make(&m, 1, 4096);
	m.regions[2].slot = m.regions[1].slot;
	refused(VMFERRY_TRACKER_RING, machine_vm(&m), -EINVAL, "slot");
	machine_free(&m);
}

Test(select, kind_that_does_not_exist__refused)
{
	struct machine m;

	machine_make(&m, 1, 4096);
	refused((enum vmferry_tracker)77, machine_vm(&m), -EINVAL, "unknown");
	machine_free(&m);
}
