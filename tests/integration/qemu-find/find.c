/* SPDX-License-Identifier: MIT */
/*
 * Where the blocks of real QEMUs are found, and that what is written there is in the guest's
 * memory.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migrator/qemu/qmp.h"
#include "vm.h"

#define WORD UINT64_C(0x1122334455667788)
#define PAGE 4096

static void put(const struct placement *placement, uint64_t offset, uint64_t word)
{
	static uint64_t data[PAGE / 8];
	const struct placement_page page = {.offset = offset, .data = data, .bytes = PAGE};

	data[0] = word;
	cr_assert_eq(placement_write(placement, &page, 1), 0);
}

/*
 * Writes to each end of @placement and looks at it through QEMU's own eyes. @gpa is where the guest
 * has it.
 */
static void check_writes(struct vm *vm, const struct placement *placement, uint64_t gpa)
{
	const uint64_t last = placement->bytes - PAGE;

	put(placement, 2 * MIB, WORD);
	put(placement, last, ~WORD);
	cr_expect_eq(vm_peek(vm, gpa + 2 * MIB), WORD);
	cr_expect_eq(vm_peek(vm, gpa + last), ~WORD);
	cr_expect_eq(vm_peek(vm, gpa + 2 * MIB + PAGE), 0);
}

static void expect_forward(struct vm *vm, const char *name, const char *reason)
{
	const struct placement *placement = vm_block(vm, name);

	cr_expect_eq(placement->kind, PLACEMENT_FORWARD, "%s", name);
	cr_expect(strstr(placement->reason, reason) != NULL, "%s: %s", name, placement->reason);
}

static struct vm *two_nodes(const char *kind)
{
	char first[128];
	char second[128];

	snprintf(first, sizeof(first), "memory-backend-%s,id=m0,size=32M", kind);
	snprintf(second, sizeof(second), "memory-backend-%s,id=m1,size=32M", kind);
	if (strcmp(kind, "file") == 0) {
		strcat(first, ",share=on,mem-path=/dev/shm");
		strcat(second, ",share=on,mem-path=/dev/shm");
	} else if (strcmp(kind, "memfd") == 0) {
		strcat(first, ",share=on");
		strcat(second, ",share=on");
	}
	return VM("-m", "64", "-object", first, "-object", second, "-numa", "node,memdev=m0",
		  "-numa", "node,memdev=m1");
}

Test(find, private_memory__is_written_in_the_process)
{
	struct vm *vm = VM("-m", "64", "-name", "guest=alice,debug-threads=on");
	const struct placement *ram;

	cr_expect_eq(vm->process.pid, vm->pid);
	cr_expect(vm->process.autostart);
	cr_expect(vm->process.incoming);
	cr_expect(vm->process.accessible);
	cr_expect_str_eq(vm->process.name, "alice");
	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	ram = vm_block(vm, "pc.ram");
	cr_assert_eq(ram->kind, PLACEMENT_PROCESS, "%s", ram->reason);
	cr_expect(strstr(ram->reason, "private") != NULL);
	cr_expect(ram->pristine);
	cr_expect_null(ram->base);
	check_writes(vm, ram, 0);
	expect_forward(vm, "pc.bios", "firmware");
	expect_forward(vm, "/rom@etc/acpi/tables", "firmware");
	vm_free(vm);
}

Test(find, memfd_shared__is_mapped)
{
	struct vm *vm =
		VM("-S", "-m", "64", "-object", "memory-backend-memfd,id=m0,size=64M,share=on",
		   "-machine", "memory-backend=m0");
	const struct placement *ram;

	cr_expect_not(vm->process.autostart);
	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	ram = vm_block(vm, "m0");
	cr_assert_eq(ram->kind, PLACEMENT_MAPPED, "%s", ram->reason);
	cr_expect_str_eq(ram->reason, "");
	cr_expect(ram->pristine);
	check_writes(vm, ram, 0);
	*(volatile uint64_t *)((char *)ram->base + 3 * MIB) = WORD;
	cr_expect_eq(vm_peek(vm, 3 * MIB), WORD);
	vm_free(vm);
}

