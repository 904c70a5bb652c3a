/* SPDX-License-Identifier: MIT */
/*
 * SWITCHOVER: the blackout, from the pause of the guest here to its running there, and the commit
 * handshake with all that may go wrong in it.
 */
#include <errno.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "source.h"
#include "verify.h"

#define ARMED_NS (2 * NS_PER_S)
/*
 * The guest is paused: past this, or downtime_ns if that is more, the attempt fails and it runs on
 * here.
 */
#define READY_NS   (5 * NS_PER_S)
#define RUNNING_NS (5 * NS_PER_S)
#define HASHES_NS  (60 * NS_PER_S)
/* For how long an unanswered GO is asked after, and how long between two tries. */
#define RESOLVE_NS     (5 * NS_PER_S)
#define RESOLVE_TRY_NS NS_PER_S
#define RESOLVE_GAP_NS (100 * NS_PER_MS)
/* At most this long is spent on draining a last time before the pause. */
#define DRAIN_NS      (3 * NS_PER_MS)
#define DRAIN_STEP_NS (100 * NS_PER_US)

static void nap(uint64_t ns)
{
	struct timespec ts = {.tv_sec = (time_t)(ns / NS_PER_S), .tv_nsec = (long)(ns % NS_PER_S)};

	nanosleep(&ts, NULL);
}

/* Both ways as GO and READY will go: the first use of a road takes longer than the next. */
static int arm(struct vmferry_source *s)
{
	struct vmferry_message m;
	int r;

	vmferry_session_busy_poll(s->session, vmferry_now() + BUSY_POLL_NS);
	r = message_send_number(s->session, VMFERRY_MAILBOX, MESSAGE_ARM, ++s->fence,
				vmferry_now() + ARMED_NS);

	r = r < 0 ? r : source_expect(s, MESSAGE_ARMED, vmferry_now() + ARMED_NS, &m);
	if (r == 0)
		vmferry_message_free(&m);
	return r;
}

/* One more harvest sent while the guest still runs, so that the pause finds next to nothing. */
static int drain(struct vmferry_source *s)
{
	uint64_t end = vmferry_now() + DRAIN_NS;
	int r = harvester_now(&s->harvester);

	while (r == 0 && !(lanes_idle(s->lanes) && lanes_take(s->lanes)) && vmferry_now() < end)
		nap(DRAIN_STEP_NS);
	return r;
}

static int pause_guest(struct vmferry_source *s)
{
	int r;

	s->predicted_at_switch_ns = source_predict(s);
	s->at.pause = vmferry_now();
	/* Set first: a pause that fails half way must be undone too. */
	s->paused = true;
	r = s->ops.pause(s->ctx);
	s->at.paused = vmferry_now();
	if (r < 0)
		source_because(s, "the guest could not be paused: %s", strerror(-r));
	return r;
}

static int last_pages(struct vmferry_source *s, int r)
{
	if (r < 0)
		source_because(s, "the last pages could not be sent: %s",
			       failure_text(s->session, r));
	return r;
}

/*
 * The lanes send what the first harvest finds while the state is saved. Saving may itself write
 * guest memory, by KVM or by a device: that is what the second harvest is for.
 */
static int collect(struct vmferry_source *s, uint64_t deadline)
{
	uint64_t before = atomic_load(&s->harvester.pages);
	int r = harvester_now(&s->harvester);

	s->at.harvested = vmferry_now();
	lanes_review(s->lanes);
	if (r == 0) {
		vmferry_blob_clear(s->state);
		r = s->ops.save(s->ctx, s->state);
		if (r < 0)
			source_because(s, "the VM's state could not be saved: %s", strerror(-r));
	}
	s->state_bytes = vmferry_blob_size(s->state);
	if (r == 0)
		r = harvester_now(&s->harvester);
	s->at.saved = vmferry_now();
	s->residual_pages = atomic_load(&s->harvester.pages) - before;
	return r < 0 ? r : last_pages(s, lanes_finish(s->lanes, s->fence, deadline));
}

static int wait_lanes(struct vmferry_source *s, uint64_t deadline)
{
	int r;

	do {
		r = source_check(s);
		if (r < 0)
			return r;
		r = lanes_finished(s->lanes, vmferry_now() + SOURCE_TICK_NS);
	} while (r == -ETIMEDOUT && vmferry_now() < deadline);
	s->at.lanes_done = vmferry_now();
	return last_pages(s, r);
}

