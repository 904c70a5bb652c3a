/* SPDX-License-Identifier: MIT */
/*
 * The source host's service: listens at a unix socket for QEMUs that migrate, and for each starts a
 * migration to the destination's service. Migrations follow each other and run side by side until
 * it is told to end.
 */
#ifndef QEMU_SENDER_H
#define QEMU_SENDER_H

#include <stdbool.h>

#include "source.h"

struct qemu_sender;

struct qemu_sender_options {
	const char *uri;  /* the destination's service */
	const char *path; /* of the socket to listen at */
	/* a socket that listens already, for socket activation; -1: make one at @path */
	int listen_fd;
	const char *group; /* may connect, too; NULL: the owner only */
	struct vmferry_transport_options transport;
	bool require_offload;
	bool live;	 /* see struct qemu_source_options */
	const char *qmp; /* for @live */
	bool once;	 /* end after the first migration */
	/* In a migration's thread; @report is put afterwards. */
	void (*report)(void *ctx, bool completed, struct json_object *report);
	void *ctx;
	/* In each turn of the loop that serves, at least once a second. NULL: none. */
	void (*alive)(void *alive_ctx);
	void *alive_ctx;
};

/* -EADDRINUSE when somebody listens at the path already. */
int qemu_sender_open(const struct qemu_sender_options *options, struct qemu_sender **sender);

/*
 * Serves until @stop_fd becomes readable, then ends what is under way: QEMUs see their connections
 * closed and their guests run on. With @once 0 for a migration that was completed, -EIO for one
 * that failed; -ECANCELED when it was stopped; else a negative errno.
 */
int qemu_sender_run(struct qemu_sender *sender, int stop_fd);

void qemu_sender_close(struct qemu_sender **sender);

#endif
