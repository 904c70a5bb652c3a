/* SPDX-License-Identifier: MIT */
/*
 * The source's report. Every time is in microseconds, every size in bytes; the names are part of
 * the interface.
 */
#include <errno.h>
#include <json-c/json.h>

#include "common/clock.h"
#include "report.h"
#include "source.h"

static const char *result_text(enum vmferry_phase phase)
{
	switch (phase) {
	case VMFERRY_DONE:
		return "completed";
	case VMFERRY_CANCELLED:
		return "cancelled";
	case VMFERRY_INDETERMINATE:
		return "indeterminate";
	default:
		return "failed";
	}
}

static uint64_t between(uint64_t from, uint64_t to)
{
	return from != 0 && to > from ? to - from : 0;
}

static void add_blackout(const struct vmferry_source *s, struct report *top)
{
	const struct source_moments *at = &s->at;
	struct report blackout, here, there;

	report_init(&here);
	report_us(&here, "pause_us", between(at->pause, at->paused));
	report_us(&here, "harvest_us", between(at->paused, at->harvested));
	report_us(&here, "save_us", between(at->harvested, at->saved));
	report_us(&here, "send_state_us", between(at->saved, at->state_sent));
	report_us(&here, "last_pages_us", between(at->saved, at->lanes_done));
	report_us(&here, "wait_ready_us", between(at->state_sent, at->ready));
	report_us(&here, "go_to_running_us", between(at->go, at->running));
	if (at->resumed != 0)
		report_us(&here, "paused_until_resumed_us", between(at->pause, at->resumed));
	report_init(&there);
	report_us(&there, "fence_us", s->there.fence_ns);
	report_us(&there, "verify_us", s->there.hash_ns);
	report_us(&there, "load_us", s->there.load_ns);
	report_us(&there, "ready_to_go_us", s->there.go_ns);
	report_us(&there, "run_us", s->there.run_ns);
	report_init(&blackout);
	report_object(&blackout, "source", &here);
	report_object(&blackout, "destination", &there);
	report_object(top, "blackout", &blackout);
}

static void add_prediction(const struct vmferry_source *s, struct report *top)
{
	struct report p;

	report_init(&p);
	report_us(&p, "limit_us", s->options.downtime_ns);
	report_us(&p, "pause_us", s->parts.pause_ns);
	report_us(&p, "harvest_us", s->parts.harvest_ns);
	report_us(&p, "save_us", s->parts.save_ns);
	report_us(&p, "load_us", s->parts.load_ns);
	report_us(&p, "resume_us", s->parts.resume_ns);
	report_us(&p, "round_trip_us", s->parts.rtt_ns);
	report_number(&p, "bandwidth_bytes_per_second", s->parts.bandwidth);
	report_number(&p, "rehearsals", s->rehearsals);
	report_number(&p, "hash_rounds", s->hash_rounds);
	report_object(top, "prediction", &p);
}

static void add_pages(const struct vmferry_source *s, struct report *top)
{
	struct report p;

	report_init(&p);
	report_number(&p, "content_bytes", atomic_load(&s->content_bytes));
	report_number(&p, "payload_bytes", s->totals.bytes);
	report_number(&p, "sent_pages", s->totals.pages);
	report_number(&p, "zero_pages", s->totals.zero_pages);
	report_number(&p, "residual_pages", s->residual_pages);
	report_number(&p, "dirty_entries", atomic_load(&s->harvester.pages));
	report_number(&p, "harvests", atomic_load(&s->harvester.harvests));
	report_number(&p, "dirty_rate_bytes_per_second", atomic_load(&s->harvester.dirty_rate));
	report_number(&p, "state_bytes", s->state_bytes);
	report_number(&p, "first_pass_bytes", s->totals.first_bytes);
	report_us(&p, "first_pass_us", between(s->precopy_ns, s->totals.first_done_ns));
	report_object(top, "pages", &p);
}

static void add_cpu(const struct vmferry_source *s, struct report *top)
{
	struct report cpu;

	report_init(&cpu);
	report_us(&cpu, "source_lanes_us", s->totals.cpu_ns);
	report_us(&cpu, "source_harvester_us", atomic_load(&s->harvester.cpu_ns));
	report_us(&cpu, "source_control_us", s->cpu_ns);
	report_us(&cpu, "destination_lanes_us", s->closing.lanes_cpu_ns);
	report_us(&cpu, "destination_control_us", s->closing.control_cpu_ns);
	report_object(top, "cpu", &cpu);
}

/*
 * What the destination has counted; where it cannot, over RDMA, or has not said it, what is known
 * here.
 */
static uint64_t placed_bytes(const struct vmferry_source *s)
{
	return s->closing.placed_bytes != 0 ? s->closing.placed_bytes : s->placed_bytes;
}

