/* SPDX-License-Identifier: MIT */
/*
 * PRECOPY: the lanes stream while the guest runs; this decides when the rest is small enough to
 * pause for.
 */
#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "content.h"
#include "source.h"
#include "verify.h"

#define SAMPLE_EVERY_NS (20 * NS_PER_MS)
/* --verify: hashing may take this part of the limit. */
#define HASH_SHARE	  8
#define REHEARSE_EVERY_NS (250 * NS_PER_MS)
/*
 * With the lanes never idle, as when the guest dirties almost as fast as the link carries, a
 * prediction under the limit has to hold this long without getting better: as long as it shrinks,
 * waiting shortens the blackout.
 */
#define KNEE_NS (100 * NS_PER_MS)
/*
 * Pages gather between harvests; half a period of them is what a pause finds on average, so count a
 * whole one.
 */
#define GATHER_NS	 (5 * NS_PER_MS)
#define PASS_TELLS_BYTES (16ull << 20)

/* Calls @visit for all that the regions hold: the rest is neither sent nor pinned. */
static int for_content(struct vmferry_source *s,
		       int (*visit)(struct vmferry_source *s, unsigned int region,
				    const struct content_extent *e))
{
	for (unsigned int i = 0; i < s->vm.region_count; i++) {
		struct content_extent e;
		uint64_t offset = 0;
		int r;

		while ((r = content_next(&s->vm.regions[i], offset, &e)) > 0) {
			r = visit(s, i, &e);
			if (r < 0)
				break;
			offset = e.offset + e.length;
		}
		if (r < 0)
			return r;
	}
	return 0;
}

static int mark(struct vmferry_source *s, unsigned int region, const struct content_extent *e)
{
	dirty_region_mark(&s->map->regions[region], e->offset / VMFERRY_PAGE_SIZE,
			  e->length / VMFERRY_PAGE_SIZE);
	return 0;
}

static int prepare(struct vmferry_source *s, unsigned int region, const struct content_extent *e)
{
	return vmferry_prepare(s->memory.handles[region], e->offset, e->length);
}

static int make_lanes(struct vmferry_source *s)
{
	int r = guest_memory_register(&s->memory, s->session, VMFERRY_ACCESS_LOCAL);

	if (r < 0) {
		source_because(s, "guest memory could not be registered: %s", strerror(-r));
		return r;
	}
	return lanes_new(s->session, s->map, s->memory.handles, s->sets, s->options.bandwidth,
			 &s->lanes);
}

static int start_lanes(struct vmferry_source *s)
{
	s->pass_ns = vmferry_now();
	s->fence = FENCE_FIRST_PASS;
	return lanes_start(s->lanes);
}

/*
 * Tracking begins before the map is filled: what is written after the fill is found by a harvest,
 * what was before is in it. The caller's own marks are in the map from the start, whenever they
 * come.
 */
int source_begin(struct vmferry_source *s)
{
	int r = phase_enter(&s->phase, VMFERRY_PRECOPY);

	r = r < 0 ? r : make_lanes(s);
	if (r < 0)
		return r;
	r = harvester_start(&s->harvester, s->tracker, s->lanes);
	if (r < 0) {
		source_because(s, "dirty tracking could not be started: %s", strerror(-r));
		return r;
	}
	r = for_content(s, mark);
	if (r < 0)
		return r;
	/* From here on the map knows of all, whatever becomes of the connection. */
	s->tracked = true;
	s->precopy_ns = vmferry_now();
	r = for_content(s, prepare);
	return r < 0 ? r : start_lanes(s);
}

int source_begin_again(struct vmferry_source *s)
{
	int r = make_lanes(s);

	r = r < 0 ? r : for_content(s, prepare);
	if (r < 0)
		return r;
	harvester_set_lanes(&s->harvester, s->lanes);
	return start_lanes(s);
}

