/* SPDX-License-Identifier: MIT */
/*
 * The destination's insides, shared by destination.c (the object and its listener),
 * destination_attempt.c (one attempt from OFFER to RUNNING) and report.c.
 *
 * A connection that is lost before GO is replaced by another one of the same source, which names
 * the migration and proves that it knows its secret. The old one is closed first, memory
 * deregistered: nothing that was sent over it can arrive afterwards.
 *
 * OWNERSHIP  The attempt belongs to the control thread. The listener's thread accepts sessions. A
 *            thread for each receives its first message, answers a QUERY, and hands an OFFER or a
 *            REJOIN over through @handed under @lock.
 */
#ifndef ENGINE_DESTINATION_H
#define ENGINE_DESTINATION_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#include <vmferry/migration.h>

#include "guest_memory.h"
#include "hasher.h"
#include "messages.h"
#include "ledger.h"
#include "pending.h"
#include "phase.h"
#include "populate.h"

/* One source's try. Zeroed before each. */
struct attempt {
	struct vmferry_session
		*session; /* others may only shut it down, under the destination's lock */
	char peer[80];	  /* of the last session, for the log */
	struct vmferry_message first; /* the OFFER; @offer points into it */
	struct offer offer;
	struct vmferry_vm vm; /* a copy of what prepare() gave */
	bool prepared;
	struct populate *populate;
	struct hasher *hasher; /* --verify */
	uint32_t last_fence;   /* from ARM, 0: not armed */
	struct destination_times times;
	uint64_t offer_ns; /* moment */
	uint64_t prepare_ns;
	uint64_t populate_ns;
	uint64_t rehearse_ns;
	uint64_t placed_bytes; /* 0 also where nobody here sees what is placed, as over RDMA */
	uint64_t lanes_cpu_ns;
	unsigned int losses; /* of the connection */
	unsigned int lanes;
	const char *transport;
	char transport_reason[200];
	struct vmferry_registration_stats registration;
	char reason[512];
};

struct vmferry_destination {
	/* Set by new, then read only. */
	struct vmferry_destination_ops ops;
	void *ctx;
	struct vmferry_destination_options options;
	struct vmferry_listener *listener;
	int done_fd;

	struct phase_machine phase;
	struct commit_ledger ledger;
	_Atomic bool cancelled;
	bool started;
	pthread_t listen_thread;
	struct pending pending; /* listener's thread */
	pthread_t control_thread;

	pthread_mutex_t lock;
	pthread_cond_t changed;		/* @handed, or over */
	struct vmferry_session *handed; /* @lock: accepted, not yet taken by the control thread */
	struct vmferry_message offered; /* @lock: its OFFER */
	bool busy;	      /* @lock: the control thread is at an attempt, or done for good */
	bool listening_ended; /* @lock */
	struct vmferry_session *current; /* @lock: for shutting down */
	struct rejoin identity; /* @lock: whose connection may be replaced, if @may_rejoin */
	bool may_rejoin;	/* @lock */
	/*
	 * @lock: offers that wait, and where the last of them comes from: should that be the host
	 * that is waited for, it is not any more.
	 */
	unsigned int offers;
	char offers_from[80];
	bool over;  /* @lock */
	int result; /* @lock */

	struct guest_memory memory; /* its own rules; of the last VM that was prepared */
	struct attempt attempt;	    /* control thread */
	int attempt_result;	    /* control thread; read by the report when not busy */
};

/*
 * From now on the source of the current attempt may come with another connection; none does any
 * more. Control thread.
 */
void destination_allow_rejoin(struct vmferry_destination *d);
void destination_forbid_rejoin(struct vmferry_destination *d);

/*
 * The attempt's connection is lost: closes it, then waits for the next one. 0: the attempt has it.
 * -ETIMEDOUT; -ECANCELED; -ECONNABORTED when the source has asked who has the guest, or its host
 * has another guest to offer. Control thread.
 */
int destination_await_rejoin(struct vmferry_destination *d);

/*
 * Runs one attempt on @d->attempt (session and first are set). It ends in phase RUNNING, with 0, or
 * -EIO if the guest is owned here but run() failed; or in FAILED: it never ran and everything is
 * undone.
 */
int attempt_run(struct vmferry_destination *d);

#endif