/*
 * With --verify the list of what was sent since the first pass goes ahead of the state, on the same
 * channel because between two no order is promised, and is complete only now.
 */
static int send_resent(struct vmferry_source *s, uint64_t deadline)
{
	int r = wait_lanes(s, deadline);

	if (r < 0)
		return r;
	return verify_send_resent(s->session, VMFERRY_MAILBOX, s->sets->resent, s->vm.regions,
				  s->vm.region_count, deadline);
}

static int send_everything(struct vmferry_source *s, uint64_t deadline)
{
	int r = collect(s, deadline);

	if (r == 0 && s->options.verify)
		r = send_resent(s, deadline);
	if (r == 0)
		r = vmferry_send(s->session, VMFERRY_MAILBOX, MESSAGE_STATE,
				 vmferry_blob_data(s->state), vmferry_blob_size(s->state),
				 deadline);
	s->at.state_sent = vmferry_now();
	if (r == 0 && !s->options.verify)
		r = wait_lanes(s, deadline);
	return r;
}

/* From here on a cancel comes too late. */
static int commit(struct vmferry_source *s)
{
	int r = source_check(s);

	if (r < 0)
		return r;
	pthread_mutex_lock(&s->lock);
	if (s->cancelled)
		r = -ECANCELED;
	else
		s->committed = true;
	pthread_mutex_unlock(&s->lock);
	return r < 0 ? r : phase_enter(&s->phase, VMFERRY_COMMITTED);
}

static int take_running(struct vmferry_source *s)
{
	uint64_t deadline = vmferry_now() + RUNNING_NS;
	struct vmferry_message m;
	int r;

	for (;;) {
		r = vmferry_recv(s->session, &m, deadline);
		if (r < 0)
			return r;
		/* The answer to a ping from before may still be under way. */
		if (m.type != MESSAGE_PONG)
			break;
		vmferry_message_free(&m);
	}
	s->at.running = vmferry_now();
	if (m.type == MESSAGE_RUNNING)
		r = times_unpack(&m, &s->there);
	else
		r = message_unexpected("source", &m, "running");
	/*
	 * It owns the guest and says itself that it could not run it: asking again would not help.
	 */
	if (m.type == MESSAGE_ABORT)
		r = -EOWNERDEAD;
	vmferry_message_free(&m);
	return r;
}

/*
 * Asks the destination, over a new connection, who owns the guest. -EAGAIN when it cannot be
 * reached.
 */
static int query(struct vmferry_source *s, uint64_t deadline, uint64_t *owner)
{
	struct vmferry_transport_options o = s->options.transport;
	struct vmferry_session *session = NULL;
	struct vmferry_message m;
	int r;

	o.lanes = VMFERRY_LANES_NONE;
	if (vmferry_connect(s->uri, &o, deadline, &session) < 0)
		return -EAGAIN;
	r = vmferry_send(session, VMFERRY_CONTROL, MESSAGE_QUERY, s->identity.id,
			 sizeof(s->identity.id), deadline);
	r = r < 0 ? r : vmferry_recv(session, &m, deadline);
	if (r == 0) {
		r = m.type == MESSAGE_ANSWER ? number_unpack(&m, owner)
					     : message_unexpected("source", &m, "answer");
		vmferry_message_free(&m);
	}
	vmferry_session_close(&session);
	return r < 0 ? -EAGAIN : 0;
}

static int conclude(struct vmferry_source *s, uint64_t owner)
{
	switch (owner) {
	case OWNER_HERE:
		log_warn("source %s: the answer to GO was lost, but the destination says that the "
			 "guest runs there",
			 s->uri);
		return 0;
	case OWNER_ABORTED:
		source_because(s, "the destination gave the migration up before GO reached it");
		return -ECONNABORTED;
	default:
		/*
		 * Another process took the port over: whether the one that we knew had the guest,
		 * it cannot say.
		 */
		source_because(
			s, "GO was said, the answer was lost, and who listens there now does not "
			   "know of it");
		return -EINPROGRESS;
	}
}

