/* SPDX-License-Identifier: MIT */
/* The source's control thread: SETUP, CHECK, PRECOPY, SWITCHOVER, and every way to end. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "content.h"
#include "source.h"
#include "verify.h"

#define CONNECT_NS     (10 * NS_PER_S)
#define VERDICT_NS     (60 * NS_PER_S)
#define REHEARSED_NS   (10 * NS_PER_S)
#define PONG_NS	       (5 * NS_PER_S)
#define PING_EVERY_NS  (50 * NS_PER_MS)
#define CLOSING_NS     (60 * NS_PER_S)
#define ABORT_NS       (50 * NS_PER_MS)
#define PINGS_AT_CHECK 4

void source_because(struct vmferry_source *s, const char *fmt, ...)
{
	va_list args;

	if (s->reason[0] != 0)
		return;
	va_start(args, fmt);
	vsnprintf(s->reason, sizeof(s->reason), fmt, args);
	va_end(args);
}

/*
 * The connection is open but makes no progress: ends it, so that it is replaced. Where it would not
 * be, it is kept, to send the destination the reason.
 */
static void give_connection_up(struct vmferry_source *s)
{
	if (s->tracked && s->options.reconnect_ns != VMFERRY_RECONNECT_NEVER)
		vmferry_session_shutdown(s->session);
}

/* That the time limit has passed. */
static void because_of_time(struct vmferry_source *s)
{
	if (atomic_load(&s->reconnecting))
		source_because(s, "not committed within %llu ms: the connection is lost: %s",
			       (unsigned long long)(s->options.timeout_ns / NS_PER_MS),
			       source_last_cause(s));
	else
		source_because(
			s,
			"not converged within %llu ms: predicted blackout %llu us over the limit "
			"of %llu us, dirty rate %llu MB/s, link %llu MB/s",
			(unsigned long long)(s->options.timeout_ns / NS_PER_MS),
			(unsigned long long)(atomic_load(&s->predicted_ns) / NS_PER_US),
			(unsigned long long)(s->options.downtime_ns / NS_PER_US),
			(unsigned long long)(atomic_load(&s->harvester.dirty_rate) / 1000000),
			(unsigned long long)(atomic_load(&s->bandwidth) / 1000000));
}

int source_check(struct vmferry_source *s)
{
	bool cancelled;

	pthread_mutex_lock(&s->lock);
	cancelled = s->cancelled;
	pthread_mutex_unlock(&s->lock);
	if (cancelled) {
		source_because(s, "cancelled");
		return -ECANCELED;
	}
	if (vmferry_now() - s->began_ns > s->options.timeout_ns) {
		because_of_time(s);
		return -ETIME;
	}
	if (atomic_load(&s->harvester.error) < 0) {
		source_because(s, "dirty tracking failed: %s",
			       strerror(-atomic_load(&s->harvester.error)));
		return atomic_load(&s->harvester.error);
	}
	if (s->lanes != NULL)
		lanes_look_after(s->lanes);
	if (s->lanes != NULL && lanes_error(s->lanes) < 0) {
		source_because(s, "a lane failed: %s",
			       failure_text(s->session, lanes_error(s->lanes)));
		/* One that takes nothing any more. */
		if (lanes_error(s->lanes) == -ETIMEDOUT)
			give_connection_up(s);
		return lanes_error(s->lanes);
	}
	return 0;
}

static int take_pong(struct vmferry_source *s)
{
	uint64_t now = vmferry_now();
	uint64_t rtt = now - s->ping_sent_ns;

	if (s->ping_sent_ns == 0)
		return 0;
	if (s->parts.rtt_ns == 0 || rtt < s->parts.rtt_ns)
		s->parts.rtt_ns = rtt;
	s->ping_sent_ns = 0;
	s->pong_ns = now;
	return 0;
}

