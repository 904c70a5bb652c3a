/* SPDX-License-Identifier: MIT */
/*
 * vmferry between two QEMUs on this host: a `vmferry qemu-send` for the source and a `vmferry
 * qemu-receive` for the destination. Like measure.h, this ends the program when something fails.
 */
#ifndef PERF_ADAPTORS_H
#define PERF_ADAPTORS_H

#include <sys/types.h>

#include "measure.h"

struct adaptor {
	const char *name;
	pid_t pid; /* 0: none */
	struct cpu_time before;
	struct cpu_time after;
	char report[96];
};

struct adaptors_options {
	const char *vmferry;
	const char *place; /* where the receiver places memory, NULL: its default */
	const char *rail;  /* address of an RDMA port of this host, NULL: over TCP */
};

struct adaptors {
	char directory[32];
	char source[64];      /* URI for the source QEMU */
	char destination[64]; /* and for the destination */
	struct adaptor send;
	struct adaptor receive;
};

/* Starts both and waits until both listen. @port, for what they tell each other, has to be free. */
void adaptors_start(struct adaptors *a, const struct adaptors_options *options, unsigned int port);

/* Kills what runs and removes the files. */
void adaptors_end(struct adaptors *a);

/*
 * Waits for the reports of both and prints each number in them as "send/NAME value" and
 * "receive/NAME value". Fails if the pages went another way than @options ask for.
 */
void adaptors_print(const struct adaptors *a, const struct adaptors_options *options);

#endif
