/* SPDX-License-Identifier: MIT */
/*
 * A QEMU that waits for a guest at a unix socket, and the connection to it: nothing boots. The
 * program is QEMU's of the host, or what the variable QEMU names.
 */
#ifndef TESTS_QEMU_FIND_VM_H
#define TESTS_QEMU_FIND_VM_H

#include "migrator/qemu/placement.h"
#include "migrator/qemu/process.h"

#define MIB (UINT64_C(1) << 20)

#define VM_BLOCKS_MAX 32

struct qmp;

struct vm {
	pid_t pid;
	int incoming; /* the connection */
	char folder[64];
	struct qmp *qmp;
	struct qemu_process process;
	unsigned int count;
	struct placement_block blocks[VM_BLOCKS_MAX];
	struct placement placements[VM_BLOCKS_MAX];
};

/*
 * Starts it with @options, a list of words that NULL ends, and takes the list of its blocks. Skips
 * the test where there is no QEMU.
 */
struct vm *vm_new(const char *const *options);
void vm_free(struct vm *vm);

#define VM(...) vm_new((const char *const[]){__VA_ARGS__, NULL})

/* placement_find(), with QMP or without; and the placement of the block @name. */
void vm_find(struct vm *vm, bool qmp, enum placement_wish wish);
struct placement *vm_block(struct vm *vm, const char *name);

/* What QEMU has at a guest-physical address. */
uint64_t vm_peek(struct vm *vm, uint64_t gpa);

uint64_t vm_deadline(void);

#endif
