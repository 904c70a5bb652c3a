/* SPDX-License-Identifier: MIT */
/*
 * The barriers of multifd. QEMU ends a round over its memory by a SYNC packet on every channel, and
 * sends a newer copy of a page, on whatever channel, only behind it. A reader that has read a SYNC
 * therefore waits until all have: then every older copy was given to its lane before any newer one
 * is.
 *
 * The main stream takes part, too, since pages of zeroes come there in machine types up to 8.2:
 * with its FLUSH records, or with the ends of its sections up to 8.0. Some versions omit the last
 * FLUSH: the end of pages opens the barrier for channels.
 *
 * THREADS  All fields belong to the relay's lock, all calls take it.
 */
#ifndef QEMU_SYNC_H
#define QEMU_SYNC_H

#include <stdbool.h>
#include <stdint.h>

#include "relay.h"

struct sync_channel {
	struct connection *connection; /* set before it is first idle */
	uint64_t syncs;
	bool forwards; /* gives nothing to lanes any more */
	bool waits;    /* for the others, with all before its SYNC given to lanes */
	/* at a packet's boundary, with all before it given to lanes: it waits for QEMU */
	bool idle;
	bool ended; /* QEMU has closed it, or nobody looks for its SYNC any more */
};

struct sync {
	struct relay *relay;
	unsigned int channel_count;
	struct sync_channel channels[PEER_CONNECTIONS_MAX];
	bool ending;
	uint64_t main_syncs;
};

/* A further channel, before the first page: its number, or -ENOSPC. */
int sync_add_channel(struct sync *sync);

bool sync_has_channels(const struct sync *sync);

/* The channel has read a SYNC: waits for the others. */
int sync_channel_arrives(struct sync *sync, unsigned int channel);

/*
 * The main stream has come to the record that belongs to the channels' next SYNC: waits for them if
 * @wait.
 */
int sync_main_arrives(struct sync *sync, bool wait);

/* The main stream comes to no SYNC any more. */
void sync_main_ended(struct sync *sync);

void sync_channel_idle(struct sync *sync, unsigned int channel, bool idle);
void sync_channel_forwards(struct sync *sync, unsigned int channel);
void sync_channel_ended(struct sync *sync, unsigned int channel);

/*
 * The main stream has come to the end of all pages: waits until every channel has read what QEMU
 * has sent on it. A unix socket has it all by then, since QEMU writes the last SYNC packets before
 * it ends the section.
 */
int sync_drain(struct sync *sync, uint64_t deadline);

/*
 * Pages stay in the stream, which the caller has made known, and the main stream comes to no SYNC
 * any more: waits until every channel has given to lanes what it has read, and will look before it
 * gives them more.
 */
int sync_stop(struct sync *sync, uint64_t deadline);

#endif
