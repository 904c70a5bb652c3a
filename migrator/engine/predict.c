/* SPDX-License-Identifier: MIT */
#include "predict.h"

#include "common/clock.h"

static uint64_t time_for(uint64_t bytes, uint64_t rate)
{
	return (uint64_t)((double)bytes * (double)NS_PER_S / (double)rate);
}

uint64_t predict_blackout(const struct predict_parts *p, const struct predict_work *w)
{
	uint64_t pages, hash = 0;

	if (p->bandwidth == 0)
		return 0;
	pages = time_for(w->dirty_bytes + w->in_flight, p->bandwidth);
	if (p->hash_rate > 0)
		hash = time_for(w->resent_bytes + w->dirty_bytes, p->hash_rate);
	/*
	 * Pages and state go out together: the longer one counts. One and a half round trips:
	 * state, READY, GO.
	 */
	return p->pause_ns + p->harvest_ns + (pages > p->save_ns ? pages : p->save_ns) + hash +
	       p->load_ns + p->rtt_ns + p->rtt_ns / 2 + p->resume_ns;
}
