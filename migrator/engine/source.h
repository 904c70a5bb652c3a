/* SPDX-License-Identifier: MIT */
/*
 * The source's insides, shared by its files: source.c (the object), source_run.c (the way from
 * SETUP to the end), source_precopy.c, source_switchover.c, source_reconnect.c, source_report.c.
 *
 * OWNERSHIP  Everything belongs to the control thread while it runs, but for what is marked
 *            otherwise.
 */
#ifndef ENGINE_SOURCE_H
#define ENGINE_SOURCE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <vmferry/migration.h>

#include "guest_memory.h"
#include "harvester.h"
#include "hash.h"
#include "lanes.h"
#include "messages.h"
#include "migrator/dirty/map.h"
#include "migrator/dirty/tracker.h"
#include "page_sets.h"
#include "phase.h"
#include "predict.h"

/* The control thread looks at cancel, timeout and lanes this often. */
#define SOURCE_TICK_NS 2000000ull

#define SAMPLES_MAX 64u
#define REASON_MAX  512u
#define LOSSES_MAX  64u

/* How pre-copy went, at regular intervals that double when the list is full. */
struct source_sample {
	uint64_t at_ns; /* since the migration began */
	uint64_t sent_bytes;
	uint64_t remaining_bytes;
	uint64_t dirty_rate;
	uint64_t predicted_ns;
};

/* Moments of the switchover, CLOCK_MONOTONIC. */
struct source_moments {
	uint64_t pause; /* the blackout begins */
	uint64_t paused;
	uint64_t harvested;
	uint64_t saved;
	uint64_t state_sent;
	uint64_t lanes_done;
	uint64_t ready;
	uint64_t go;
	uint64_t running;
	uint64_t resumed; /* only when it failed */
};

/* A connection that was lost. Times in nanoseconds. */
struct source_loss {
	uint64_t at_ns; /* since the migration began */
	enum vmferry_phase phase;
	uint64_t resumed_ns; /* until pages went out again, 0: they never did */
	/* how long the guest had been paused for the switchover, 0: it was not */
	uint64_t paused_ns;
	uint64_t bytes_again;
	const char *transport; /* that was lost, and that it goes on with */
	const char *transport_then;
	char cause[REASON_MAX];
};

struct vmferry_source {
	/* Set by new, then read only. */
	struct vmferry_vm vm;
	struct vmferry_source_ops ops;
	struct vmferry_source_options options;
	void *ctx;
	char *uri;
	struct rejoin identity;

	/* Shared: atomics and what @lock guards. */
	struct phase_machine phase;
	pthread_mutex_t lock;
	pthread_cond_t over;
	bool cancelled; /* @lock */
	bool committed; /* @lock: GO may have been said, cancel comes too late */
	bool ended;	/* @lock */
	int result;	/* @lock, valid when ended */
	int done_fd;	/* eventfd */
	_Atomic uint64_t predicted_ns;
	_Atomic uint64_t bandwidth; /* placed bytes a second */
	_Atomic uint64_t remaining;
	_Atomic uint32_t round;
	_Atomic uint64_t sent_bytes;
	_Atomic uint64_t content_bytes;
	_Atomic uint64_t ended_ns;
	_Atomic uint32_t loss_count;
	_Atomic bool reconnecting;
	struct harvester harvester; /* its own rules */
	struct dirty_map *map;	    /* atomic bits */
	struct guest_memory memory; /* its own rules */

