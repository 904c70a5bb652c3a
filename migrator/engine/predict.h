/* SPDX-License-Identifier: MIT */
/*
 * The model of the blackout: every part is measured on this pair of hosts, by the rehearsal, by
 * pings, by what the destination says it has placed.
 */
#ifndef ENGINE_PREDICT_H
#define ENGINE_PREDICT_H

#include <stdint.h>

struct predict_parts {
	uint64_t pause_ns;   /* rehearsal: all vCPUs out of the guest */
	uint64_t save_ns;    /* rehearsal */
	uint64_t load_ns;    /* rehearsal, at the destination */
	uint64_t resume_ns;  /* rehearsal: resume at the source stands for run at the destination */
	uint64_t rtt_ns;     /* least ping so far: state out and READY back, GO out */
	uint64_t harvest_ns; /* mean of the last harvests */
	uint64_t bandwidth;  /* bytes a second, placed; 0: not known yet */
	uint64_t hash_rate;  /* bytes a second of --verify at the destination; 0: not asked */
};

struct predict_work {
	uint64_t dirty_bytes;  /* to be sent when paused */
	uint64_t in_flight;    /* given to lanes, not known to be placed */
	uint64_t resent_bytes; /* to be hashed again when --verify */
};

/* Nanoseconds; 0 when bandwidth is not known. */
uint64_t predict_blackout(const struct predict_parts *parts, const struct predict_work *work);

#endif
