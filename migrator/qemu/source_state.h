/* SPDX-License-Identifier: MIT */
/*
 * What the parts of a source share: source.c (its life and messages), source_main.c,
 * source_channel.c, source_buffers.c, source_report.c.
 */
#ifndef QEMU_SOURCE_STATE_H
#define QEMU_SOURCE_STATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "offload.h"
#include "peer.h"
#include "reader.h"
#include "relay.h"
#include "source.h"
#include "stream.h"
#include "sync.h"

enum decision {
	DECISION_NONE, /* the START phase is not over */
	DECISION_FORWARD,
	DECISION_OFFLOAD,
};

/* Times of CLOCK_MONOTONIC, 0: has not come. */
struct source_moments {
	uint64_t begun;
	uint64_t decided;
	_Atomic uint64_t end;	 /* ram's END section begins: the guest is stopped */
	_Atomic uint64_t pages;	 /* its last page was read */
	_Atomic uint64_t fenced; /* the destination has said that all pages are placed */
	_Atomic uint64_t read;	 /* bytes were last read from a connection */
	uint64_t over;
};

/* The thread that watches. */
struct source_pace {
	uint64_t at_ns;			      /* when it was last looked at, 0: never */
	uint64_t bytes[PEER_CONNECTIONS_MAX]; /* what had been read then */
	uint64_t ahead;			      /* what was ever read of one in AHEAD_NS */
};

struct qemu_source {
	struct qemu_source_options options;
	pid_t pid;
	char name[64];
	pthread_t thread;

	/*
	 * Connections that came before the session was there, and the order in which connections
	 * are opened.
	 */
	pthread_mutex_t join_lock;
	bool ready; /* the relay is there */
	bool cancelled;
	bool over;
	struct early_connection {
		int fd;
		bool multifd;
	} early[PEER_CONNECTIONS_MAX];
	unsigned int early_count;

	bool has_relay;
	struct relay relay;

	/* The relay's lock. */
	enum decision decision;
	struct peer_placed *placed; /* the destination's answer */
	struct ring *rings[PEER_CONNECTIONS_MAX];
	struct json_object *result; /* the destination's report */
	struct sync sync;

	struct stream stream;	/* the main reader's */
	struct offload offload; /* set up before any reader is started */
	struct placement *live; /* the source's own memory, see source_live.c */
	unsigned int live_count;
	/* Why pages are (no longer) offloaded; written before @decision or @stopped. */
	char reason[PEER_REASON_MAX];
	atomic_bool stopped; /* pages stay in the stream from here on */
	struct source_moments moments;
	_Atomic uint64_t relayed_pages;
	_Atomic uint32_t send_buffer; /* of QEMU's connections; 0: the system's default */
	struct source_pace pace;
	/* The return path: where in a message it is, and what the destination's SHUT has said. */
	struct {
		uint8_t head[8];
		unsigned int have;
		uint32_t skip;
		int shut; /* -1: not said, 0: success */
	} back;
};

/* A multifd channel's number in sync; the user pointer of its connection. */
struct source_channel {
	unsigned int number;
};

/*
 * source_main.c and source_channel.c: the readers of connections. 0 when QEMU has closed, or the
 * relay's error.
 */
int source_read_main(struct qemu_source *s, struct connection *c);
int source_read_channel(struct qemu_source *s, struct connection *c, unsigned int channel);

/*
 * Opens the connection's ring, which lives as long as the session: a lane may still have bytes of
 * it to send.
 */
int source_reader_open(struct qemu_source *s, struct connection *c, struct reader *r);

/* Returns when all connections that QEMU has opened so far are there. */
void source_settle(struct qemu_source *s);

/* Waits until it is known whether pages are offloaded. */
int source_await_decision(struct qemu_source *s, enum decision *decision);
void source_decide(struct qemu_source *s, enum decision decision);

/*
 * From now on pages stay in the stream, because of @reason. What this reader has given to lanes is
 * placed before the bytes that it sends from here on reach QEMU; each reader does the same when it
 * sees s->stopped.
 */
int source_stop_offload(struct qemu_source *s, struct reader *r, const char *reason);
int source_fence_reader(struct qemu_source *s, struct reader *r);

/*
 * source_live.c: finds and registers the source QEMU's memory, once it is known what is mapped at
 * the destination; takes it back before the session's end, and gives it back behind it.
 */
int source_open_live(struct qemu_source *s);
void source_close_live(struct qemu_source *s);
void source_release_live(struct qemu_source *s);

/*
 * source_buffers.c: QEMU's send buffers. Opened when all of its connections are there; adapted to
 * what is read from them from time to time, by one thread.
 */
void source_open_buffers(struct qemu_source *s);
void source_adapt_buffers(struct qemu_source *s);

/* source_report.c */
struct json_object *source_report(struct qemu_source *s, bool completed);

#endif
