/* SPDX-License-Identifier: MIT */
/* The destination as an object, its listener's thread and its control thread. */
#include "destination.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"

#define LISTEN_SLICE_NS (60 * NS_PER_S)
/* Who has finished the handshake must say what he wants within this. */
#define FIRST_MESSAGE_NS (2 * NS_PER_S)
#define ANSWER_NS	 NS_PER_S
/* How long an offer waits for the control thread to be free. */
#define FREE_NS NS_PER_S

/* ---- the listener's thread --------------------------------------------------------------------------------- */

static void answer_query(struct vmferry_destination *d, struct vmferry_session *session,
			 const struct vmferry_message *m)
{
	enum owner owner;

	if (m->length != MIGRATION_ID_BYTES) {
		log_error("destination: query of %zu bytes from %s: protocol error", m->length,
			  vmferry_session_peer(session));
		return;
	}
	owner = owner_query(&d->owners, m->data);
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
 * Takes the session over when the control thread is free: true. It may just be clearing up after an attempt that failed, and the
 * same source may be back already: give it a moment.
 */
static bool hand_over(struct vmferry_destination *d, struct vmferry_session *session,
		      struct vmferry_message *m)
{
	struct timespec ts = deadline_timespec(vmferry_now() + FREE_NS);
	bool taken;
	int r = 0;

	pthread_mutex_lock(&d->lock);
	while ((d->busy || d->handed != NULL) && !d->over && !has_guest(d) && r == 0)
		r = pthread_cond_clockwait(&d->changed, &d->lock, CLOCK_MONOTONIC, &ts);
	taken = !d->busy && d->handed == NULL && !d->over;
	if (taken) {
		d->handed = session;
		d->offered = *m;
		pthread_cond_broadcast(&d->changed);
	}
	pthread_mutex_unlock(&d->lock);
	return taken;
}

static void receive_first(struct vmferry_destination *d, struct vmferry_session *session)
{
	struct vmferry_message m;
	int r = vmferry_recv(session, &m, vmferry_now() + FIRST_MESSAGE_NS);

	if (r < 0) {
		log_warn("destination: %s said nothing after the handshake: %s: closed",
			 vmferry_session_peer(session), strerror(-r));
		goto close;
	}
	if (m.type == MESSAGE_OFFER && hand_over(d, session, &m))
		return;
	if (m.type == MESSAGE_OFFER)
		refuse_busy(d, session);
	else if (m.type == MESSAGE_QUERY)
		answer_query(d, session, &m);
	else
		message_unexpected("destination", &m, "offer or query");
	vmferry_message_free(&m);
close:
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
			receive_first(d, session);
	} while (r == 0 || r == -ETIMEDOUT);
	pthread_mutex_lock(&d->lock);
	d->listening_ended = true;
	pthread_cond_broadcast(&d->changed);
	pthread_mutex_unlock(&d->lock);
	return NULL;
}

/* ---- the control thread ------------------------------------------------------------------------------------ */

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

static int one_attempt(struct vmferry_destination *d)
{
	struct vmferry_session *session;
	int r;

	if (phase_now(&d->phase) == VMFERRY_FAILED)
		phase_enter(&d->phase, VMFERRY_LISTEN);
	r = take_offer(d);
	if (r < 0)
		return r;
	snprintf(d->attempt.transport_reason, sizeof(d->attempt.transport_reason), "%s",
		 vmferry_session_transport_reason(d->attempt.session));
	r = attempt_run(d);
	d->attempt_result = r;
	vmferry_registration_stats(d->attempt.session, &d->attempt.registration);
	pthread_mutex_lock(&d->lock);
	session = d->current;
	d->current = NULL;
	pthread_mutex_unlock(&d->lock);
	vmferry_session_close(&session);
	d->attempt.session = NULL;
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

/* ---- the object -------------------------------------------------------------------------------------------- */

static int check_sizes(const struct vmferry_destination_ops *ops,
		       const struct vmferry_destination_options *options)
{
	if (ops->size == sizeof(*ops) && options->size == sizeof(*options) && ops->check != NULL &&
	    ops->prepare != NULL && ops->load != NULL && ops->run != NULL && ops->abandon != NULL)
		return 0;
	log_error(
		"destination: a structure of another size or a callback missing: set size to sizeof "
		"and build against this version's headers");
	return -EINVAL;
}

int vmferry_destination_new(const struct vmferry_destination_ops *ops, void *ctx, const char *uri,
			    const struct vmferry_destination_options *options,
			    struct vmferry_destination **destination)
{
	struct vmferry_destination *d;
	int r = check_sizes(ops, options);

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
	owner_init(&d->owners);
	guest_memory_init(&d->memory);
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
	int r = pthread_create(thread, NULL, main, arg);

	if (r != 0)
		log_error("destination: no thread for it: %s: raise the limit of processes",
			  strerror(r));
	else
		pthread_setname_np(*thread, name);
	return -r;
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
	owner_destroy(&d->owners);
	guest_memory_destroy(&d->memory);
	if (d->done_fd >= 0)
		close(d->done_fd);
	free(d);
	*destination = NULL;
}
