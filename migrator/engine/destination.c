/* SPDX-License-Identifier: MIT */
/* The destination as an object, its listener's thread and its control thread. */
#include "destination.h"

#include <errno.h>
#include <gnutls/gnutls.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"

#define LISTEN_SLICE_NS (60 * NS_PER_S)
#define ANSWER_NS	NS_PER_S
/* How long an offer waits for the control thread to be free. */
#define FREE_NS (3 * NS_PER_S)
/* The source may notice a loss so much later, and tries from then on. */
#define NOTICED_NS (5 * NS_PER_S)

/* ---- the first message of a session, in a thread of its own ------------------------------ */

static void answer_query(struct vmferry_destination *d, struct vmferry_session *session,
			 const struct vmferry_message *m)
{
	enum owner owner;

	if (m->length != MIGRATION_ID_BYTES) {
		log_error("destination: query of %zu bytes from %s: protocol error", m->length,
			  vmferry_session_peer(session));
		return;
	}
	owner = ledger_query(&d->ledger, m->data);
	/* An attempt that waits for its source to come back need not do so any more. */
	pthread_mutex_lock(&d->lock);
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	message_send_number(session, VMFERRY_CONTROL, MESSAGE_ANSWER, owner,
			    vmferry_now() + ANSWER_NS);
}

static bool has_guest(const struct vmferry_destination *d)
{
	enum vmferry_phase phase = phase_now(&d->phase);

	return phase == VMFERRY_RUNNING || phase == VMFERRY_DONE;
}

static void refuse_busy(struct vmferry_destination *d, struct vmferry_session *session)
{
	struct vmferry_problems *problems = NULL;
	struct vmferry_blob *blob = NULL;

	log_warn("destination: offer from %s refused: busy", vmferry_session_peer(session));
	if (vmferry_problems_new(&problems) == 0 && vmferry_blob_new(&blob) == 0) {
		vmferry_problems_add(problems,
				     has_guest(d)
					     ? "a guest already runs in this destination"
					     : "another migration is under way to this destination",
				     "start another destination");
		if (verdict_pack(problems, blob) == 0)
			message_send(session, VMFERRY_CONTROL, MESSAGE_VERDICT, &blob,
				     vmferry_now() + ANSWER_NS);
	}
	vmferry_blob_free(&blob);
	vmferry_problems_free(&problems);
}

/*
 * Takes the session over when the control thread is free: true. It may just be clearing up after an
 * attempt that failed, and the same source may be back already: give it a moment.
 */
static bool hand_over(struct vmferry_destination *d, struct vmferry_session *session,
		      struct vmferry_message *m)
{
	struct timespec ts = deadline_timespec(vmferry_now() + FREE_NS);
	bool taken;
	int r = 0;

	pthread_mutex_lock(&d->lock);
	/* The source that is waited for may have died, and this be it again. */
	d->offers++;
	snprintf(d->offers_from, sizeof(d->offers_from), "%s", vmferry_session_peer(session));
	pthread_cond_broadcast(&d->changed);
	while ((d->busy || d->handed != NULL) && !d->over && !has_guest(d) && r == 0)
		r = pthread_cond_clockwait(&d->changed, &d->lock, CLOCK_MONOTONIC, &ts);
	d->offers--;
	taken = !d->busy && d->handed == NULL && !d->over;
	if (taken) {
		d->handed = session;
		d->offered = *m;
		pthread_cond_broadcast(&d->changed);
	}
	pthread_mutex_unlock(&d->lock);
	return taken;
}

static bool is_expected(const struct vmferry_destination *d, const struct rejoin *rejoin)
{
	return d->may_rejoin && gnutls_memcmp(&d->identity, rejoin, sizeof(d->identity)) == 0;
}

/*
 * Takes the session over for the attempt under way: true. Its old one may look alive here: it is
 * not any more. Should the source have tried before and given that up, the last try counts.
 */
static bool hand_over_again(struct vmferry_destination *d, struct vmferry_session *session,
			    struct vmferry_message *m)
{
	struct vmferry_session *before = NULL;
	struct rejoin rejoin;
	bool taken;

