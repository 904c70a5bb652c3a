/* SPDX-License-Identifier: MIT */
/*
 * Small guests that run: devices, entry state, ways to stop, full rings, and what is left behind.
 */
#include <criterion/criterion.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "guests.h"
#include "migrator/dirty/map.h"
#include "quiet.h"
#include "ring_full.h"

TestSuite(run, .init = need_kvm, .timeout = 40);

static unsigned int open_fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	unsigned int count = 0;

	while (readdir(dir))
		count++;
	closedir(dir);
	return count;
}

static size_t read_console(int fd, char *text, size_t size)
{
	ssize_t n = read(fd, text, size - 1);

	cr_assert_geq(n, 0);
	text[n] = '\0';
	return (size_t)n;
}

Test(run, ticker__console_status_and_beats)
{
	struct vmm_config config = small_config();
	struct vmm_status status;
	struct vmm *vmm;
	char text[64];
	int pipe_fds[2];

	cr_assert_eq(pipe2(pipe_fds, O_CLOEXEC), 0);
	config.console_fd = pipe_fds[1];
	vmm = boot_guest(&config, GUEST_TICKER);
	cr_assert_not(status_of(vmm).running);
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_beats(vmm, 100);
	read_console(pipe_fds[0], text, sizeof(text));
	cr_assert_str_eq(text, "hi\n");
	status = status_of(vmm);
	cr_assert(status.running && status.ready && !status.stopped);
	cr_assert_eq(status.faults, 0);
	cr_assert_gt(status.pulse[0].first_ns, 0);
	cr_assert_gt(status.pulse[0].last_ns, status.pulse[0].first_ns);
	cr_assert_gt(status.pulse[0].max_gap_ns, 0);
	vmm_free(&vmm);
	cr_assert_null(vmm);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

Test(run, entry_state__as_multiboot_has_it)
{
	struct vmm_config config = small_config();
	struct vmm *vmm = boot_guest(&config, GUEST_ENTRY);
	uint32_t info;

	cr_assert_eq(vmm_resume(vmm), 0);
	wait_ready(vmm);
	cr_assert_eq(guest_word(vmm, COUNTER), 0x2badb002u);
	info = guest_word(vmm, COUNTER + 4);
	cr_assert_eq(guest_word(vmm, info) & 0x45, 0x45);
	cr_assert_eq(guest_word(vmm, COUNTER + 8), 0xff, "nobody answers at that port");
	vmm_free(&vmm);
}

Test(run, console_that_nobody_reads__never_holds_up_the_guest)
{
	struct vmm_config config = small_config();
	struct vmm *vmm;
	char block[4096] = {0};
	int pipe_fds[2];

	cr_assert_eq(pipe2(pipe_fds, O_CLOEXEC | O_NONBLOCK), 0);
	while (write(pipe_fds[1], block, sizeof(block)) > 0)
		;
	cr_assert_eq(fcntl(pipe_fds[1], F_SETFL, 0), 0);
	config.console_fd = pipe_fds[1];
	vmm = boot_guest(&config, GUEST_TICKER);
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_beats(vmm, 10);
	cr_assert_eq(vmm_pause(vmm), 0);
	vmm_free(&vmm);
	close(pipe_fds[0]);
	close(pipe_fds[1]);
}

Test(run, triple_fault__stopped_with_a_reason)
{
	struct vmm_config config = small_config();
	struct vmm *vmm = boot_guest(&config, GUEST_FAULTY);
	struct vmm_status status;

	cr_assert_eq(vmm_resume(vmm), 0);
	wait_stopped(vmm);
	status = status_of(vmm);
	cr_assert_not(status.running);
	cr_assert_str_not_empty(status.stop_reason);
	cr_assert_eq(vmm_pause(vmm), 0);
	cr_assert_eq(vmm_resume(vmm), -ECANCELED);
	vmm_free(&vmm);
}

Test(run, nothing_loaded__does_not_run)
{
	struct vmm_config config = small_config();
	struct vmm *vmm;

	quiet();
	cr_assert_eq(vmm_new(&config, &vmm), 0);
	cr_assert_eq(vmm_resume(vmm), -EINVAL);
	cr_assert_eq(vmm_boot(vmm, "/nonexistent", "", NULL, 0), -ENOENT);
	cr_assert_eq(vmm_boot(vmm, "/dev/null", "", NULL, 0), -EINVAL);
	cr_assert_eq(vmm_resume(vmm), -EINVAL);
	vmm_free(&vmm);
}

Test(run, huge_pages_that_the_pool_has_not__refused_with_the_remedy)
{
	struct vmm_config config = small_config();
	struct vmm *vmm = NULL;

	quiet();
	config.memory = 1ull << 40;
	config.pages = VMM_PAGES_HUGE;
	cr_assert_lt(vmm_new(&config, &vmm), 0);
	cr_assert_null(vmm);
	cr_assert_neq(said("huge pages"), false, "%s", last_line());
}

Test(run, numa_node_that_is_not_there__refused)
{
	struct vmm_config config = small_config();
	struct vmm *vmm = NULL;

	quiet();
	config.numa_node = 1000;
	cr_assert_eq(vmm_new(&config, &vmm), -EINVAL);
	cr_assert_neq(said("NUMA node 1000"), false, "%s", last_line());
}

Test(run, every_kind_of_page_and_tracker__runs)
{
	static const enum vmferry_tracker trackers[] = {VMFERRY_TRACKER_AUTO, VMFERRY_TRACKER_LOG,
							VMFERRY_TRACKER_CALLER};
	struct vmm_config config = small_config();

	for (unsigned int i = 0; i < 3; i++) {
		struct vmferry_vm vm;
		struct vmm *vmm;

		config.pages = i % 2 ? VMM_PAGES_4K : VMM_PAGES_THP;
		config.tracker = trackers[i];
		vmm = boot_guest(&config, GUEST_TICKER);
		vmm_describe_vm(vmm, &vm);
		cr_assert(trackers[i] == VMFERRY_TRACKER_AUTO || vm.ring_entries == 0);
		cr_assert_eq(vmm_resume(vmm), 0);
		wait_beats(vmm, 5);
		vmm_free(&vmm);
	}
}

Test(run, made_and_freed__no_descriptor_is_left)
{
	struct vmm_config config = small_config();
	struct vmm *vmm = boot_guest(&config, GUEST_TICKER);
	unsigned int before;

	vmm_free(&vmm);
	before = open_fds();
	config.vcpus = 4;
	config.memory = 4ull << 30; /* two regions */
	for (unsigned int i = 0; i < 3; i++) {
		vmm = boot_guest(&config, GUEST_TICKER);
		cr_assert_eq(vmm_resume(vmm), 0);
		vmm_free(&vmm);
	}
	cr_assert_eq(open_fds(), before);
}

Test(run, description__regions_slots_vcpus_and_ring)
{
	struct vmm_config config = small_config();
	struct vmferry_vm vm;
	struct vmm *vmm;

	config.memory = 5ull << 30;
	config.vcpus = 3;
	config.tracker = VMFERRY_TRACKER_RING;
	config.ring_entries = 1024;
	vmm = boot_guest(&config, GUEST_HALTED);
	vmm_describe_vm(vmm, &vm);
	cr_assert_eq(vm.size, sizeof(vm));
	cr_assert_eq(vm.region_count, 2);
	cr_assert_eq(vm.regions[1].address, 4ull << 30);
	cr_assert_neq(vm.regions[0].slot, vm.regions[1].slot);
	cr_assert_eq(vm.vcpu_count, 3);
	cr_assert_eq(vm.ring_entries, 1024);
	for (unsigned int i = 0; i < 3; i++)
		cr_assert(fcntl(vm.vcpu_fds[i], F_GETFD) & FD_CLOEXEC);
	for (unsigned int i = 0; i < 2; i++)
		cr_assert(fcntl(vm.regions[i].fd, F_GETFD) & FD_CLOEXEC);
	vmm_free(&vmm);
}

Test(run, ring_full__turns_to_the_source_until_it_is_taken_away)
{
	struct ring_double source = {.lock = PTHREAD_MUTEX_INITIALIZER, .delay_us = 2000};
	struct vmm_config config = small_config();
	struct dirty_map *map;
	struct vmferry_vm vm;
	struct vmm *vmm;

	config.tracker = VMFERRY_TRACKER_RING;
	config.ring_entries = 1024;
	vmm = boot_guest(&config, GUEST_WRITER);
	vmm_describe_vm(vmm, &vm);
	cr_assert_eq(dirty_map_new(&vm, &map), 0);
	cr_assert_eq(tracker_new(VMFERRY_TRACKER_RING, &vm, map, &source.tracker), 0);
	cr_assert_eq(tracker_start(source.tracker), 0);
	vmm_set_source(vmm, (struct vmferry_source *)(void *)&source);
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_beats(vmm, 3);
	vmm_set_source(vmm, NULL);
	cr_assert_eq(atomic_load(&source.inside), 0, "a thread is still in the source");
	cr_assert_gt(atomic_load(&source.calls), 3);
	cr_assert_eq(vmm_pause(vmm), 0, "also with a full ring that nobody harvests");
	cr_assert_eq(tracker_stop(source.tracker), 0);
	cr_assert_geq(dirty_map_count(map), 4096);
	tracker_free(&source.tracker);
	dirty_map_free(&map);
	cr_assert_eq(vmm_resume(vmm), 0);
	wait_beats(vmm, 3);
	vmm_free(&vmm);
}
