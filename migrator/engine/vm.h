/* SPDX-License-Identifier: MIT */
/* A VM's description, checked and copied, as both engines keep it. */
#ifndef ENGINE_VM_H
#define ENGINE_VM_H

#include <vmferry/migration.h>

/* Copies the structure and its arrays. -EINVAL, logged, for a region table that is not sound. */
int vm_copy(const struct vmferry_vm *from, struct vmferry_vm *to);
void vm_release(struct vmferry_vm *vm);

#endif
