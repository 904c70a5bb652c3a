/* SPDX-License-Identifier: MIT */
/*
 * A QEMU process with the reference guest in it, driven over QMP, the guest's ports on socket
 * pairs. Like measure.h, this ends the program when something fails.
 */
#ifndef PERF_MACHINE_H
#define PERF_MACHINE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "beats.h"
#include "channel.h"
#include "measure.h"

struct machine_options {
	const char *qemu;
	const char *image;
	const char *words; /* the guest's command line */
	uint64_t memory;
	bool emulated; /* by TCG, without KVM */
	/*
	 * Where memory is that other processes can map: "" is a memfd, else a folder; NULL:
	 * private.
	 */
	const char *shared;
};

struct machine {
	const char *name;
	pid_t pid; /* 0: none */
	struct channel qmp;
	struct beats_side ports;
	struct cpu_time before; /* the migration */
	struct cpu_time after;
};

/* What the name of a vCPU's thread has in it. */
#define MACHINE_VCPU "CPU "

/* Starts QEMU, with -incoming defer if @incoming, and waits until it takes commands. */
void machine_start(struct machine *m, const struct machine_options *options, bool incoming);

/* Kills QEMU if it runs. */
void machine_end(struct machine *m);

/* A QMP command, and its answer: the caller's. */
__attribute__((format(printf, 2, 3))) struct json_object *machine_command(struct machine *m,
									  const char *fmt, ...);

#endif
