/* SPDX-License-Identifier: MIT */
/* The two ends of the adaptor as processes of qemu-migrate's own, for one migration. */
#ifndef CLI_QEMU_ENDS_H
#define CLI_QEMU_ENDS_H

#include <sys/types.h>

#include "../qemu/receiver.h"
#include "../qemu/sender.h"
#include "lines.h"

struct json_object;

struct qemu_end {
	const char *name; /* "qemu-send" */
	pid_t pid;	  /* 0: none */
	int fd;		  /* it tells its address by this, and its report */
	struct lines lines;
};

#define QEMU_END_ADDRESS_MAX 160

/*
 * Starts one and waits until it listens; @address is where. They end with this process at the
 * latest, and Ctrl-C does not reach them. Not while this process has threads. -EADDRINUSE: another
 * one listens there, which is no error. Any other is one, and logged.
 */
int qemu_end_send(struct qemu_end *end, const struct qemu_sender_options *options,
		  char address[QEMU_END_ADDRESS_MAX]);
int qemu_end_receive(struct qemu_end *end, const struct qemu_receiver_options *options,
		     char address[QEMU_END_ADDRESS_MAX]);

/* Its report, the caller's to put; NULL when there is none by @deadline, or it never started. */
struct json_object *qemu_end_report(struct qemu_end *end, uint64_t deadline);

/* Tells it to end, kills it if it does not, and waits for it. Accepts one that never started. */
void qemu_end_stop(struct qemu_end *end);

/*
 * Whether a receiver for @uri can be started here: 0; -EADDRINUSE: one listens there;
 * -EADDRNOTAVAIL: it is another host's.
 */
int qemu_end_probe(const char *uri);

#endif
