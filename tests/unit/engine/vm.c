/* SPDX-License-Identifier: MIT */
/* Region tables: an fd that is not the region's memory would make pages be left out. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <migrator/engine/vm.h>

#define SIZE (16ull * VMFERRY_PAGE_SIZE)

static struct vmferry_region region;
static int memory;

static void setup(void)
{
	memory = memfd_create("region", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(memory, 2 * SIZE), 0);
	region =
		(struct vmferry_region){.size = SIZE, .fd = memory, .fd_offset = VMFERRY_PAGE_SIZE};
	region.base =
		mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, memory, VMFERRY_PAGE_SIZE);
	cr_assert_neq(region.base, MAP_FAILED);
}

static void teardown(void)
{
	munmap(region.base, SIZE);
	close(memory);
}

TestSuite(vm, .init = setup, .fini = teardown, .timeout = 20);

static int copy(void)
{
	const struct vmferry_vm vm = {
		.size = sizeof(vm), .regions = &region, .region_count = 1, .vm_fd = -1};
	struct vmferry_vm to;
	int r = vm_copy(&vm, &to);

	if (r == 0)
		vm_release(&to);
	return r;
}

Test(vm, fd_of_the_region__taken)
{
	cr_expect_eq(copy(), 0);
	region.fd = -1;
	cr_expect_eq(copy(), 0);
}

/* As a daemon has it: a field that was forgotten is fd 0. */
Test(vm, fd_0_is_dev_null__refused)
{
	int null = open("/dev/null", O_RDWR);

	cr_assert_eq(dup2(null, 0), 0);
	region.fd = 0;
	cr_expect_eq(copy(), -EINVAL);
}

Test(vm, fd_of_another_file__refused)
{
	int other = memfd_create("other", MFD_CLOEXEC);

	cr_assert_eq(ftruncate(other, 2 * SIZE), 0);
	region.fd = other;
	cr_expect_eq(copy(), -EINVAL);
	close(other);
}

Test(vm, wrong_offset_short_file_closed_fd__refused)
{
	region.fd_offset = 0;
	cr_expect_eq(copy(), -EINVAL);
	region.fd_offset = VMFERRY_PAGE_SIZE;
	cr_assert_eq(ftruncate(memory, SIZE), 0);
	cr_expect_eq(copy(), -EINVAL);
	region.fd = dup(memory);
	close(region.fd);
	cr_expect_eq(copy(), -EINVAL);
}

Test(vm, private_mapping_of_a_file__refused)
{
	munmap(region.base, SIZE);
	region.base =
		mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, memory, VMFERRY_PAGE_SIZE);
	cr_assert_neq(region.base, MAP_FAILED);
	cr_expect_eq(copy(), -EINVAL);
}
