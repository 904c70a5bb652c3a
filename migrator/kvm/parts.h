/* SPDX-License-Identifier: MIT */
/*
 * State that KVM gives and takes in parts, by one ioctl each. A table of parts in the order of
 * saving, and a list of sections in the order of loading, is nearly all there is to say about a
 * vCPU or a VM.
 */
#ifndef KVM_PARTS_H
#define KVM_PARTS_H

#include "sections.h"

/* A vCPU or VM while it is saved or loaded. */
struct machine {
	const char *object; /* for the log: "vcpu", "vm" */
	int fd;		    /* of the vCPU or VM: borrowed */
	int vm_fd;
	struct vmferry_blob *blob; /* when saving */
};

struct part {
	enum section_id id;
	unsigned long get;
	unsigned long set;
	int cap;    /* 0: every KVM has it */
	int absent; /* errno that says that this machine has no such part; 0: it always has */
	int (*save)(const struct part *part, const struct machine *m); /* NULL: one structure */
	int (*load)(const struct part *part, const struct machine *m, const struct section *s);
};

/* ioctl() that returns -errno. */
int kvm_ioctl(int fd, unsigned long request, void *argument);

/* KVM_CHECK_EXTENSION, 0 if it fails. */
int kvm_capability(int fd, int cap);

/* Logs a failed get or set with its cause and returns @error. */
int part_failed(const struct part *part, const struct machine *m, const char *what, int error);

/* -ENOTSUP, logged, if the kernel cannot take this part. */
int part_check_cap(const struct part *part, const struct machine *m);

int part_set(const struct part *part, const struct machine *m, void *argument);

int parts_save(const struct part *parts, size_t count, const struct machine *m);

/* Loads the sections that are there in the order of @order, which names each part once. */
int parts_load(const struct part *parts, size_t count, const enum section_id *order,
	       const struct machine *m, const struct sections *found);

#endif
