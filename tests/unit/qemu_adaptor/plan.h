/* SPDX-License-Identifier: MIT */
/* A migration as a QEMU would do it: what its stream looks like, and the two QEMUs. */
#ifndef TEST_PLAN_H
#define TEST_PLAN_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "guest.h"

#define PLAN_CHANNELS_MAX 16u
#define PLAN_TAIL_BYTES	  40000u

struct plan {
	uint64_t seed;
	unsigned int channels; /* of multifd, 0: all in the main stream */
	unsigned int rounds;
	bool legacy_zero;   /* pages of zeroes in the main stream: machine types up to 8.2 */
	bool sections_sync; /* a SYNC for each section: machine types up to 8.0 */
	bool pages_in_sync; /* SYNC packets carry pages, too: QEMU before 9.0 */
	bool no_last_flush; /* as some versions do */
	bool return_path;
	bool compressed;     /* packets of a kind that is left to QEMU */
	unsigned int xbzrle; /* from this round on, 0: never */
	const char *foreign; /* a section that is not RAM, behind that of RAM */
	bool late_device;    /* the same behind the first round, which no QEMU does */
	bool early_device;   /* a FULL section before the first page, as of virtio-mem */
	uint64_t cut;	     /* the source QEMU closes all after so many bytes; 0: does not */
};

/* The device state behind the pages. */
void plan_tail(const struct plan *plan, uint8_t tail[PLAN_TAIL_BYTES]);

/* ---- the source QEMU ---- */

struct qemu_from {
	const struct plan *plan;
	struct guest *guest;
	int main;
	int channels[PLAN_CHANNELS_MAX];
	pthread_t thread;
	uint64_t random;
	uint64_t written;
	bool broken; /* a connection was closed before all was written */
	int shut;    /* what the return path has said, -1: nothing */
	uint8_t *buffer;
	size_t used;
};

/* @fds are QEMU's ends: the main one, then the channels'. */
void qemu_from_start(struct qemu_from *q, const struct plan *plan, struct guest *guest,
		     const int *fds);
/*
 * Whether all was written, and with a return path the destination has said that it has loaded the
 * guest.
 */
bool qemu_from_join(struct qemu_from *q);

/* ---- the destination QEMU ---- */

struct qemu_to;

struct qemu_to_channel {
	struct qemu_to *to;
	int fd;
	pthread_t thread;
	unsigned int number; /* among the channels */
	bool started;
};

struct qemu_to {
	const struct plan *plan;
	struct guest *guest;
	int listener;
	pthread_t thread;
	atomic_bool stop;
	struct qemu_to_channel connections[PLAN_CHANNELS_MAX + 1];
	unsigned int connection_count;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned int channel_count;
	unsigned int syncs[PLAN_CHANNELS_MAX];
	unsigned int main_syncs;
	unsigned int released;
	bool channel_ended[PLAN_CHANNELS_MAX];
	bool over;

	/* What came of it. */
	bool ended;		   /* END's EOS was read */
	unsigned int wrong_at_end; /* pages that were wrong at that moment */
	bool tail_right;	   /* the device state came as it was written */
	bool loaded;
	unsigned int placed_by_qemu; /* pages that came in the stream */
};

void qemu_to_start(struct qemu_to *q, const struct plan *plan, struct guest *guest,
		   const char *path);
/* Whether the adaptor has connected to it. */
bool qemu_to_is_connected(struct qemu_to *q);
void qemu_to_join(struct qemu_to *q);

#endif