	if (rejoin_unpack(m, &rejoin) < 0)
		return false;
	pthread_mutex_lock(&d->lock);
	taken = is_expected(d, &rejoin);
	if (taken) {
		before = d->handed;
		d->handed = session;
		if (d->current != NULL)
			vmferry_session_shutdown(d->current);
		pthread_cond_broadcast(&d->changed);
	}
	pthread_mutex_unlock(&d->lock);
	vmferry_session_close(&before);
	if (taken)
		vmferry_message_free(m);
	return taken;
}

static void refuse_again(struct vmferry_session *session)
{
	static const char reason[] = "no such migration is under way: it has ended here";

	log_warn("destination: %s wants to go on with a migration that is not under way",
		 vmferry_session_peer(session));
	vmferry_send(session, VMFERRY_CONTROL, MESSAGE_ABORT, reason, sizeof(reason) - 1,
		     vmferry_now() + ANSWER_NS);
}

static void take_first(void *ctx, struct vmferry_session *session, struct vmferry_message *m)
{
	struct vmferry_destination *d = ctx;

	if (m->type == MESSAGE_OFFER && hand_over(d, session, m))
		return;
	if (m->type == MESSAGE_REJOIN && hand_over_again(d, session, m))
		return;
	if (m->type == MESSAGE_OFFER)
		refuse_busy(d, session);
	else if (m->type == MESSAGE_REJOIN)
		refuse_again(session);
	else if (m->type == MESSAGE_QUERY)
		answer_query(d, session, m);
	else
		message_unexpected("destination", m, "offer, rejoin or query");
	vmferry_message_free(m);
	vmferry_session_close(&session);
}

