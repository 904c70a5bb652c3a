/* SPDX-License-Identifier: MIT */
/*
 * What the parts of a destination share: destination.c (its life and connections) and
 * destination_place.c (QEMU's memory).
 */
#ifndef QEMU_DESTINATION_STATE_H
#define QEMU_DESTINATION_STATE_H

#include <string.h>

#include "destination.h"
#include "peer.h"
#include "process.h"
#include "relay.h"

struct qemu_destination {
	struct qemu_destination_options options;
	char name[64];
	char path[PEER_PATH_MAX];
	pthread_t thread;
	pthread_mutex_t cancel_lock;
	bool over; /* the relay is closed, or about to be */
	struct relay relay;

	/* The message thread's, and that of whoever comes behind it. */
	bool greeted;
	bool done; /* the source says that it was completed */
	struct qemu_process process;
	struct placement *placements;
	struct vmferry_memory **memories; /* of each block, NULL: not registered */
	unsigned int placement_count;
	bool pins_freely; /* exempt from the memlock limit */
	uint64_t registered_bytes;
	uint8_t *staging;
	struct vmferry_memory *staging_memory;
	struct populate *populate;
	bool passing;
	char reason[PEER_REASON_MAX];
	uint64_t begun_ns;
	uint64_t copied_pages;
	uint64_t copied_zero_pages;

	/* The relay's lock. */
	uint64_t fence_ns;  /* how long the last fence was waited for */
	uint64_t fenced_ns; /* when it was passed, 0: it was not */
};

static inline int destination_fail(struct qemu_destination *d, int error, const char *what)
{
	return relay_fail(&d->relay, error, "%s: %s", what, strerror(-error));
}

/*
 * destination_place.c: messages about memory. The message thread's; an error has ended the relay.
 */
int destination_take_blocks(struct qemu_destination *d, const struct vmferry_message *m);
int destination_take_ahead(struct qemu_destination *d, const struct vmferry_message *m);
int destination_take_staged(struct qemu_destination *d, const struct vmferry_message *m);

/*
 * Takes memory back and frees what was made for it: in two steps, before and behind the end of the
 * session.
 */
void destination_deregister(struct qemu_destination *d);
void destination_release(struct qemu_destination *d);

#endif
