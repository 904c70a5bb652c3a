/* SPDX-License-Identifier: MIT */
#include "phase.h"

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "common/log.h"

#define TO(phase) (1u << (phase))

static const char *const names[] = {
	[VMFERRY_SETUP] = "setup",	   [VMFERRY_CHECK] = "check",
	[VMFERRY_PRECOPY] = "precopy",	   [VMFERRY_SWITCHOVER] = "switchover",
	[VMFERRY_COMMITTED] = "committed", [VMFERRY_LISTEN] = "listen",
	[VMFERRY_RECEIVE] = "receive",	   [VMFERRY_LOAD] = "load",
	[VMFERRY_READY] = "ready",	   [VMFERRY_RUNNING] = "running",
	[VMFERRY_DONE] = "done",	   [VMFERRY_CANCELLED] = "cancelled",
	[VMFERRY_FAILED] = "failed",	   [VMFERRY_INDETERMINATE] = "indeterminate",
};

#define PHASES (sizeof(names) / sizeof(names[0]))
#define STOP   (TO(VMFERRY_CANCELLED) | TO(VMFERRY_FAILED))

static const uint32_t source_next[PHASES] = {
	[VMFERRY_SETUP] = TO(VMFERRY_CHECK) | STOP,
	/* Back when the connection was lost. */
	[VMFERRY_CHECK] = TO(VMFERRY_PRECOPY) | TO(VMFERRY_SETUP) | STOP,
	[VMFERRY_PRECOPY] = TO(VMFERRY_SWITCHOVER) | TO(VMFERRY_SETUP) | STOP,
	[VMFERRY_SWITCHOVER] = TO(VMFERRY_COMMITTED) | TO(VMFERRY_PRECOPY) | STOP,
	/*
	 * Failed from here only on the destination's word that it has given the migration up for
	 * good.
	 */
	[VMFERRY_COMMITTED] = TO(VMFERRY_DONE) | TO(VMFERRY_INDETERMINATE) | TO(VMFERRY_FAILED),
};

static const uint32_t destination_next[PHASES] = {
	[VMFERRY_LISTEN] = TO(VMFERRY_CHECK) | TO(VMFERRY_CANCELLED),
	[VMFERRY_CHECK] = TO(VMFERRY_RECEIVE) | STOP,
	[VMFERRY_RECEIVE] = TO(VMFERRY_LOAD) | STOP,
	[VMFERRY_LOAD] = TO(VMFERRY_READY) | TO(VMFERRY_RECEIVE) | STOP,
	[VMFERRY_READY] = TO(VMFERRY_RUNNING) | TO(VMFERRY_RECEIVE) | STOP,
	[VMFERRY_RUNNING] = TO(VMFERRY_DONE),
	/* The next source may try. */
	[VMFERRY_FAILED] = TO(VMFERRY_LISTEN) | TO(VMFERRY_CANCELLED),
};

const char *vmferry_phase_name(enum vmferry_phase phase)
{
	return (unsigned int)phase < PHASES ? names[phase] : NULL;
}

bool phase_allowed(enum phase_side side, enum vmferry_phase from, enum vmferry_phase to)
{
	const uint32_t *next = side == PHASE_SOURCE ? source_next : destination_next;

	return (next[from] & TO(to)) != 0;
}

void phase_init(struct phase_machine *m, enum phase_side side, vmferry_phase_fn on_phase, void *ctx)
{
	m->side = side;
	m->on_phase = on_phase;
	m->ctx = ctx;
	atomic_store(&m->phase, side == PHASE_SOURCE ? VMFERRY_SETUP : VMFERRY_LISTEN);
}

int phase_enter(struct phase_machine *m, enum vmferry_phase next)
{
	enum vmferry_phase now = phase_now(m);

	if (!phase_allowed(m->side, now, next)) {
		log_error("%s: may not go from %s to %s: protocol error",
			  m->side == PHASE_SOURCE ? "source" : "destination", names[now],
			  names[next]);
		return -EPROTO;
	}
	/* release: who sees the phase sees what led to it. */
	atomic_store_explicit(&m->phase, next, memory_order_release);
	if (m->on_phase != NULL)
		m->on_phase(m->ctx, next);
	return 0;
}

enum vmferry_phase phase_now(const struct phase_machine *m)
{
	return (enum vmferry_phase)atomic_load_explicit(&m->phase, memory_order_acquire);
}