static int take_hashed(struct vmferry_source *s, const struct vmferry_message *m)
{
	int r = number_unpack(m, &s->hash_ns);

	if (r < 0)
		return r;
	/* Only the first time is it known how much was hashed. */
	if (!s->hashed && s->hash_ns > 0)
		s->parts.hash_rate = (uint64_t)((double)atomic_load(&s->content_bytes) *
						(double)NS_PER_S / (double)s->hash_ns);
	s->hash_asked = false;
	s->hashed = true;
	return 0;
}

/* Deals with what may come at any time: 1 if it was such a message, 0 if not. */
static int take_common(struct vmferry_source *s, const struct vmferry_message *m)
{
	int r;

	if (m->type == MESSAGE_PONG)
		r = take_pong(s);
	else if (m->type == MESSAGE_HASHED && s->hash_asked)
		r = take_hashed(s, m);
	else
		return 0;
	return r < 0 ? r : 1;
}

static int lost(struct vmferry_source *s, int r)
{
	source_because(s, "the connection to %s failed: %s", s->uri, failure_text(s->session, r));
	return r;
}

/* The next message that is not common, or -ETIMEDOUT after a tick. */
static int next_message(struct vmferry_source *s, uint64_t deadline, struct vmferry_message *m)
{
	int r = source_check(s);

	if (r < 0)
		return r;
	r = vmferry_recv(s->session, m, deadline);
	if (r == -ETIMEDOUT)
		return r;
	if (r < 0)
		return lost(s, r);
	r = take_common(s, m);
	if (r == 0)
		return 0;
	vmferry_message_free(m);
	return r < 0 ? r : -ETIMEDOUT;
}

static int refuse_message(struct vmferry_source *s, struct vmferry_message *m, const char *expected)
{
	int r = message_unexpected("source", m, expected);
	char text[256];

	message_text(m, text, sizeof(text));
	if (m->type == MESSAGE_ABORT)
		source_because(s, "the destination gave up: %s", text);
	else
		source_because(s, "protocol error: %s came where %s was expected",
			       message_name(m->type), expected);
	vmferry_message_free(m);
	return r;
}

int source_expect(struct vmferry_source *s, uint32_t expected, uint64_t deadline,
		  struct vmferry_message *m)
{
	for (;;) {
		uint64_t now = vmferry_now();
		uint64_t tick = now + SOURCE_TICK_NS;
		int r = next_message(s, tick < deadline ? tick : deadline, m);

		if (r == 0 && m->type == expected)
			return 0;
		if (r == 0)
			return refuse_message(s, m, message_name(expected));
		if (r != -ETIMEDOUT)
			return r;
		if (now >= deadline) {
			log_error("source %s: no message %s in time: the destination hangs or the "
				  "network is cut",
				  s->uri, message_name(expected));
			source_because(s, "no %s from the destination in time",
				       message_name(expected));
			give_connection_up(s);
			return -ETIMEDOUT;
		}
	}
}

static int ping(struct vmferry_source *s)
{
	uint64_t now = vmferry_now();

	if (s->ping_sent_ns != 0 && now - s->ping_sent_ns > PONG_NS) {
		log_error("source %s: no answer to a ping for %llu s: the destination hangs or the "
			  "network is cut",
			  s->uri, PONG_NS / NS_PER_S);
		source_because(s, "the destination does not answer");
		give_connection_up(s);
		return -ETIMEDOUT;
	}
	if (s->ping_sent_ns != 0 || now - s->pong_ns < PING_EVERY_NS)
		return 0;
	s->ping_sent_ns = now;
	return message_send_number(s->session, VMFERRY_CONTROL, MESSAGE_PING, now, now + PONG_NS);
}

int source_tick(struct vmferry_source *s)
{
	struct vmferry_message m;
	int r = ping(s);

	if (r < 0)
		return r;
	r = next_message(s, vmferry_now() + SOURCE_TICK_NS, &m);
	if (r == 0)
		return refuse_message(s, &m, "pong or hashed");
	return r == -ETIMEDOUT ? 0 : r;
}

