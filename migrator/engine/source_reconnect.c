/* SPDX-License-Identifier: MIT */
/*
 * The connection is lost before GO: the guest runs on here, and the source connects again as the
 * same migration.
 *
 * ORDER    No page goes out on the new connection before the destination has said REJOINED, which
 *          it does when the old one is closed there: its sockets, its queue pairs, its registered
 *          memory. So no older copy of a page can be placed after a newer one. Only then is dirty
 *          again what is not known to be placed.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "source.h"

/*
 * One try to connect. Over RDMA half of it is for that, and the other half for TCP if that is
 * allowed.
 */
#define TRY_NS	     (2 * NS_PER_S)
#define PAUSE_NS     (20 * NS_PER_MS)
#define PAUSE_MAX_NS (500 * NS_PER_MS)
/* A connection that has been sending its first pass for this long makes progress. */
#define FRUITFUL_NS NS_PER_S
#define REFUSED_NS  (2 * NS_PER_S)
/* How often cancel and timeout are checked during a pause. */
#define PAUSE_SLICE_NS (20 * NS_PER_MS)

bool source_is_lost(struct vmferry_source *s, int r)
{
	bool committed;

	pthread_mutex_lock(&s->lock);
	committed = s->committed;
	pthread_mutex_unlock(&s->lock);
	return r < 0 && error_is_of_connection(r) && !committed &&
	       (s->tracked || !s->harvester.running) && s->session != NULL &&
	       *vmferry_session_failure(s->session) != '\0' &&
	       s->options.reconnect_ns != VMFERRY_RECONNECT_NEVER;
}

/* The place of a loss: all that there is no room for share the last one. */
static uint32_t loss_place(uint32_t number)
{
	return number < LOSSES_MAX ? number : LOSSES_MAX - 1;
}

const char *source_last_cause(const struct vmferry_source *s)
{
	uint32_t count = atomic_load(&s->loss_count);

	return count == 0 ? "" : s->losses[loss_place(count - 1)].cause;
}

/* The reason is of this loss, and not yet of the migration's end. */
static struct source_loss *note_loss(struct vmferry_source *s)
{
	uint32_t count = atomic_load(&s->loss_count);
	struct source_loss *loss = &s->losses[loss_place(count)];

	*loss = (struct source_loss){
		.at_ns = vmferry_now() - s->began_ns,
		.phase = phase_now(&s->phase),
		.transport = s->transport,
	};
	source_because(s, "%s", vmferry_session_failure(s->session));
	snprintf(loss->cause, sizeof(loss->cause), "%s", s->reason);
	s->reason[0] = '\0';
	atomic_store_explicit(&s->loss_count, count + 1, memory_order_relaxed);
	log_warn("source %s: connection lost in %s: %s: the guest runs on here, connecting again "
		 "for %llu ms",
		 s->uri, vmferry_phase_name(loss->phase), loss->cause,
		 (unsigned long long)(s->options.reconnect_ns / NS_PER_MS));
	return loss;
}

/*
 * Whether the lost connection made progress. One that is lost in each switchover does not, however
 * often its first pass completes.
 */
static bool was_fruitful(const struct vmferry_source *s)
{
	uint64_t lived = s->lanes != NULL ? vmferry_now() - s->pass_ns : 0;

	if (lived >= s->options.reconnect_ns)
		return true;
	return phase_now(&s->phase) == VMFERRY_PRECOPY && s->lanes != NULL &&
	       (lanes_first_pass_done(s->lanes) || lived >= FRUITFUL_NS);
}

/*
 * Connections that make no progress may be lost again and again: the time allowed counts from the
 * first of them, and the pauses between them grow.
 */
static void count_vain(struct vmferry_source *s, bool fruitful)
{
	if (s->vain_count == 0 || fruitful) {
		s->vain_since_ns = vmferry_now();
		s->vain_count = 0;
	}
	s->vain_count++;
	s->refused_since_ns = 0;
}

/*
 * Nothing that was asked for over the old connection will be answered, and of the switchover all
 * begins anew.
 */
static void forget_connection(struct vmferry_source *s)
{
	source_disconnect(s);
	s->at = (struct source_moments){0};
	s->ping_sent_ns = 0;
	s->marking = false;
	s->hash_asked = false;
	s->hashed = false;
}

static int pause(struct vmferry_source *s, uint64_t ns)
{
	uint64_t until = vmferry_now() + ns;
	int r = source_check(s);

	while (r == 0 && vmferry_now() < until) {
		const struct timespec slice = {.tv_nsec = (long)PAUSE_SLICE_NS};

		nanosleep(&slice, NULL);
		r = source_check(s);
	}
	return r;
}

static int connect_once(struct vmferry_source *s, uint64_t deadline)
{
	struct vmferry_transport_options transport = source_transport(s);
	uint64_t end = vmferry_now() + TRY_NS;
	int r;

	/* RDMA was tried again, and in vain: TCP will do. */
	if (transport.transport == VMFERRY_TRANSPORT_AUTO && s->vain_count > 1 && !s->tcp_refused)
		transport.transport = VMFERRY_TRANSPORT_TCP;
	r = vmferry_connect(s->uri, &transport, end < deadline ? end : deadline, &s->session);
	s->tcp_refused |= r == -EPROTO && transport.transport == VMFERRY_TRANSPORT_TCP;
	return r;
}

