/* SPDX-License-Identifier: MIT */
/*
 * The destination host's service: listens for the services of sources, and serves each migration
 * that one brings. Migrations follow each other and run side by side until it is told to end.
 */
#ifndef QEMU_RECEIVER_H
#define QEMU_RECEIVER_H

#include <stdbool.h>

#include "destination.h"

struct qemu_receiver;

struct qemu_receiver_options {
	const char *uri;
	struct vmferry_transport_options transport;
	struct qemu_destination_options destination; /* but for ended and ctx */
	bool once;				     /* end after the first migration */
	/* In a migration's thread; @report is put afterwards. */
	void (*report)(void *ctx, bool completed, struct json_object *report);
	void *ctx;
	/* In each turn of the loop that serves, at least once a second. NULL: none. */
	void (*alive)(void *alive_ctx);
	void *alive_ctx;
};

int qemu_receiver_open(const struct qemu_receiver_options *options,
		       struct qemu_receiver **receiver);

/* What a sender has to name, with the real port. Owned by the receiver. */
const char *qemu_receiver_uri(const struct qemu_receiver *receiver);

/*
 * Serves until @stop_fd becomes readable, then ends what is under way: QEMUs see their connections
 * closed. With @once 0 for a migration that was completed, -EIO for one that failed; -ECANCELED
 * when it was stopped; else a negative errno.
 */
int qemu_receiver_run(struct qemu_receiver *receiver, int stop_fd);

void qemu_receiver_close(struct qemu_receiver **receiver);

#endif