/* ---- SETUP and CHECK ------------------------------------------------------------------------- */

struct vmferry_transport_options source_transport(const struct vmferry_source *s)
{
	struct vmferry_transport_options transport = s->options.transport;

	/* All of it: chunks that are pinned may be larger than what they hold. */
	transport.memory = 0;
	for (unsigned int i = 0; i < s->vm.region_count; i++)
		transport.memory += s->vm.regions[i].size;
	return transport;
}

int source_take_session(struct vmferry_source *s)
{
	s->lane_count = vmferry_session_lanes(s->session);
	if (s->lane_count == 0) {
		source_because(s, "the destination takes no lanes: nothing could carry memory");
		return -EPROTO;
	}
	s->transport = vmferry_session_transport(s->session);
	snprintf(s->transport_reason, sizeof(s->transport_reason), "%s",
		 vmferry_session_transport_reason(s->session));
	return 0;
}

static int setup(struct vmferry_source *s)
{
	uint64_t limit = s->options.timeout_ns < CONNECT_NS ? s->options.timeout_ns : CONNECT_NS;
	struct vmferry_transport_options transport;
	uint64_t bytes;
	int r;

	if (s->options.on_phase != NULL)
		s->options.on_phase(s->ctx, VMFERRY_SETUP);
	r = tracker_new(s->options.tracker, &s->vm, s->map, &s->tracker);
	if (r < 0) {
		source_because(s, "the dirty tracker that was asked for cannot be had: %s",
			       strerror(-r));
		return r;
	}
	s->tracker_name = tracker_name(s->tracker);
	r = content_bytes(s->vm.regions, s->vm.region_count, &bytes);
	if (r < 0)
		return r;
	atomic_store(&s->content_bytes, bytes);
	transport = source_transport(s);
	r = vmferry_connect(s->uri, &transport, s->began_ns + limit, &s->session);
	if (r < 0) {
		source_because(s, "cannot connect to %s: %s", s->uri, strerror(-r));
		return r;
	}
	r = source_take_session(s);
	return r < 0 ? r : source_check(s);
}

/*
 * The extents that the destination populates ahead; past the maximum it faults them in as they
 * come.
 */
static int offer_content(struct vmferry_source *s, struct offer *o)
{
	o->extents = calloc(OFFER_EXTENTS_MAX, sizeof(*o->extents));
	if (o->extents == NULL)
		return -ENOMEM;
	for (unsigned int i = 0; i < s->vm.region_count; i++) {
		struct content_extent e;
		uint64_t offset = 0;
		int r;

		while (o->extent_count < OFFER_EXTENTS_MAX &&
		       (r = content_next(&s->vm.regions[i], offset, &e)) != 0) {
			if (r < 0)
				return r;
			o->extents[o->extent_count++] = (struct offer_extent){i, e};
			offset = e.offset + e.length;
		}
	}
	return 0;
}

static int fill_offer(struct vmferry_source *s, const struct vmferry_blob *spec, struct offer *o)
{
	o->version = ENGINE_VERSION;
	o->page_size = VMFERRY_PAGE_SIZE;
	o->verify = s->options.verify;
	memcpy(o->id, s->identity.id, sizeof(o->id));
	memcpy(o->secret, s->identity.secret, sizeof(o->secret));
	o->reconnect_ns =
		s->options.reconnect_ns == VMFERRY_RECONNECT_NEVER ? 0 : s->options.reconnect_ns;
	o->region_count = s->vm.region_count;
	for (unsigned int i = 0; i < s->vm.region_count; i++)
		o->regions[i] =
			(struct offer_region){s->vm.regions[i].address, s->vm.regions[i].size};
	o->spec = vmferry_blob_data(spec);
	o->spec_length = vmferry_blob_size(spec);
	return offer_content(s, o);
}

