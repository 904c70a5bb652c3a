/* SPDX-License-Identifier: MIT */
/*
 * The two processes of a demo: a host in a process of its own each, with its control socket
 * connected.
 */
#ifndef CLI_CHILD_H
#define CLI_CHILD_H

#include <sys/types.h>

#include "client.h"
#include "host.h"

#define CHILD_PATH_MAX 96

struct child {
	const char *name; /* "source" */
	pid_t pid;	  /* 0: none */
	char path[CHILD_PATH_MAX];
	struct client *client;
};

/* What the process does once its host is there; its exit status. */
typedef int (*child_fn)(void *ctx, struct host *host);

/*
 * Forks and connects, with a control socket in @directory. The process ends with this one at the
 * latest, and Ctrl-C does not reach it. Not while this process has threads. Errors are printed.
 */
int child_start(struct child *child, const char *name, const char *directory, struct log *log,
		child_fn fn, void *ctx);

/*
 * Asks for its status: the caller puts it. -EINTR for a signal; -ECONNRESET, which is printed, when
 * it is gone.
 */
int child_status(struct child *child, int signal_fd, struct json_object **status);

/* Waits for the process to end, and kills it if it has not by @deadline. */
void child_reap(pid_t pid, uint64_t deadline);

/* Asks it to quit, kills it if it does not, and waits for it. Accepts one that never started. */
void child_stop(struct child *child);

#endif
