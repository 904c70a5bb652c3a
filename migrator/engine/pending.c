/* SPDX-License-Identifier: MIT */
#include "pending.h"

#include <errno.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"

/* After the handshake the first message must come within this. */
#define FIRST_MESSAGE_NS (2 * NS_PER_S)

static void *await_first_message(void *arg)
{
	struct pending_session *p = arg;
	struct vmferry_session *session = p->session;
	struct vmferry_message m;
	int r = vmferry_recv(session, &m, vmferry_now() + FIRST_MESSAGE_NS);

	/* From here on nobody else knows of it. */
	pthread_mutex_lock(&p->all->lock);
	p->session = NULL;
	pthread_mutex_unlock(&p->all->lock);
	if (r == 0) {
		p->all->fn(p->all->ctx, session, &m);
	} else {
		log_warn("destination: %s said nothing after the handshake: %s: closed",
			 vmferry_session_peer(session), strerror(-r));
		vmferry_session_close(&session);
	}
	atomic_store(&p->done, true);
	return NULL;
}

static void join(struct pending_session *p)
{
	pthread_join(p->thread, NULL);
	p->started = false;
}

static void shut_down(struct pending_session *p)
{
	pthread_mutex_lock(&p->all->lock);
	if (p->session != NULL)
		vmferry_session_shutdown(p->session);
	pthread_mutex_unlock(&p->all->lock);
}

/* A free place. Waits for a session whose message is being served, for a second at most. */
static struct pending_session *take_place(struct pending *pending)
{
	struct pending_session *oldest = &pending->sessions[0];

	for (unsigned int i = 0; i < PENDING_MAX; i++) {
		struct pending_session *p = &pending->sessions[i];

		if (p->started && atomic_load(&p->done))
			join(p);
		if (!p->started)
			return p;
		if (p->since < oldest->since)
			oldest = p;
	}
	shut_down(oldest);
	join(oldest);
	return oldest;
}

void pending_add(struct pending *pending, struct vmferry_session *session)
{
	struct pending_session *p = take_place(pending);
	int r;

	p->all = pending;
	p->session = session;
	p->since = vmferry_now();
	atomic_store(&p->done, false);
	r = thread_start(&p->thread, "vmf-pending", await_first_message, p);
	p->started = r == 0;
	if (r == 0)
		return;
	log_error("destination: no thread to hear %s: %s: raise the limit of processes",
		  vmferry_session_peer(session), strerror(-r));
	p->session = NULL;
	vmferry_session_close(&session);
}

void pending_init(struct pending *pending, pending_fn fn, void *ctx)
{
	memset(pending, 0, sizeof(*pending));
	pending->fn = fn;
	pending->ctx = ctx;
	pthread_mutex_init(&pending->lock, NULL);
}

void pending_close(struct pending *pending)
{
	for (unsigned int i = 0; i < PENDING_MAX; i++)
		if (pending->sessions[i].started)
			shut_down(&pending->sessions[i]);
	for (unsigned int i = 0; i < PENDING_MAX; i++)
		if (pending->sessions[i].started)
			join(&pending->sessions[i]);
}

void pending_destroy(struct pending *pending)
{
	pthread_mutex_destroy(&pending->lock);
}