static int send_offer(struct vmferry_source *s)
{
	struct vmferry_blob *spec = NULL, *blob = NULL;
	struct offer *o = calloc(1, sizeof(*o));
	int r;

	if (o == NULL)
		return -ENOMEM;
	r = vmferry_blob_new(&spec);
	r = r < 0 ? r : vmferry_blob_new(&blob);
	r = r < 0 ? r : s->ops.describe(s->ctx, spec);
	r = r < 0 ? r : fill_offer(s, spec, o);
	r = r < 0 ? r : offer_pack(o, blob);
	r = r < 0 ? r
		  : message_send(s->session, VMFERRY_CONTROL, MESSAGE_OFFER, &blob,
				 vmferry_now() + CONNECT_NS);
	if (r < 0)
		source_because(s, "the offer could not be made: %s", strerror(-r));
	vmferry_blob_free(&blob);
	vmferry_blob_free(&spec);
	offer_free(o);
	free(o);
	return r;
}

static int take_verdict(struct vmferry_source *s)
{
	struct vmferry_message m;
	size_t count;
	int r = source_expect(s, MESSAGE_VERDICT, vmferry_now() + VERDICT_NS, &m);

	if (r < 0)
		return r;
	r = verdict_unpack(&m, s->problems);
	vmferry_message_free(&m);
	if (r < 0)
		return r;
	count = vmferry_problems_count(s->problems);
	if (count == 0)
		return 0;
	source_because(s, "the destination cannot take this guest: %zu problems, the first: %s",
		       count, vmferry_problems_get(s->problems, 0));
	for (size_t i = 0; vmferry_problems_get(s->problems, i) != NULL; i++)
		log_error("check: %s", vmferry_problems_get(s->problems, i));
	return -EXDEV;
}

/*
 * Quiet round trips, before data fills the link: the least of them is what the switchover's
 * messages cost.
 */
static int measure_rtt(struct vmferry_source *s)
{
	for (int i = 0; i < PINGS_AT_CHECK; i++) {
		uint64_t now = vmferry_now();
		int r = message_send_number(s->session, VMFERRY_CONTROL, MESSAGE_PING, now,
					    now + PONG_NS);

		s->ping_sent_ns = now;
		while (r == 0 && s->ping_sent_ns != 0)
			r = source_tick(s);
		if (r < 0)
			return r;
	}
	return 0;
}

int source_enter_check(struct vmferry_source *s)
{
	int r = phase_enter(&s->phase, VMFERRY_CHECK);

	r = r < 0 ? r : send_offer(s);
	r = r < 0 ? r : take_verdict(s);
	/*
	 * The first one also warms up whatever is done for the first time; the second one is
	 * measured.
	 */
	r = r < 0 ? r : source_rehearse(s);
	r = r < 0 ? r : source_rehearse(s);
	return r < 0 ? r : measure_rtt(s);
}

/*
 * Pauses, saves, resumes. The guest is running again when this returns, unless resume() itself
 * failed.
 */
static int rehearse_here(struct vmferry_source *s, struct vmferry_blob *state)
{
	uint64_t began = vmferry_now(), paused, saved;
	int r = s->ops.pause(s->ctx), e;

	if (r < 0) {
		s->ops.resume(s->ctx);
		return r;
	}
	paused = vmferry_now();
	r = s->ops.save(s->ctx, state);
	saved = vmferry_now();
	e = s->ops.resume(s->ctx);
	s->parts.pause_ns = paused - began;
	s->parts.save_ns = saved - paused;
	s->parts.resume_ns = vmferry_now() - saved;
	return r < 0 ? r : e;
}