Test(find, memfd_private__is_written_in_the_process)
{
	struct vm *vm = VM("-m", "64", "-object", "memory-backend-memfd,id=m0,size=64M,share=off",
			   "-machine", "memory-backend=m0");
	const struct placement *ram;

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	ram = vm_block(vm, "m0");
	cr_assert_eq(ram->kind, PLACEMENT_PROCESS, "%s", ram->reason);
	check_writes(vm, ram, 0);
	vm_free(vm);
}

Test(find, ram_shared__is_mapped_or_written)
{
	struct vm *vm = VM("-m", "64", "-object", "memory-backend-ram,id=m0,size=64M,share=on",
			   "-machine", "memory-backend=m0");
	const struct placement *ram;

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	ram = vm_block(vm, "m0");
	cr_assert_neq(ram->kind, PLACEMENT_FORWARD, "%s", ram->reason);
	check_writes(vm, ram, 0);
	vm_free(vm);
}

Test(find, file__equal_nodes_are_told_apart_by_their_files)
{
	struct vm *vm = two_nodes("file");

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	cr_assert_eq(vm_block(vm, "m0")->kind, PLACEMENT_MAPPED);
	cr_assert_eq(vm_block(vm, "m1")->kind, PLACEMENT_MAPPED);
	check_writes(vm, vm_block(vm, "m0"), 0);
	check_writes(vm, vm_block(vm, "m1"), 32 * MIB);
	vm_free(vm);
}

Test(find, equal_memfds__are_a_tie_without_qmp)
{
	struct vm *vm = two_nodes("memfd");

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	expect_forward(vm, "m0", "2 blocks of 32 MiB: give --qmp");
	expect_forward(vm, "m1", "2 blocks of 32 MiB: give --qmp");
	vm_find(vm, true, PLACEMENT_WISH_AUTO);
	cr_assert_eq(vm_block(vm, "m0")->kind, PLACEMENT_MAPPED);
	cr_assert_eq(vm_block(vm, "m1")->kind, PLACEMENT_MAPPED);
	check_writes(vm, vm_block(vm, "m0"), 0);
	check_writes(vm, vm_block(vm, "m1"), 32 * MIB);
	vm_free(vm);
}

Test(find, equal_private_nodes__are_told_apart_by_qmp)
{
	struct vm *vm = two_nodes("ram");

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	expect_forward(vm, "m1", "2 blocks of 32 MiB: give --qmp");
	vm_find(vm, true, PLACEMENT_WISH_AUTO);
	cr_assert_eq(vm_block(vm, "m0")->kind, PLACEMENT_PROCESS);
	cr_assert_eq(vm_block(vm, "m1")->kind, PLACEMENT_PROCESS);
	check_writes(vm, vm_block(vm, "m0"), 0);
	check_writes(vm, vm_block(vm, "m1"), 32 * MIB);
	vm_free(vm);
}

Test(find, ram_as_large_as_the_display__is_a_tie_without_qmp)
{
	struct vm *vm = VM("-m", "16", "-vga", "std");

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	expect_forward(vm, "pc.ram", "2 blocks of 16 MiB: give --qmp");
	expect_forward(vm, "0000:00:02.0/vga.vram", "device");
	vm_find(vm, true, PLACEMENT_WISH_AUTO);
	cr_assert_eq(vm_block(vm, "pc.ram")->kind, PLACEMENT_PROCESS);
	check_writes(vm, vm_block(vm, "pc.ram"), 0);
	vm_free(vm);
}

Test(find, qmp_of_another_qemu__is_not_believed)
{
	struct vm *vm = VM("-m", "64");
	/* Not as large, so that it differs in its addresses also where these are not random. */
	struct vm *other = VM("-m", "96");

	cr_assert_eq(placement_find(&vm->process, other->qmp, PLACEMENT_WISH_AUTO, vm->blocks,
				    vm->count, vm->placements),
		     0);
	expect_forward(vm, "pc.ram", "not where QMP says");
	vm_free(other);
	vm_free(vm);
}

Test(find, wishes__are_followed_or_forwarded)
{
	struct vm *shared =
		VM("-m", "64", "-object", "memory-backend-memfd,id=m0,size=64M,share=on",
		   "-machine", "memory-backend=m0");
	struct vm *private = VM("-m", "64");

	vm_find(shared, false, PLACEMENT_WISH_PROCESS);
	cr_expect_eq(vm_block(shared, "m0")->kind, PLACEMENT_PROCESS);
	cr_expect_null(vm_block(shared, "m0")->base);
	check_writes(shared, vm_block(shared, "m0"), 0);
	placement_release(shared->placements, shared->count);
	vm_find(shared, false, PLACEMENT_WISH_FORWARD);
	expect_forward(shared, "m0", "as wished");
	vm_find(private, false, PLACEMENT_WISH_MAPPED);
	expect_forward(private, "pc.ram", "private memory");
	vm_free(private);
	vm_free(shared);
}