/* Payload that this connection has placed, and in which time. */
static uint64_t measured(const struct vmferry_source *s, bool first_pass_done,
			 const struct lane_totals *t, uint64_t *elapsed)
{
	struct vmferry_lane_stats stats;
	uint64_t placed = 0;

	if (first_pass_done) {
		*elapsed = t->first_done_ns - s->pass_ns;
		return t->first_bytes;
	}
	for (unsigned int i = 0; i < s->lane_count; i++)
		if (vmferry_lane_stats(s->session, i, &stats) == 0)
			placed += stats.placed_bytes;
	*elapsed = vmferry_now() - s->pass_ns;
	return placed;
}

static void measure_bandwidth(struct vmferry_source *s)
{
	/* Before the totals: then they have it. */
	bool first_pass_done = lanes_first_pass_done(s->lanes);
	struct lane_totals t;
	uint64_t placed, elapsed;

	lanes_totals(s->lanes, &t);
	atomic_store_explicit(&s->sent_bytes, s->totals.bytes + t.bytes, memory_order_relaxed);
	atomic_store_explicit(&s->round, (uint32_t)(s->totals.sweeps + t.sweeps + 1),
			      memory_order_relaxed);
	placed = measured(s, first_pass_done, &t, &elapsed);
	/*
	 * After a loss little may be left to send at first: too little to judge the link by, if it
	 * was known before.
	 */
	if (placed < PASS_TELLS_BYTES && atomic_load(&s->loss_count) > 0 && s->parts.bandwidth > 0)
		return;
	if (elapsed > 0)
		s->parts.bandwidth =
			(uint64_t)((double)placed * (double)NS_PER_S / (double)elapsed);
	/*
	 * A guest without content says nothing of the link: one page in the time of a round trip is
	 * certain.
	 */
	if (s->parts.bandwidth == 0 && lanes_first_pass_done(s->lanes) && s->parts.rtt_ns > 0)
		s->parts.bandwidth = VMFERRY_PAGE_SIZE * NS_PER_S / s->parts.rtt_ns;
	atomic_store_explicit(&s->bandwidth, s->parts.bandwidth, memory_order_relaxed);
}

uint64_t source_predict(struct vmferry_source *s)
{
	uint64_t dirty = dirty_map_count(s->map) * VMFERRY_PAGE_SIZE;
	uint64_t rate = atomic_load_explicit(&s->harvester.dirty_rate, memory_order_relaxed);
	struct predict_work work = {0};
	struct lane_totals t;
	uint64_t predicted;

	lanes_totals(s->lanes, &t);
	s->parts.harvest_ns = atomic_load_explicit(&s->harvester.harvest_ns, memory_order_relaxed);
	work.dirty_bytes = dirty + (uint64_t)((double)rate * GATHER_NS / (double)NS_PER_S);
	if (s->options.verify)
		work.resent_bytes = t.resent_pages * VMFERRY_PAGE_SIZE;
	predicted = predict_blackout(&s->parts, &work);
	atomic_store_explicit(&s->remaining, dirty, memory_order_relaxed);
	atomic_store_explicit(&s->predicted_ns, predicted, memory_order_relaxed);
	return predicted;
}

static void take_sample(struct vmferry_source *s, uint64_t predicted)
{
	uint64_t at = vmferry_now() - s->began_ns;
	uint32_t n = s->sample_count;

	if (s->sample_every_ns == 0)
		s->sample_every_ns = SAMPLE_EVERY_NS;
	if (n > 0 && at - s->samples[n - 1].at_ns < s->sample_every_ns)
		return;
	if (n == SAMPLES_MAX) {
		for (n = 0; n < SAMPLES_MAX / 2; n++)
			s->samples[n] = s->samples[2 * (size_t)n];
		s->sample_every_ns *= 2;
	}
	s->samples[n] = (struct source_sample){
		.at_ns = at,
		.sent_bytes = atomic_load(&s->sent_bytes),
		.remaining_bytes = atomic_load(&s->remaining),
		.dirty_rate = atomic_load(&s->harvester.dirty_rate),
		.predicted_ns = predicted,
	};
	s->sample_count = n + 1;
}