static int resolve(struct vmferry_source *s, int cause)
{
	uint64_t end = vmferry_now() + RESOLVE_NS;
	uint64_t owner = OWNER_UNKNOWN;

	log_warn("source %s: no answer to GO: %s: asking over a new connection", s->uri,
		 strerror(-cause));
	vmferry_session_shutdown(s->session);
	while (vmferry_now() < end) {
		if (query(s, vmferry_now() + RESOLVE_TRY_NS, &owner) == 0)
			return conclude(s, owner);
		nap(RESOLVE_GAP_NS);
	}
	log_error(
		"source %s: INDETERMINATE: GO was said and the destination cannot be reached: the "
		"guest stays paused here: find out whether it runs there before resuming it",
		s->uri);
	source_because(s,
		       "GO was said, its answer was lost, and the destination cannot be reached");
	return -EINPROGRESS;
}

/*
 * The blackout ends when run() returned at the destination. READY left there half a round trip
 * before it came here, and the destination's own clock has measured the time from then on.
 */
static void measure_blackout(struct vmferry_source *s)
{
	uint64_t until_ready = s->at.ready - s->at.pause;
	uint64_t half = s->parts.rtt_ns / 2;

	s->blackout_ns =
		until_ready - (half < until_ready ? half : 0) + s->there.go_ns + s->there.run_ns;
	if (s->there.run_ns == 0)
		s->blackout_ns = vmferry_now() - s->at.pause;
	if (s->blackout_ns > s->options.downtime_ns)
		log_warn("source %s: the blackout of %llu us is over the limit of %llu us", s->uri,
			 (unsigned long long)(s->blackout_ns / NS_PER_US),
			 (unsigned long long)(s->options.downtime_ns / NS_PER_US));
}

static int say_go(struct vmferry_source *s)
{
	int r;

	s->at.go = vmferry_now();
	r = vmferry_send(s->session, VMFERRY_MAILBOX, MESSAGE_GO, s->identity.id,
			 sizeof(s->identity.id), s->at.go + RUNNING_NS);
	/*
	 * The guest waits for nothing of this side any more; spinning might take the processor that
	 * it runs on.
	 */
	vmferry_session_busy_poll(s->session, 0);
	/* A send that failed may have reached the other side all the same. */
	r = r < 0 ? r : take_running(s);
	if (r == -EOWNERDEAD) {
		source_because(
			s, "the destination took the guest over but could not run it: see its log");
		return -EINPROGRESS;
	}
	if (r < 0)
		r = resolve(s, r);
	if (r == 0)
		measure_blackout(s);
	return r;
}

int source_switchover(struct vmferry_source *s)
{
	struct vmferry_message m;
	uint64_t deadline;
	int r = phase_enter(&s->phase, VMFERRY_SWITCHOVER);

	r = r < 0 ? r : arm(s);
	r = r < 0 ? r : drain(s);
	r = r < 0 ? r : source_check(s);
	r = r < 0 ? r : pause_guest(s);
	deadline = vmferry_now() +
		   (s->options.downtime_ns > READY_NS ? s->options.downtime_ns : READY_NS);
	r = r < 0 ? r : send_everything(s, deadline);
	r = r < 0 ? r : source_expect(s, MESSAGE_READY, deadline, &m);
	if (r < 0)
		return r;
	s->at.ready = vmferry_now();
	lanes_placed(s->lanes);
	vmferry_message_free(&m);
	r = commit(s);
	return r < 0 ? r : say_go(s);
}

int source_verify(struct vmferry_source *s)
{
	uint64_t deadline = vmferry_now() + HASHES_NS;
	struct hash_table *here = NULL;
	uint64_t received = 0;
	int r = hash_table_new(s->vm.regions, s->vm.region_count, &here);

	r = r < 0 ? r : hash_table_new(s->vm.regions, s->vm.region_count, &s->hashes);
	while (r == 0 && received < hash_table_pages(here)) {
		struct vmferry_message m;

		r = vmferry_recv(s->session, &m, deadline);
		if (r < 0)
			break;
		if (m.type == MESSAGE_HASHES)
			r = verify_take_hashes(&m, s->hashes, &received);
		else if (m.type != MESSAGE_PONG)
			r = message_unexpected("source", &m, "hashes");
		vmferry_message_free(&m);
	}
	/*
	 * Behind the messages: nobody else takes them in, and over RDMA nothing holds the
	 * destination back from sending.
	 */
	r = r < 0 ? r : hash_all(here, NULL);
	if (r == 0) {
		s->mismatches = verify_compare(here, s->hashes);
		s->verified = s->mismatches == 0;
	}
	hash_table_free(&here);
	return r;
}