	/* Control thread. */
	bool started;
	pthread_t thread;
	struct vmferry_session *session;
	struct tracker *tracker;
	struct page_sets *sets;
	struct lane_pool *lanes;
	bool paused; /* by us */
	uint64_t began_ns;
	uint64_t precopy_ns; /* moment */
	uint64_t pass_ns;    /* moment: the first pass of this connection began */
	bool tracked;	     /* the map has all that was not sent: a connection may be lost */
	struct source_loss losses[LOSSES_MAX]; /* the first @loss_count, as far as there is room */
	/*
	 * Of connections one after another of which none got through its first pass: when the first
	 * was lost, and how often.
	 */
	uint64_t vain_since_ns;
	unsigned int vain_count;
	uint64_t refused_since_ns; /* since when nobody listens there, 0: somebody does */
	bool tcp_refused;	   /* the destination wants nothing but RDMA */
	struct predict_parts parts;
	uint64_t ping_sent_ns;
	uint64_t pong_ns;      /* last sign of life */
	uint64_t rehearsed_ns; /* when the last rehearsal was */
	uint32_t rehearsals;
	struct vmferry_blob
		*state;	 /* of the last save, its memory kept from the first rehearsal on */
	uint32_t fence;	 /* the last that was set or asked for */
	bool marking;	 /* --verify: lanes are setting @fence */
	bool hash_asked; /* --verify: HASH was said and HASHED has not come */
	bool hashed;	 /* --verify: everything was hashed once */
	uint32_t hash_rounds;
	uint64_t hash_ns;
	struct hash_table *hashes; /* of the destination, when --verify */
	uint64_t mismatches;
	int verified; /* -1 not asked or not known, 0 differs, 1 equal */
	struct source_sample samples[SAMPLES_MAX];
	uint32_t sample_count;
	uint64_t sample_every_ns;
	struct source_moments at;
	struct destination_times there;
	struct closing closing; /* words not kept */
	uint64_t state_bytes;
	uint64_t residual_pages;
	uint64_t blackout_ns;
	uint64_t predicted_at_switch_ns;
	struct lane_totals totals; /* of the connections that are over */
	uint64_t minimum_bytes;	   /* pages that had to be sent, each once */
	struct vmferry_problems *problems;
	char reason[REASON_MAX];
	const char *tracker_name;
	const char *transport; /* static text of the transport's, NULL before there is a session */
	char transport_reason[200];
	unsigned int lane_count;
	struct vmferry_registration_stats registration;
	uint64_t wire_bytes;
	uint64_t placed_bytes;
	uint64_t submissions;
	uint64_t requests;
	uint64_t signals;
	uint64_t stall_ns;
	uint64_t cpu_ns;
};

/* The control thread's way, source_run.c. */
void *source_main(void *arg);

/*
 * Waits for one message until @deadline, in ticks, answering pings and looking at cancel, the time
 * limit and the lanes. 0 and a message of type @expected; its data is the caller's.
 */
int source_expect(struct vmferry_source *s, uint32_t expected, uint64_t deadline,
		  struct vmferry_message *message);

/* -ECANCELED after a cancel, -ETIME past the time limit, the lanes' error; else 0. */
int source_check(struct vmferry_source *s);

/* One turn: takes a message if one comes before the tick ends and deals with PONG and HASHED. */
int source_tick(struct vmferry_source *s);

/* Remembers why it ended, the first time. */
__attribute__((format(printf, 2, 3))) void source_because(struct vmferry_source *s, const char *fmt,
							  ...);

/*
 * Releases what belongs to the connection, and the connection, in the order in which they lean on
 * each other.
 */
void source_disconnect(struct vmferry_source *s);

/* The guest runs on, if it is paused by us. */
void source_resume_guest(struct vmferry_source *s);

/* The migration is another one from now on: identifiers are used once. */
int source_new_identity(struct vmferry_source *s);

/* CHECK: the offer and the verdict, two rehearsals, the round trip. */
int source_enter_check(struct vmferry_source *s);

/* The transport's options of each connection: they say how much memory there is. */
struct vmferry_transport_options source_transport(const struct vmferry_source *s);

/* What the transport says of the session that has just been connected. -EPROTO without lanes. */
int source_take_session(struct vmferry_source *s);

/* PRECOPY begins: tracking, and the first pass; source_precopy.c. */
int source_begin(struct vmferry_source *s);

/* The lanes of a new connection begin with what is dirty. */
int source_begin_again(struct vmferry_source *s);

/* PRECOPY until the blackout is predicted to be short enough. */
int source_precopy(struct vmferry_source *s);

/* Why the connection was lost the last time. */
const char *source_last_cause(const struct vmferry_source *s);

/*
 * Whether @r means that the connection was lost before GO, and trying again is wanted;
 * source_reconnect.c.
 */
bool source_is_lost(struct vmferry_source *s, int r);

/*
 * After source_is_lost(): connects again and goes back to PRECOPY, with all that may not have
 * arrived dirty again; or, where no page has been sent yet, begins anew. 0, or what the migration
 * ends with.
 */
int source_reconnect(struct vmferry_source *s);

/* What the blackout would be now. */
uint64_t source_predict(struct vmferry_source *s);

/*
 * SWITCHOVER up to RUNNING; source_switchover.c. 0: the guest runs at the destination. Before the
 * commit point any error; behind it -EINPROGRESS if nobody knows, or -ECONNABORTED if the
 * destination has given up for good.
 */
int source_switchover(struct vmferry_source *s);

/*
 * A pause, save and resume whose cost goes into the prediction, and whose state the destination
 * loads for trial: a state that cannot be loaded there is found here, with the guest running.
 */
int source_rehearse(struct vmferry_source *s);

/* Takes the destination's hashes and compares; source_switchover.c. */
int source_verify(struct vmferry_source *s);

#endif
