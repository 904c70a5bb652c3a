/* SPDX-License-Identifier: MIT */
/*
 * The destination's end of one migration: it opens QEMU's connections, finds and registers QEMU's
 * memory, and gives to QEMU what is handed on.
 */
#ifndef QEMU_DESTINATION_H
#define QEMU_DESTINATION_H

#include <stdbool.h>

#include <vmferry/transport.h>

#include "placement.h"

struct json_object;
struct qemu_destination;

struct qemu_destination_options {
	const char *incoming; /* path of QEMU's incoming socket; NULL: the same as at the source */
	const char *qmp;      /* path of QEMU's QMP socket, NULL: none */
	enum placement_wish place;
	bool allow_autostart; /* also with a return path, see destination.c */
	unsigned int populate_threads;
	/* The migration is over; @report is the callee's. From the destination's own thread. */
	void (*ended)(void *ctx, struct qemu_destination *destination, bool completed,
		      struct json_object *report);
	void *ctx;
};

/*
 * Serves a source that vmferry_accept() has brought; the session is the callee's, also on failure.
 */
int qemu_destination_start(const struct qemu_destination_options *options,
			   struct vmferry_session *session, struct qemu_destination **destination);

/* Ends the migration: QEMU sees its connections closed. Any thread. */
void qemu_destination_cancel(struct qemu_destination *destination);

/* Waits for the thread, behind ended(), and frees it. */
void qemu_destination_free(struct qemu_destination **destination);

#endif