static int rejoin(struct vmferry_source *s, uint64_t deadline)
{
	struct vmferry_message m;
	int r = source_take_session(s);

	r = r < 0 ? r
		  : vmferry_send(s->session, VMFERRY_CONTROL, MESSAGE_REJOIN, &s->identity,
				 sizeof(s->identity), deadline);
	r = r < 0 ? r : source_expect(s, MESSAGE_REJOINED, deadline, &m);
	if (r == 0)
		vmferry_message_free(&m);
	return r;
}

/*
 * The host is there, and the process that has the guest's memory is not, unless it is a tunnel that
 * begins anew.
 */
static int refused(struct vmferry_source *s)
{
	uint64_t now = vmferry_now();

	if (s->refused_since_ns == 0)
		s->refused_since_ns = now;
	if (now - s->refused_since_ns < REFUSED_NS)
		return -EAGAIN;
	source_because(s, "nobody listens at %s any more: the destination has ended", s->uri);
	return -ECONNRESET;
}

/* No page has been sent: the destination keeps nothing of the attempt, and this one is another. */
static int begin_anew(struct vmferry_source *s)
{
	int r = source_new_identity(s);

	r = r < 0 ? r : source_take_session(s);
	return r < 0 ? r : source_enter_check(s);
}

/* 0; -EAGAIN to try again; else it is no use. */
static int try_once(struct vmferry_source *s, uint64_t deadline)
{
	int r = connect_once(s, deadline);

	if (r < 0)
		return r == -ECONNREFUSED ? refused(s) : -EAGAIN;
	s->refused_since_ns = 0;
	r = s->tracked ? rejoin(s, deadline) : begin_anew(s);
	if (r == 0 || !error_is_of_connection(r) ||
	    (r != -ETIMEDOUT && *vmferry_session_failure(s->session) == '\0'))
		return r;
	s->reason[0] = '\0';
	vmferry_session_close(&s->session);
	if (phase_now(&s->phase) == VMFERRY_CHECK)
		phase_enter(&s->phase, VMFERRY_SETUP);
	return -EAGAIN;
}

static uint64_t longer(uint64_t wait)
{
	return 2 * wait < PAUSE_MAX_NS ? 2 * wait : PAUSE_MAX_NS;
}

static int connect_again(struct vmferry_source *s, const struct source_loss *loss)
{
	uint64_t deadline = s->vain_since_ns + s->options.reconnect_ns;
	uint64_t wait = PAUSE_NS;
	int r = s->vain_count > 1 ? -EAGAIN : try_once(s, deadline);

	for (unsigned int i = 1; i < s->vain_count && wait < PAUSE_MAX_NS; i++)
		wait = longer(wait);
	while (r == -EAGAIN && vmferry_now() < deadline) {
		r = pause(s, wait);
		if (r == 0)
			r = try_once(s, deadline);
		wait = longer(wait);
	}
	if (r != -EAGAIN)
		return r;
	source_because(s, "%s, and connecting again failed for %llu ms", loss->cause,
		       (unsigned long long)(s->options.reconnect_ns / NS_PER_MS));
	return -ECONNRESET;
}

static void go_on(struct vmferry_source *s, struct source_loss *loss)
{
	loss->bytes_again = page_sets_return_unplaced(s->sets) * VMFERRY_PAGE_SIZE;
	loss->transport_then = s->transport;
	/* What another kind of lane carries is not known yet. */
	if (loss->transport != s->transport)
		s->parts.bandwidth = 0;
	s->pong_ns = vmferry_now();
}

static int reconnect(struct vmferry_source *s, struct source_loss *loss)
{
	bool fruitful = was_fruitful(s);
	int r = 0;

	forget_connection(s);
	count_vain(s, fruitful);
	if (!s->tracked)
		r = phase_enter(&s->phase, VMFERRY_SETUP);
	else if (loss->phase == VMFERRY_SWITCHOVER)
		r = phase_enter(&s->phase, VMFERRY_PRECOPY);
	r = r < 0 ? r : connect_again(s, loss);
	if (r < 0)
		return r;
	go_on(s, loss);
	return s->tracked ? source_begin_again(s) : source_begin(s);
}

int source_reconnect(struct vmferry_source *s)
{
	uint64_t lost_ns = vmferry_now();
	bool was_paused = s->paused;
	struct source_loss *loss;
	int r;

	source_resume_guest(s);
	loss = note_loss(s);
	if (was_paused)
		loss->paused_ns = s->at.resumed - s->at.pause;
	atomic_store_explicit(&s->reconnecting, true, memory_order_relaxed);
	r = reconnect(s, loss);
	atomic_store_explicit(&s->reconnecting, false, memory_order_relaxed);
	if (r < 0)
		return r;
	loss->resumed_ns = vmferry_now() - lost_ns;
	log_warn("source %s: connected again after %llu ms, over %s: %llu KiB are sent again",
		 s->uri, (unsigned long long)(loss->resumed_ns / NS_PER_MS), s->transport,
		 (unsigned long long)(loss->bytes_again >> 10));
	return 0;
}