static void *listen_main(void *arg)
{
	struct vmferry_destination *d = arg;
	struct vmferry_session *session;
	int r;

	do {
		r = vmferry_accept(d->listener, vmferry_now() + LISTEN_SLICE_NS, &session);
		if (r == 0)
			pending_add(&d->pending, session);
	} while (r == 0 || r == -ETIMEDOUT);
	pending_close(&d->pending);
	pthread_mutex_lock(&d->lock);
	d->listening_ended = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* ---- the control thread ---------------------------------------------------------------------- */

/* Waits for an offer: 0 and the attempt's session and first message are set; -ECANCELED. */
static int take_offer(struct vmferry_destination *d)
{
	int r = 0;

	pthread_mutex_lock(&d->lock);
	d->busy = false;
	pthread_cond_broadcast(&d->changed);
	while (d->handed == NULL && !d->listening_ended && !atomic_load(&d->cancelled))
		pthread_cond_wait(&d->changed, &d->lock);
	if (d->handed == NULL || atomic_load(&d->cancelled)) {
		r = -ECANCELED;
	} else {
		memset(&d->attempt, 0, sizeof(d->attempt));
		d->attempt.session = d->handed;
		d->attempt.first = d->offered;
		d->current = d->handed;
		d->handed = NULL;
		memset(&d->offered, 0, sizeof(d->offered));
	}
	d->busy = true;
	pthread_mutex_unlock(&d->lock);
	return r;
}

void destination_allow_rejoin(struct vmferry_destination *d)
{
	const struct offer *o = &d->attempt.offer;

	pthread_mutex_lock(&d->lock);
	memcpy(d->identity.id, o->id, sizeof(o->id));
	memcpy(d->identity.secret, o->secret, sizeof(o->secret));
	d->may_rejoin = true;
	pthread_mutex_unlock(&d->lock);
}

void destination_forbid_rejoin(struct vmferry_destination *d)
{
	struct vmferry_session *late = NULL;

	pthread_mutex_lock(&d->lock);
	if (d->may_rejoin)
		late = d->handed;
	if (late != NULL)
		d->handed = NULL;
	d->may_rejoin = false;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	vmferry_session_close(&late);
}

/* "HOST:PORT". */
static bool is_same_host(const char *a, const char *b)
{
	const char *a_port = strrchr(a, ':'), *b_port = strrchr(b, ':');

	return a_port != NULL && b_port != NULL && a_port - a == b_port - b &&
	       memcmp(a, b, (size_t)(a_port - a)) == 0;
}

/* With the lock held. */
static bool is_superseded(const struct vmferry_destination *d)
{
	return d->offers > 0 && is_same_host(d->offers_from, d->attempt.peer);
}

/* With the lock held. */
static bool may_wait_on(struct vmferry_destination *d)
{
	return d->handed == NULL && !is_superseded(d) && !d->listening_ended &&
	       !atomic_load(&d->cancelled) && ledger_is_undecided(&d->ledger, d->identity.id);
}

/* With the lock held. */
static int waited(struct vmferry_destination *d)
{
	if (atomic_load(&d->cancelled) || d->listening_ended)
		return -ECANCELED;
	if (!ledger_is_undecided(&d->ledger, d->identity.id))
		return -ECONNABORTED;
	if (d->handed == NULL)
		return is_superseded(d) ? -ECONNABORTED : -ETIMEDOUT;
	d->attempt.session = d->current = d->handed;
	d->handed = NULL;
	return 0;
}

static void close_current(struct vmferry_destination *d)
{
	struct vmferry_session *session;

	pthread_mutex_lock(&d->lock);
	session = d->current;
	d->current = NULL;
	pthread_mutex_unlock(&d->lock);
	vmferry_session_close(&session);
	d->attempt.session = NULL;
}

int destination_await_rejoin(struct vmferry_destination *d)
{
	uint64_t wait = d->attempt.offer.reconnect_ns < RECONNECT_MAX_NS
				? d->attempt.offer.reconnect_ns
				: RECONNECT_MAX_NS;
	struct timespec ts = deadline_timespec(vmferry_now() + wait + NOTICED_NS);
	int r = 0;

	close_current(d);
	pthread_mutex_lock(&d->lock);
	while (may_wait_on(d) && r == 0)
		r = pthread_cond_clockwait(&d->changed, &d->lock, CLOCK_MONOTONIC, &ts);
	r = waited(d);
	pthread_mutex_unlock(&d->lock);
	return r;
}

static int one_attempt(struct vmferry_destination *d)
{
	int r;

	if (phase_now(&d->phase) == VMFERRY_FAILED)
		phase_enter(&d->phase, VMFERRY_LISTEN);
	r = take_offer(d);
	if (r < 0)
		return r;
	r = attempt_run(d);
	d->attempt_result = r;
	close_current(d);
	if (phase_now(&d->phase) == VMFERRY_RUNNING)
		return r;
	if (atomic_load(&d->cancelled))
		return -ECANCELED;
	return -EAGAIN;
}

static void *control_main(void *arg)
{
	struct vmferry_destination *d = arg;
	uint64_t one = 1;
	int r;

	do {
		r = one_attempt(d);
	} while (r == -EAGAIN);
	phase_enter(&d->phase, r == -ECANCELED ? VMFERRY_CANCELLED : VMFERRY_DONE);
	pthread_mutex_lock(&d->lock);
	d->result = r;
	d->over = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	if (write(d->done_fd, &one, sizeof(one)) < 0)
		log_error("destination: eventfd: %s", strerror(errno));
	return NULL;
}

/* ---- the object ------------------------------------------------------------------------------ */

static int check_sizes(const struct vmferry_destination_ops *ops,
		       const struct vmferry_destination_options *options)
{
	if (ops->size == sizeof(*ops) && options->size == sizeof(*options) && ops->check != NULL &&
	    ops->prepare != NULL && ops->load != NULL && ops->run != NULL && ops->abandon != NULL)
		return 0;
	log_error("destination: a structure of another size or a callback missing: set size to "
		  "sizeof and build against this version's headers");
	return -EINVAL;
}

int vmferry_destination_new(const struct vmferry_destination_ops *ops, void *ctx, const char *uri,
			    const struct vmferry_destination_options *options,
			    struct vmferry_destination **destination)
{
	static const struct vmferry_destination_options defaults = {.size = sizeof(defaults)};
	struct vmferry_destination *d;
	int r;

	if (options == NULL)
		options = &defaults;
	r = check_sizes(ops, options);
	if (r < 0)
		return r;
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return -ENOMEM;
	d->ops = *ops;
	d->ctx = ctx;
	d->options = *options;
	d->options.transport.size = sizeof(d->options.transport);
	d->attempt_result = -ENODATA;
	d->busy = true;
	ledger_init(&d->ledger);
	guest_memory_init(&d->memory);
	pending_init(&d->pending, take_first, d);
	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->changed, NULL);
	phase_init(&d->phase, PHASE_DESTINATION, options->on_phase, ctx);
	d->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	r = d->done_fd < 0 ? -errno : vmferry_listen(uri, &d->options.transport, &d->listener);
	if (r < 0)
		vmferry_destination_free(&d);
	else
		*destination = d;
	return r;
}

