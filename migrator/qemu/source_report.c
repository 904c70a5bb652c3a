/* SPDX-License-Identifier: MIT */
/*
 * The report of a source's migration. Times are in microseconds, sizes in bytes; the names are part
 * of the interface.
 */
#include <json-c/json.h>
#include <string.h>

#include "moment.h"
#include "source_state.h"

static void add_text(struct json_object *o, const char *name, const char *text)
{
	json_object_object_add(o, name, json_object_new_string(text));
}

static void add_number(struct json_object *o, const char *name, uint64_t number)
{
	json_object_object_add(o, name, json_object_new_int64((int64_t)number));
}

/* Null when one of the two has not come. */
static void add_us(struct json_object *o, const char *name, uint64_t from, uint64_t to)
{
	json_object_object_add(o, name,
			       from == 0 || to < from
				       ? NULL
				       : json_object_new_double((double)(to - from) / NS_PER_US));
}

static const char *mode_text(const struct qemu_source *s)
{
	if (s->decision == DECISION_NONE)
		return "none";
	return s->decision == DECISION_FORWARD || atomic_load(&s->stopped) ? "forward" : "offload";
}

static void add_blocks(struct qemu_source *s, struct json_object *report)
{
	struct json_object *blocks = json_object_new_array();

	for (unsigned int i = 0; s->placed != NULL && i < s->placed->count; i++) {
		const struct peer_target *t = &s->placed->targets[i];
		struct json_object *b = json_object_new_object();

		add_text(b, "name", s->stream.blocks[i].name);
		add_number(b, "bytes", s->stream.blocks[i].bytes);
		add_text(b, "placement", placement_kind_name(t->kind));
		add_text(b, "reason", t->reason);
		json_object_array_add(blocks, b);
	}
	json_object_object_add(report, "blocks", blocks);
}

static void add_pages(struct qemu_source *s, struct json_object *report)
{
	struct json_object *pages = json_object_new_object();
	struct offload_counters *c = &s->offload.counters;

	add_number(pages, "moved", atomic_load(&c->pages));
	add_number(pages, "zero", atomic_load(&c->zero_pages));
	add_number(pages, "zero_written", atomic_load(&c->zero_written));
	add_number(pages, "relayed", atomic_load(&s->relayed_pages));
	json_object_object_add(report, "pages", pages);
}

static void add_lanes(struct qemu_source *s, struct json_object *report)
{
	struct json_object *lanes = json_object_new_array();

	for (unsigned int i = 0; i < s->offload.lanes; i++) {
		struct json_object *l = json_object_new_object();
		struct vmferry_lane_stats stats;

		if (vmferry_lane_stats(s->relay.session, i, &stats) < 0)
			continue;
		add_number(l, "bytes", stats.bytes);
		add_number(l, "wire_bytes", stats.wire_bytes);
		add_number(l, "submissions", stats.submissions);
		add_us(l, "stall_us", 1, stats.stall_ns + 1);
		json_object_array_add(lanes, l);
	}
	json_object_object_add(report, "lanes", lanes);
}

static void add_traffic(struct qemu_source *s, struct json_object *report)
{
	uint64_t in = 0, out = 0;

	for (unsigned int i = 0; i < s->relay.connection_count; i++) {
		in += atomic_load(&s->relay.connections[i]->bytes_in);
		out += atomic_load(&s->relay.connections[i]->bytes_out);
	}
	add_number(report, "connections", s->relay.connection_count);
	add_number(report, "read_bytes", in);
	add_number(report, "returned_bytes", out);
	add_number(report, "send_buffer_bytes", atomic_load(&s->send_buffer));
}

static void add_times(struct qemu_source *s, struct json_object *report)
{
	struct source_moments *at = &s->moments;
	uint64_t pages = atomic_load(&at->pages), fenced = atomic_load(&at->fenced);

	add_us(report, "total_us", at->begun, at->over);
	add_us(report, "end_to_fence_us", pages, fenced);
	add_us(report, "fence_to_close_us", fenced, at->over);
	add_us(report, "end_section_us", atomic_load(&at->end), pages);
	add_us(report, "setup_us", at->begun, at->decided);
	add_us(report, "stall_us", 1, atomic_load(&s->offload.counters.stall_ns) + 1);
}

/* What people look for first stands first: how it ended, by what, how long it took. */
struct json_object *source_report(struct qemu_source *s, bool completed)
{
	struct json_object *report = json_object_new_object();

	add_text(report, "result", completed ? "completed" : "failed");
	add_text(report, "reason", completed ? "" : s->relay.failure);
	add_text(report, "mode", mode_text(s));
	add_text(report, "mode_reason", s->reason);
	add_text(report, "transport",
		 s->has_relay ? vmferry_session_transport(s->relay.session) : "");
	add_text(report, "transport_reason",
		 s->has_relay ? vmferry_session_transport_reason(s->relay.session) : "");
	if (s->has_relay) {
		add_times(s, report);
		add_pages(s, report);
		add_blocks(s, report);
		add_traffic(s, report);
		add_number(report, "rounds", s->stream.rounds);
		add_number(report, "sections", s->stream.sections);
		add_lanes(s, report);
	}
	add_text(report, "source", s->options.live ? "live" : "payload");
	add_text(report, "machine", s->stream.machine);
	json_object_object_add(report, "return_path",
			       json_object_new_boolean(s->stream.return_path));
	add_number(report, "pid", (uint64_t)s->pid);
	if (s->result != NULL)
		json_object_object_add(report, "destination", json_object_get(s->result));
	return report;
}
