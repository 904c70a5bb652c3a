/* SPDX-License-Identifier: MIT */
/* The bandwidth cap: all lanes share one budget of bytes a second. */
#ifndef ENGINE_PACE_H
#define ENGINE_PACE_H

#include <stdatomic.h>
#include <stdint.h>

struct pace {
	uint64_t rate;		  /* bytes a second, 0: no cap; read only */
	_Atomic uint64_t next_ns; /* when the budget is used up to; any lane's thread */
};

void pace_init(struct pace *p, uint64_t rate);

/*
 * Takes @bytes from the budget and returns when they may be sent (CLOCK_MONOTONIC ns, 0: at once).
 * Any thread.
 */
uint64_t pace_reserve(struct pace *p, uint64_t bytes, uint64_t now);

#endif