int source_rehearse(struct vmferry_source *s)
{
	struct vmferry_message m;
	int r = s->state == NULL ? vmferry_blob_new(&s->state) : 0;

	if (r < 0)
		return r;
	vmferry_blob_clear(s->state);
	r = rehearse_here(s, s->state);
	if (r < 0)
		source_because(s, "the VM could not be paused and saved for trial: %s",
			       strerror(-r));
	else
		r = vmferry_send(s->session, VMFERRY_CONTROL, MESSAGE_REHEARSE,
				 vmferry_blob_data(s->state), vmferry_blob_size(s->state),
				 vmferry_now() + REHEARSED_NS);
	r = r < 0 ? r : source_expect(s, MESSAGE_REHEARSED, vmferry_now() + REHEARSED_NS, &m);
	if (r < 0)
		return r;
	r = number_unpack(&m, &s->parts.load_ns);
	vmferry_message_free(&m);
	s->rehearsed_ns = vmferry_now();
	s->rehearsals++;
	return r;
}

/* ---- the end --------------------------------------------------------------------------------- */

static int take_closing(struct vmferry_source *s)
{
	uint64_t deadline = vmferry_now() + CLOSING_NS;
	struct vmferry_message m;
	int r = vmferry_recv(s->session, &m, deadline);

	/* The answer to a ping of pre-copy comes on the other channel, and so at any time. */
	while (r == 0 && m.type == MESSAGE_PONG) {
		vmferry_message_free(&m);
		r = vmferry_recv(s->session, &m, deadline);
	}
	if (r < 0)
		return r;
	if (m.type != MESSAGE_CLOSING) {
		r = message_unexpected("source", &m, "closing");
	} else {
		r = closing_unpack(&m, &s->closing);
		if (r == 0 && s->ops.committed != NULL)
			s->ops.committed(s->ctx, s->closing.words, s->closing.words_length);
		s->closing.words = NULL;
	}
	vmferry_message_free(&m);
	return r;
}

/* The guest runs at the destination: whatever goes wrong now changes only what we know of it. */
static int finish(struct vmferry_source *s)
{
	int r = 0;

	if (s->session != NULL && s->options.verify)
		r = source_verify(s);
	if (s->session != NULL && r == 0)
		r = take_closing(s);
	if (s->session == NULL || r < 0)
		log_warn("source %s: the guest runs at the destination but its last words were "
			 "lost: %s",
			 s->uri, r < 0 ? strerror(-r) : "connection lost");
	return s->verified == 0 ? -EILSEQ : 0;
}

static void say_abort(struct vmferry_source *s)
{
	if (s->session != NULL)
		vmferry_send(s->session, VMFERRY_CONTROL, MESSAGE_ABORT, s->reason,
			     strlen(s->reason), vmferry_now() + ABORT_NS);
}

void source_resume_guest(struct vmferry_source *s)
{
	int r;

	if (!s->paused)
		return;
	r = s->ops.resume(s->ctx);
	if (r < 0)
		log_error("source: the guest could not be resumed: %s: it is paused, resume it by "
			  "hand",
			  strerror(-r));
	s->paused = false;
	s->at.resumed = vmferry_now();
	/* The attempt has failed: the blackout is how long the guest was paused for it. */
	s->blackout_ns = s->at.resumed - s->at.pause;
}

static void add_totals(struct vmferry_source *s)
{
	struct lane_totals *sum = &s->totals, t;

	lanes_totals(s->lanes, &t);
	sum->bytes += t.bytes;
	sum->pages += t.pages;
	sum->zero_pages += t.zero_pages;
	sum->sweeps += t.sweeps;
	sum->cpu_ns += t.cpu_ns;
	/* A first pass that a loss interrupted ends with that of the connection after it. */
	if (sum->first_done_ns != 0)
		return;
	sum->first_bytes += t.first_bytes;
	sum->first_done_ns = lanes_first_pass_done(s->lanes) ? t.first_done_ns : 0;
}

