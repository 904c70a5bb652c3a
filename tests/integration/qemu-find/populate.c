/* SPDX-License-Identifier: MIT */
/* What was written to a block, and memory that is made present ahead. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "vm.h"

#define PAGE	4096
#define NR_HUGE "/proc/sys/vm/nr_hugepages"

static void put(const struct placement *placement, uint64_t offset)
{
	const char data[PAGE] = {1};
	const struct placement_page page = {.offset = offset, .data = data, .bytes = PAGE};

	cr_assert_eq(placement_write(placement, &page, 1), 0);
}

static void await_populated(struct populate *populate)
{
	const struct timespec pause = {.tv_nsec = 5000000};
	const uint64_t deadline = vm_deadline();

	while (!placement_populate_done(populate, NULL)) {
		cr_assert_lt(vmferry_now(), deadline);
		nanosleep(&pause, NULL);
	}
}

static struct vm *memfd_vm(void)
{
	return VM("-m", "64", "-object", "memory-backend-memfd,id=m0,size=64M,share=on", "-machine",
		  "memory-backend=m0");
}

/* A write makes an extent; more extents than there is room for are told. */
static void check_extents(const struct placement *ram)
{
	struct placement_extent extents[2];
	unsigned int count;

	cr_assert(ram->pristine);
	put(ram, 4 * MIB);
	put(ram, 4 * MIB + PAGE);
	cr_assert_eq(placement_extents(ram, extents, 2, &count), 0);
	cr_assert_eq(count, 1);
	/* Huge pages make larger extents. */
	cr_expect_leq(extents[0].offset, 4 * MIB);
	cr_expect_geq(extents[0].offset + extents[0].bytes, 4 * MIB + 2 * PAGE);
	cr_expect_leq(extents[0].bytes, 2 * MIB);
	put(ram, 16 * MIB);
	put(ram, 32 * MIB);
	cr_expect_eq(placement_extents(ram, extents, 2, &count), -E2BIG);
}

Test(extents, memfd)
{
	struct vm *vm = memfd_vm();

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	check_extents(vm_block(vm, "m0"));
	vm_free(vm);
}

Test(extents, private_memory)
{
	struct vm *vm = VM("-m", "64");

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	check_extents(vm_block(vm, "pc.ram"));
	vm_free(vm);
}

Test(extents, memfd_found_again__is_not_pristine)
{
	struct vm *vm = memfd_vm();

	vm_find(vm, false, PLACEMENT_WISH_PROCESS);
	cr_assert(vm_block(vm, "m0")->pristine);
	put(vm_block(vm, "m0"), 0);
	placement_release(vm->placements, vm->count);
	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	cr_expect_not(vm_block(vm, "m0")->pristine);
	vm_free(vm);
}

/* All of it is there afterwards, and what was written before is as it was. */
static void check_populate(struct vm *vm, struct placement *ram)
{
	struct placement_extent extents[2];
	struct populate *populate;
	unsigned int count;
	uint64_t bytes;

	put(ram, 5 * MIB);
	cr_assert_eq(placement_populate_start(ram, 1, 2, &populate), 0);
	placement_populate_ahead(populate, 0, 0, ram->bytes);
	await_populated(populate);
	cr_expect(placement_populate_done(populate, &bytes));
	cr_expect_eq(bytes, ram->bytes);
	placement_populate_stop(&populate);
	cr_assert_null(populate);
	cr_assert_eq(placement_extents(ram, extents, 2, &count), 0);
	cr_assert_eq(count, 1);
	cr_expect_eq(extents[0].offset, 0);
	cr_expect_eq(extents[0].bytes, ram->bytes);
	cr_expect_eq(vm_peek(vm, 5 * MIB), 1);
	cr_expect_eq(vm_peek(vm, 5 * MIB + PAGE), 0);
	cr_expect_eq(vm_peek(vm, 20 * MIB), 0);
}

Test(populate, mapped)
{
	struct vm *vm = memfd_vm();

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	check_populate(vm, vm_block(vm, "m0"));
	vm_free(vm);
}

Test(populate, process)
{
	struct vm *vm = VM("-m", "64");

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	check_populate(vm, vm_block(vm, "pc.ram"));
	vm_free(vm);
}

Test(populate, stopped_at_once__leaves_the_rest)
{
	struct vm *vm = VM("-m", "4096");
	struct populate *populate;

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	cr_assert_eq(placement_populate_start(vm->placements, vm->count, 1, &populate), 0);
	for (unsigned int i = 0; i < vm->count; i++)
		placement_populate_ahead(populate, i, 0, vm->placements[i].bytes);
	placement_populate_stop(&populate);
	cr_assert_null(populate);
	put(vm_block(vm, "pc.ram"), 0);
	vm_free(vm);
}

static long read_huge(void)
{
	FILE *file = fopen(NR_HUGE, "re");
	long pages = -1;

	if (file == NULL)
		return -1;
	if (fscanf(file, "%ld", &pages) != 1)
		pages = -1;
	fclose(file);
	return pages;
}

static bool write_huge(long pages)
{
	FILE *file = fopen(NR_HUGE, "we");

	if (file == NULL)
		return false;
	fprintf(file, "%ld\n", pages);
	return fclose(file) == 0 && read_huge() >= pages;
}

/* Adds pages to the host's pool and takes them away again. */
Test(populate, hugetlb)
{
	const long before = read_huge();
	struct vm *vm;
	struct placement *ram;

	if (before < 0 || !write_huge(before + 33)) {
		if (before >= 0)
			write_huge(before);
		cr_skip_test("no huge pages to be had here");
	}
	vm = VM("-m", "64", "-object",
		"memory-backend-memfd,id=m0,size=64M,share=on,hugetlb=on,hugetlbsize=2M",
		"-machine", "memory-backend=m0");
	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	ram = vm_block(vm, "m0");
	cr_expect_eq(ram->kind, PLACEMENT_MAPPED, "%s", ram->reason);
	cr_expect(ram->hugetlb);
	cr_expect(ram->hugepages);
	cr_expect(ram->pristine);
	cr_expect_eq(ram->page_bytes, 2 * MIB);
	check_populate(vm, ram);
	vm_free(vm);
	write_huge(before);
}
