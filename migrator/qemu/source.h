/* SPDX-License-Identifier: MIT */
/*
 * The source's end of one migration: it reads QEMU's connections, moves pages by lanes, and hands
 * the rest on. Nothing is dropped from the stream before its whole START phase was understood and
 * the destination has said where the blocks are.
 */
#ifndef QEMU_SOURCE_H
#define QEMU_SOURCE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <vmferry/transport.h>

struct json_object;
struct qemu_source;

struct qemu_source_options {
	const char *uri;  /* the destination's adaptor */
	const char *path; /* of the socket where QEMU has connected, told to the destination */
	struct vmferry_transport_options transport;
	bool require_offload; /* fail rather than pass through */
	bool live;	      /* write pages from QEMU's memory, where that is safe; else fail */
	const char *qmp;      /* path of QEMU's QMP socket, for @live; NULL: none */
	/*
	 * In the main stream's thread, when QEMU has opened all its channels: they are to be joined
	 * before it returns.
	 */
	void (*settle)(void *ctx);
	/* The migration is over; @report is the callee's. From the source's own thread. */
	void (*ended)(void *ctx, struct qemu_source *source, bool completed,
		      struct json_object *report);
	void *ctx;
};

/* Starts a migration with its main connection. @fd is the callee's, also on failure. */
int qemu_source_start(const struct qemu_source_options *options, int fd, pid_t pid,
		      struct qemu_source **source);

/*
 * A further connection of the same QEMU, a multifd channel or of unknown use. @fd is the callee's.
 * Any thread.
 */
void qemu_source_join(struct qemu_source *source, int fd, bool multifd);

/* Whether further multifd channels can join: not once pages are offloaded. */
bool qemu_source_is_open(struct qemu_source *source);

pid_t qemu_source_pid(const struct qemu_source *source);

/* Ends the migration: QEMU sees its connections closed and runs on. Any thread. */
void qemu_source_cancel(struct qemu_source *source);

/* Waits for the thread, behind ended(), and frees it. */
void qemu_source_free(struct qemu_source **source);

#endif
