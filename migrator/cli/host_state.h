/* SPDX-License-Identifier: MIT */
/* The inside of a host, for host.c (its life) and host_requests.c (what clients ask of it). */
#ifndef CLI_HOST_STATE_H
#define CLI_HOST_STATE_H

#include "control.h"
#include "departure.h"
#include "exit.h"
#include "host.h"

struct host {
	struct log *log;
	bool quiet;
	int signal_fd;
	struct control *control;

	/* Set once a guest is here; NULL before and, after it has left, until host_free(). */
	struct vmm *vmm;

	/*
	 * The wait for a guest. Kept after the arrival: it answers a source that lost the first
	 * answer.
	 */
	struct vmferry_destination *destination;
	struct vmm_arrival arriving;
	const char *arrival_json;
	bool waiting;

	struct departure *departure; /* NULL: none runs */
	uint64_t watcher;	     /* the client who asked for it */
	uint64_t next_progress;
	bool indeterminate; /* a departure ended so: the guest stays paused */

	bool quitting;
	bool over;
	enum exit_code code;
};

/* A control_fn; @ctx is the host. */
void host_request(void *ctx, uint64_t client, struct json_object *request);

/* Asks everything that runs to end; the serving loop does the rest. */
void host_quit(struct host *host);

void host_send_progress(struct host *host);

#endif