static void add_transport(const struct vmferry_source *s, struct report *top)
{
	struct report t, registration;

	report_init(&registration);
	report_number(&registration, "bytes", s->registration.bytes);
	report_number(&registration, "regions", s->registration.regions);
	report_us(&registration, "us", s->registration.ns);
	report_object(top, "registration", &registration);
	report_init(&t);
	report_number(&t, "submissions", s->submissions);
	report_number(&t, "requests", s->requests);
	report_number(&t, "signals", s->signals);
	report_us(&t, "stall_us", s->stall_ns);
	report_us(&t, "destination_populate_us", s->closing.populate_ns);
	report_number(&t, "placed_bytes", placed_bytes(s));
	report_object(top, "link", &t);
}

static void add_samples(const struct vmferry_source *s, struct report *top)
{
	struct json_object *list = json_object_new_array();
	struct report sample = {0};

	for (uint32_t i = 0; list != NULL && i < s->sample_count; i++) {
		const struct source_sample *from = &s->samples[i];

		report_init(&sample);
		report_us(&sample, "at_us", from->at_ns);
		report_number(&sample, "sent_bytes", from->sent_bytes);
		report_number(&sample, "remaining_bytes", from->remaining_bytes);
		report_number(&sample, "dirty_rate_bytes_per_second", from->dirty_rate);
		report_us(&sample, "predicted_us", from->predicted_ns);
		if (sample.failed || json_object_array_add(list, sample.object) < 0) {
			json_object_put(sample.object);
			top->failed = true;
			break;
		}
	}
	report_value(top, "samples", list);
}

static void add_loss(const struct source_loss *loss, struct json_object *list, struct report *top)
{
	struct report r;

	report_init(&r);
	report_us(&r, "at_us", loss->at_ns);
	report_string(&r, "phase", vmferry_phase_name(loss->phase));
	report_string(&r, "cause", loss->cause);
	report_string(&r, "transport", loss->transport);
	report_string(&r, "transport_then", loss->transport_then);
	if (loss->resumed_ns == 0)
		report_null(&r, "resumed_us");
	else
		report_us(&r, "resumed_us", loss->resumed_ns);
	report_us(&r, "paused_us", loss->paused_ns);
	report_number(&r, "bytes_again", loss->bytes_again);
	if (r.failed || json_object_array_add(list, r.object) < 0) {
		json_object_put(r.object);
		top->failed = true;
	}
}

static void add_losses(const struct vmferry_source *s, struct report *top)
{
	struct json_object *list = json_object_new_array();
	uint32_t count = atomic_load(&s->loss_count);

	for (uint32_t i = 0; list != NULL && i < count && i < LOSSES_MAX; i++)
		add_loss(&s->losses[i], list, top);
	report_value(top, "losses", list);
}

static void add_problems(const struct vmferry_source *s, struct report *top)
{
	struct json_object *list = json_object_new_array();
	const char *text;

	for (size_t i = 0; list != NULL && (text = vmferry_problems_get(s->problems, i)) != NULL;
	     i++)
		json_object_array_add(list, json_object_new_string(text));
	report_value(top, "problems", list);
}

static uint64_t first_pass_rate(const struct vmferry_source *s)
{
	uint64_t ns = between(s->precopy_ns, s->totals.first_done_ns);

	return ns == 0 ? 0
		       : (uint64_t)((double)s->totals.first_bytes * (double)NS_PER_S / (double)ns);
}

static void add_top(const struct vmferry_source *s, struct report *top)
{
	enum vmferry_phase phase = phase_now(&s->phase);

	report_string(top, "result", result_text(phase));
	report_string(top, "reason", phase == VMFERRY_DONE ? NULL : s->reason);
	if (s->verified < 0)
		report_null(top, "verified");
	else
		report_bool(top, "verified", s->verified == 1);
	report_string(top, "transport", s->transport != NULL ? s->transport : "tcp");
	report_string(top, "transport_reason",
		      s->transport_reason[0] != 0 ? s->transport_reason : NULL);
	report_number(top, "lanes", s->lane_count);
	report_string(top, "tracker", s->tracker_name);
	report_us(top, "total_us", atomic_load(&s->ended_ns) - s->began_ns);
	report_us(top, "blackout_us", s->blackout_ns);
	report_us(top, "predicted_blackout_us", s->predicted_at_switch_ns);
	report_bool(top, "downtime_limit_exceeded", s->blackout_ns > s->options.downtime_ns);
	report_number(top, "bytes_sent", s->wire_bytes);
	report_number(top, "bytes_minimum", s->minimum_bytes);
	report_number(top, "first_pass_bytes_per_second", first_pass_rate(s));
	report_number(top, "rounds", atomic_load(&s->round));
	report_number(top, "mismatched_pages", s->mismatches);
}

int vmferry_source_report(const struct vmferry_source *s, char **json)
{
	struct report top;
	bool ended;

	pthread_mutex_lock((pthread_mutex_t *)&s->lock);
	ended = s->ended;
	pthread_mutex_unlock((pthread_mutex_t *)&s->lock);
	if (!ended)
		return -EBUSY;
	report_init(&top);
	add_top(s, &top);
	add_blackout(s, &top);
	add_prediction(s, &top);
	add_pages(s, &top);
	add_transport(s, &top);
	add_cpu(s, &top);
	add_samples(s, &top);
	add_losses(s, &top);
	add_problems(s, &top);
	return report_text(&top, json);
}
