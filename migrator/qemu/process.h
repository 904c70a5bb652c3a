/* SPDX-License-Identifier: MIT */
/*
 * A QEMU process, as /proc tells of it: whether it starts its guest by itself, and what is mapped
 * where.
 */
#ifndef QEMU_PROCESS_H
#define QEMU_PROCESS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define PROCESS_NAME_MAX 256

struct qemu_process {
	pid_t pid;
	int pidfd;		     /* readable when it has ended; -1: closed */
	bool autostart;		     /* no -S: it starts the received guest by itself */
	bool incoming;		     /* -incoming is on its command line */
	bool deferred;		     /* -incoming defer: it is told later where to listen */
	bool accessible;	     /* its memory may be read and written by this process */
	char name[PROCESS_NAME_MAX]; /* the guest's, of -name; else the program's */
};

/*
 * The process that listens at the other end of @fd, a connected unix socket. -ENXIO: it is not
 * visible from here.
 */
int qemu_process_of_socket(int fd, struct qemu_process *process);

int qemu_process_open(pid_t pid, struct qemu_process *process);

/* May be called again, and for a process whose pidfd is -1. */
void qemu_process_close(struct qemu_process *process);

bool qemu_process_alive(const struct qemu_process *process);

/* An area of /proc/PID/smaps; areas that continue each other in one file are one. */
struct process_mapping {
	uint64_t address;
	uint64_t bytes;
	uint64_t offset; /* in the file */
	uint64_t inode;	 /* 0: no file */
	dev_t dev;
	bool writable;
	bool shared;
	bool deleted; /* also true for a memfd */
	bool hugetlb;
	bool dontfork;	     /* no child gets it, as of QEMU's RAM */
	bool guarded;	     /* an inaccessible page follows, as behind each block of QEMU's RAM */
	uint64_t page_bytes; /* the host's; huge with hugetlb */
	int file; /* a descriptor of the process that is open on it; -1: none was found */
	char path[PROCESS_NAME_MAX];
};

/*
 * The mappings of @pid that may be a guest's RAM: readable, writable, no code, no stack, no heap.
 * Returns how many there are, at most @max, or a negative errno; -E2BIG: there are more.
 */
int process_mappings(pid_t pid, struct process_mapping *list, unsigned int max);

#endif
