/* SPDX-License-Identifier: MIT */
/*
 * A process that has a guest, or waits for one to arrive: what run, receive and the two halves of
 * demo share. It serves the control socket, migrates the guest away when asked, and lives until the
 * guest is gone.
 */
#ifndef CLI_HOST_H
#define CLI_HOST_H

#include <stdbool.h>

#include "log.h"
#include "settings.h"

struct host_setup {
	const char *control; /* path of the control socket; NULL: one of this process' own */
	int control_fd;	     /* already listening at @control; -1: not yet */
	bool quiet;	     /* print nothing but errors */
	struct log *log;
};

struct host;

/*
 * Blocks signals and listens at the control socket; errors are printed. Before any thread is made.
 */
int host_new(const struct host_setup *setup, struct host **host);

/* The guest that runs here; the host owns it from now on. */
void host_adopt(struct host *host, struct vmm *vmm);

/* Listens for a guest; errors are logged. What it is given stays the host's until host_free(). */
struct host_arrival {
	const char *uri;
	const struct transport_settings *transport;
	const char *json; /* where the report of the arrival goes, NULL: nowhere */
	uint64_t memory_limit;
	int numa_node;
	int console_fd;
	bool insecure;
};
int host_await(struct host *host, const struct host_arrival *arrival);

/* Serves until it is over and returns the exit status. */
int host_serve(struct host *host);

void host_free(struct host **host);

#endif