const char *vmferry_destination_uri(const struct vmferry_destination *d)
{
	return vmferry_listener_uri(d->listener);
}

static int start_thread(pthread_t *thread, const char *name, void *(*main)(void *), void *arg)
{
	int r = thread_start(thread, name, main, arg);

	if (r < 0)
		log_error("destination: no thread for it: %s: raise the limit of processes",
			  strerror(-r));
	return r;
}

int vmferry_destination_start(struct vmferry_destination *d)
{
	int r;

	if (d->started)
		return -EALREADY;
	r = start_thread(&d->listen_thread, "vmf-listen", listen_main, d);
	if (r < 0)
		return r;
	r = start_thread(&d->control_thread, "vmf-dest", control_main, d);
	if (r < 0) {
		vmferry_listener_shutdown(d->listener);
		pthread_join(d->listen_thread, NULL);
		return r;
	}
	d->started = true;
	return 0;
}

int vmferry_destination_fd(const struct vmferry_destination *d)
{
	return d->done_fd;
}

int vmferry_destination_wait(struct vmferry_destination *d, uint64_t deadline)
{
	struct timespec ts = deadline_timespec(deadline);
	int r = 0;

	pthread_mutex_lock(&d->lock);
	while (!d->over && r == 0)
		r = pthread_cond_clockwait(&d->changed, &d->lock, CLOCK_MONOTONIC, &ts);
	r = d->over ? d->result : -ETIMEDOUT;
	pthread_mutex_unlock(&d->lock);
	return r;
}

/* Ends the listening and an attempt under way; a guest that already runs here runs on. */
static void stop(struct vmferry_destination *d)
{
	atomic_store(&d->cancelled, true);
	vmferry_listener_shutdown(d->listener);
	pthread_mutex_lock(&d->lock);
	if (d->current != NULL)
		vmferry_session_shutdown(d->current);
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
}

int vmferry_destination_cancel(struct vmferry_destination *d)
{
	enum vmferry_phase phase = phase_now(&d->phase);

	if (phase == VMFERRY_RUNNING || phase == VMFERRY_DONE || phase == VMFERRY_CANCELLED)
		return -EALREADY;
	stop(d);
	return 0;
}

enum vmferry_phase vmferry_destination_phase(const struct vmferry_destination *d)
{
	return phase_now(&d->phase);
}

int vmferry_destination_discard(struct vmferry_destination *d, uint64_t address, uint64_t length)
{
	return guest_memory_discard(&d->memory, address, length);
}

void vmferry_destination_free(struct vmferry_destination **destination)
{
	struct vmferry_destination *d = *destination;

	if (d == NULL)
		return;
	if (d->started) {
		stop(d);
		pthread_join(d->control_thread, NULL);
		pthread_join(d->listen_thread, NULL);
	}
	vmferry_session_close(&d->handed);
	vmferry_message_free(&d->offered);
	vmferry_listener_close(&d->listener);
	pthread_cond_destroy(&d->changed);
	pthread_mutex_destroy(&d->lock);
	ledger_destroy(&d->ledger);
	guest_memory_destroy(&d->memory);
	pending_destroy(&d->pending);
	if (d->done_fd >= 0)
		close(d->done_fd);
	free(d);
	*destination = NULL;
}