static int ask_hash(struct vmferry_source *s)
{
	s->hash_asked = true;
	s->hash_rounds++;
	return message_send_number(s->session, VMFERRY_CONTROL, MESSAGE_HASH, s->fence,
				   vmferry_now() + NS_PER_S);
}

/* The lanes have set the fence: name what was sent before it, to be hashed again. */
static int hand_over_resent(struct vmferry_source *s)
{
	int r = verify_send_resent(s->session, VMFERRY_CONTROL, s->sets->handed, s->vm.regions,
				   s->vm.region_count, vmferry_now() + NS_PER_S);

	for (unsigned int i = 0; i < s->vm.region_count; i++)
		memset(s->sets->handed[i], 0, s->map->regions[i].words * sizeof(uint64_t));
	s->marking = false;
	return r < 0 ? r : ask_hash(s);
}

/* What was sent since the last hashing is small enough to be hashed in the blackout. */
static bool hashing_is_short(const struct vmferry_source *s)
{
	struct lane_totals t;

	lanes_totals(s->lanes, &t);
	return s->parts.hash_rate == 0 || (double)t.resent_pages * VMFERRY_PAGE_SIZE *
							  (double)NS_PER_S /
							  (double)s->parts.hash_rate <
						  (double)s->options.downtime_ns / HASH_SHARE;
}

/*
 * --verify: the destination hashes everything behind the first pass, then again and again what was
 * sent meanwhile, each time less, until the rest fits into the blackout.
 */
static int drive_hashing(struct vmferry_source *s)
{
	if (!s->options.verify || s->hash_asked)
		return 0;
	if (!s->hashed)
		return ask_hash(s);
	if (s->marking)
		return lanes_marked(s->lanes, s->fence) ? hand_over_resent(s) : 0;
	if (hashing_is_short(s))
		return 0;
	s->marking = true;
	lanes_mark(s->lanes, ++s->fence);
	return 0;
}

struct knee {
	uint64_t best;	   /* least prediction so far */
	uint64_t since_ns; /* since when it has been under the limit without getting better */
};

/*
 * True when it is time to pause: the prediction is under the limit, and either the lanes have
 * caught up, so that what is left is only what the guest wrote since the last harvest, or waiting
 * longer has stopped to help.
 */
static bool time_to_switch(const struct vmferry_source *s, uint64_t predicted, struct knee *knee)
{
	uint64_t now = vmferry_now();

	if (predicted == 0 || predicted > s->options.downtime_ns) {
		*knee = (struct knee){UINT64_MAX, now};
		return false;
	}
	if (lanes_idle(s->lanes))
		return true;
	if (predicted < knee->best)
		*knee = (struct knee){predicted, now};
	return now - knee->since_ns >= KNEE_NS;
}

/*
 * The lanes have caught up and still the prediction is over the limit: then it is the fixed costs,
 * and they may have been measured in a bad moment. Measure again, now and then: it costs the guest
 * a pause of those same fixed costs.
 */
static int measure_again(struct vmferry_source *s, uint64_t predicted)
{
	if (predicted <= s->options.downtime_ns || !lanes_idle(s->lanes) ||
	    vmferry_now() - s->rehearsed_ns < REHEARSE_EVERY_NS)
		return 0;
	return source_rehearse(s);
}

static bool hashing_busy(const struct vmferry_source *s)
{
	return s->options.verify && (!s->hashed || s->hash_asked || s->marking);
}

int source_precopy(struct vmferry_source *s)
{
	struct knee knee = {UINT64_MAX, vmferry_now()};
	int r = 0;

	while (r == 0) {
		uint64_t predicted;

		r = source_tick(s);
		if (r < 0)
			break;
		measure_bandwidth(s);
		predicted = source_predict(s);
		take_sample(s, predicted);
		if (!lanes_first_pass_done(s->lanes))
			continue;
		if (!hashing_busy(s) && time_to_switch(s, predicted, &knee))
			break;
		r = drive_hashing(s);
		if (r == 0 && !hashing_busy(s))
			r = measure_again(s, predicted);
	}
	return r;
}