Test(find, write__outside_of_the_block_is_refused)
{
	struct vm *vm = VM("-m", "64");
	char byte[2] = {0};
	struct placement_page page = {.offset = 64 * MIB - 1, .data = byte, .bytes = 2};
	const struct placement *ram;

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	ram = vm_block(vm, "pc.ram");
	cr_expect_eq(placement_write(ram, &page, 1), -ERANGE);
	page.offset = UINT64_MAX;
	cr_expect_eq(placement_write(ram, &page, 1), -ERANGE);
	page = (struct placement_page){.offset = 64 * MIB - 1, .data = byte, .bytes = 1};
	cr_expect_eq(placement_write(ram, &page, 1), 0);
	cr_expect_eq(placement_write(vm_block(vm, "pc.bios"), &page, 1), -EINVAL);
	vm_free(vm);
}

Test(find, write__many_pages_at_once)
{
	struct vm *vm = VM("-m", "64");
	struct placement_page *pages = calloc(PLACEMENT_PAGES_MAX + 1, sizeof(*pages));
	uint64_t *data = calloc(PLACEMENT_PAGES_MAX, PAGE);

	cr_assert(pages && data);
	for (unsigned int i = 0; i < PLACEMENT_PAGES_MAX; i++) {
		data[i * (PAGE / 8)] = i + 1;
		pages[i] = (struct placement_page){2 * MIB + i * 2 * PAGE, data + i * (PAGE / 8),
						   PAGE};
	}
	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	cr_assert_eq(placement_write(vm_block(vm, "pc.ram"), pages, PLACEMENT_PAGES_MAX), 0);
	cr_expect_eq(placement_write(vm_block(vm, "pc.ram"), pages, PLACEMENT_PAGES_MAX + 1),
		     -EINVAL);
	for (unsigned int i = 0; i < PLACEMENT_PAGES_MAX; i += 73)
		cr_expect_eq(vm_peek(vm, 2 * MIB + i * 2 * PAGE), i + 1);
	free(pages);
	free(data);
	vm_free(vm);
}

Test(find, qemu_gone__is_told)
{
	struct vm *vm = VM("-m", "64");
	char data[PAGE] = {0};
	const struct placement_page page = {.data = data, .bytes = PAGE};

	vm_find(vm, false, PLACEMENT_WISH_AUTO);
	cr_expect(qemu_process_alive(&vm->process));
	cr_assert_eq(kill(vm->pid, SIGKILL), 0);
	cr_assert_eq(waitid(P_PID, (id_t)vm->pid, NULL, WEXITED | WNOWAIT), 0);
	cr_expect_not(qemu_process_alive(&vm->process));
	cr_expect_eq(placement_write(vm_block(vm, "pc.ram"), &page, 1), -ESRCH);
	vm_free(vm);
}

Test(find, another_user__forwards)
{
	struct vm *vm;
	int status;
	pid_t child;

	if (geteuid() != 0)
		cr_skip_test("only root can become another user");
	vm = VM("-m", "64");
	child = fork();
	cr_assert_geq(child, 0);
	if (child == 0) {
		struct qemu_process process;

		if (setgid(65534) < 0 || setuid(65534) < 0 ||
		    qemu_process_open(vm->pid, &process) < 0)
			_exit(1);
		if (process.accessible || placement_find(&process, NULL, PLACEMENT_WISH_AUTO,
							 vm->blocks, vm->count, vm->placements) < 0)
			_exit(2);
		for (unsigned int i = 0; i < vm->count; i++)
			if (vm->placements[i].kind != PLACEMENT_FORWARD ||
			    strstr(vm->placements[i].reason, "CAP_SYS_PTRACE") == NULL)
				_exit(3);
		_exit(0);
	}
	cr_assert_eq(waitpid(child, &status, 0), child);
	cr_expect(WIFEXITED(status));
	cr_expect_eq(WEXITSTATUS(status), 0);
	vm_free(vm);
}