/* What one connection counted is added to what is reported of all. */
static void keep_counts(struct vmferry_source *s)
{
	struct vmferry_registration_stats registration = {0};
	struct vmferry_lane_stats stats;

	if (s->lanes != NULL)
		add_totals(s);
	if (s->session != NULL)
		vmferry_registration_stats(s->session, &registration);
	s->registration.bytes += registration.bytes;
	s->registration.regions += registration.regions;
	s->registration.ns += registration.ns;
	if (s->at.lanes_done != 0)
		s->minimum_bytes = page_sets_minimum(s->sets);
	for (unsigned int i = 0; s->session != NULL && i < s->lane_count; i++) {
		if (vmferry_lane_stats(s->session, i, &stats) < 0)
			continue;
		s->wire_bytes += stats.wire_bytes;
		/*
		 * READY is said when the last fence is reached: then all is placed, whether the
		 * lanes have heard it yet or not.
		 */
		s->placed_bytes += s->at.ready != 0 ? stats.bytes : stats.placed_bytes;
		s->submissions += stats.submissions;
		s->requests += stats.requests;
		s->signals += stats.signals;
		s->stall_ns += stats.stall_ns;
	}
}

void source_disconnect(struct vmferry_source *s)
{
	if (s->session != NULL)
		vmferry_session_shutdown(s->session);
	harvester_set_lanes(&s->harvester, NULL);
	keep_counts(s);
	lanes_free(&s->lanes);
	guest_memory_deregister(&s->memory);
	vmferry_session_close(&s->session);
}

/* The guest was resumed before if it shall run here. */
static void tear_down(struct vmferry_source *s)
{
	harvester_end(&s->harvester);
	source_disconnect(s);
	tracker_free(&s->tracker);
	hash_table_free(&s->hashes);
	vmferry_blob_free(&s->state);
	s->cpu_ns = thread_cpu_ns();
}

static enum vmferry_phase final_phase(int r)
{
	switch (r) {
	case 0:
	case -EILSEQ:
		return VMFERRY_DONE;
	case -ECANCELED:
		return VMFERRY_CANCELLED;
	case -EINPROGRESS:
		return VMFERRY_INDETERMINATE;
	default:
		return VMFERRY_FAILED;
	}
}

/*
 * A callback may return whatever it likes; three errors say in a result what is only true if this
 * side has made it so.
 */
static int own_meaning(struct vmferry_source *s, int r)
{
	bool cancelled, committed;

	pthread_mutex_lock(&s->lock);
	cancelled = s->cancelled;
	committed = s->committed;
	pthread_mutex_unlock(&s->lock);
	if ((r == -ECANCELED && !cancelled) || (r == -EINPROGRESS && !committed) ||
	    (r == -EILSEQ && !committed))
		return -EIO;
	return r;
}

static void conclude(struct vmferry_source *s, int result)
{
	int r = own_meaning(s, result);
	enum vmferry_phase last = final_phase(r);
	uint64_t one = 1;

	if (last == VMFERRY_CANCELLED || last == VMFERRY_FAILED) {
		source_because(s, "%s", failure_text(s->session, r));
		source_resume_guest(s);
		say_abort(s);
	}
	tear_down(s);
	atomic_store(&s->ended_ns, vmferry_now());
	phase_enter(&s->phase, last);
	pthread_mutex_lock(&s->lock);
	s->result = r;
	s->ended = true;
	pthread_cond_broadcast(&s->over);
	pthread_mutex_unlock(&s->lock);
	if (write(s->done_fd, &one, sizeof(one)) < 0)
		log_error("source: eventfd: %s", strerror(errno));
}

void *source_main(void *arg)
{
	struct vmferry_source *s = arg;
	int r = setup(s);

	r = r < 0 ? r : source_enter_check(s);
	r = r < 0 ? r : source_begin(s);
	r = r < 0 ? r : source_precopy(s);
	r = r < 0 ? r : source_switchover(s);
	while (source_is_lost(s, r)) {
		r = source_reconnect(s);
		r = r < 0 ? r : source_precopy(s);
		r = r < 0 ? r : source_switchover(s);
	}
	conclude(s, r < 0 ? r : finish(s));
	return NULL;
}
