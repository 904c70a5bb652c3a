/* SPDX-License-Identifier: MIT */
/* The two state machines: which phase may follow which, on either side. */
#ifndef ENGINE_PHASE_H
#define ENGINE_PHASE_H

#include <stdatomic.h>
#include <stdbool.h>

#include <vmferry/migration.h>

enum phase_side {
	PHASE_SOURCE,
	PHASE_DESTINATION,
};

/* A machine: written by its control thread only, read by any. */
struct phase_machine {
	enum phase_side side;
	_Atomic int phase;
	vmferry_phase_fn on_phase; /* may be NULL */
	void *ctx;
};

void phase_init(struct phase_machine *m, enum phase_side side, vmferry_phase_fn on_phase,
		void *ctx);

/*
 * Enters @next and tells the callback. -EPROTO, with the attempt logged, if the table does not
 * allow it.
 */
int phase_enter(struct phase_machine *m, enum vmferry_phase next);

enum vmferry_phase phase_now(const struct phase_machine *m);

bool phase_allowed(enum phase_side side, enum vmferry_phase from, enum vmferry_phase to);

#endif
