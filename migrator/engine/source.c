/* SPDX-License-Identifier: MIT */
/*
 * The source as an object: made, started, watched, cancelled, freed. What it does in between is in
 * source_run.c.
 */
#include "source.h"

#include <errno.h>
#include <gnutls/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"
#include "vm.h"

static int check_options(const struct vmferry_vm *vm, const struct vmferry_source_ops *ops,
			 const struct vmferry_source_options *options)
{
	if (vm->size != sizeof(*vm) || ops->size != sizeof(*ops) ||
	    options->size != sizeof(*options) || ops->describe == NULL || ops->pause == NULL ||
	    ops->resume == NULL || ops->save == NULL) {
		log_error("source: a structure of another size or a callback missing: set size to "
			  "sizeof and build against this version's headers");
		return -EINVAL;
	}
	if ((unsigned int)options->tracker > VMFERRY_TRACKER_CALLER) {
		log_error("source: tracker %d: unknown: use one of enum vmferry_tracker",
			  (int)options->tracker);
		return -EINVAL;
	}
	return 0;
}

static void set_defaults(struct vmferry_source_options *o)
{
	if (o->downtime_ns == 0)
		o->downtime_ns = VMFERRY_DOWNTIME_DEFAULT_NS;
	if (o->timeout_ns == 0)
		o->timeout_ns = VMFERRY_TIMEOUT_DEFAULT_NS;
	if (o->reconnect_ns == 0)
		o->reconnect_ns = VMFERRY_RECONNECT_DEFAULT_NS;
	if (o->reconnect_ns != VMFERRY_RECONNECT_NEVER && o->reconnect_ns > RECONNECT_MAX_NS)
		o->reconnect_ns = RECONNECT_MAX_NS;
	o->transport.size = sizeof(o->transport);
}

/* The caller's strings may be gone when the source connects. */
static int copy_rails(struct vmferry_source *s, const struct vmferry_transport_options *from)
{
	struct vmferry_transport_options *to = &s->options.transport;

	memset(to->rails, 0, sizeof(to->rails));
	/* More than there can be are refused where all options are checked. */
	for (unsigned int i = 0; i < from->rail_count && i < VMFERRY_RAILS_MAX; i++) {
		if (from->rails[i] == NULL)
			continue;
		to->rails[i] = strdup(from->rails[i]);
		if (to->rails[i] == NULL)
			return -ENOMEM;
	}
	return 0;
}

int source_new_identity(struct vmferry_source *s)
{
	if (gnutls_rnd(GNUTLS_RND_NONCE, s->identity.id, sizeof(s->identity.id)) < 0 ||
	    gnutls_rnd(GNUTLS_RND_KEY, s->identity.secret, sizeof(s->identity.secret)) < 0)
		return -EIO;
	return 0;
}

static int make_parts(struct vmferry_source *s, const struct vmferry_vm *vm, const char *uri,
		      const struct vmferry_transport_options *transport)
{
	int r = copy_rails(s, transport);

	r = r < 0 ? r : vm_copy(vm, &s->vm);
	if (r < 0)
		return r;
	guest_memory_set(&s->memory, &s->vm);
	s->uri = strdup(uri);
	if (s->uri == NULL)
		return -ENOMEM;
	r = dirty_map_new(&s->vm, &s->map);
	if (r < 0)
		return r;
	r = vmferry_problems_new(&s->problems);
	if (r < 0)
		return r;
	s->done_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->done_fd < 0)
		return -errno;
	r = source_new_identity(s);
	return r < 0 ? r : page_sets_new(s->map, s->options.verify, &s->sets);
}

int vmferry_source_new(const struct vmferry_vm *vm, const struct vmferry_source_ops *ops, void *ctx,
		       const char *uri, const struct vmferry_source_options *options,
		       struct vmferry_source **source)
{
	static const struct vmferry_source_options defaults = {.size = sizeof(defaults)};
	struct vmferry_source *s;
	int r;

	if (options == NULL)
		options = &defaults;
	r = check_options(vm, ops, options);
	r = r < 0 ? r : vmferry_uri_check(uri);
	if (r < 0)
		return r;
	s = calloc(1, sizeof(*s));
	if (s == NULL)
		return -ENOMEM;
	s->done_fd = -1;
	s->verified = -1;
	s->ops = *ops;
	s->ctx = ctx;
	s->options = *options;
	set_defaults(&s->options);
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->over, NULL);
	harvester_init(&s->harvester);
	guest_memory_init(&s->memory);
	phase_init(&s->phase, PHASE_SOURCE, options->on_phase, ctx);
	r = make_parts(s, vm, uri, &options->transport);
	if (r < 0)
		vmferry_source_free(&s);
	else
		*source = s;
	return r;
}

int vmferry_source_start(struct vmferry_source *s)
{
	int r;

	if (s->started)
		return -EALREADY;
	s->began_ns = vmferry_now();
	r = thread_start(&s->thread, "vmf-source", source_main, s);
	if (r < 0) {
		log_error("source: no thread for it: %s: raise the limit of processes",
			  strerror(-r));
		return r;
	}
	s->started = true;
	return 0;
}

int vmferry_source_fd(const struct vmferry_source *s)
{
	return s->done_fd;
}

int vmferry_source_wait(struct vmferry_source *s, uint64_t deadline)
{
	struct timespec ts = deadline_timespec(deadline);
	int r = 0;

	pthread_mutex_lock(&s->lock);
	while (!s->ended && r == 0)
		r = pthread_cond_clockwait(&s->over, &s->lock, CLOCK_MONOTONIC, &ts);
	r = s->ended ? s->result : -ETIMEDOUT;
	pthread_mutex_unlock(&s->lock);
	return r;
}

int vmferry_source_cancel(struct vmferry_source *s)
{
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (s->committed || s->ended)
		r = -EALREADY;
	else
		s->cancelled = true;
	pthread_mutex_unlock(&s->lock);
	return r;
}

enum vmferry_phase vmferry_source_phase(const struct vmferry_source *s)
{
	return phase_now(&s->phase);
}

int vmferry_source_mark_dirty(struct vmferry_source *s, uint64_t address, uint64_t length)
{
	return dirty_map_mark(s->map, address, length);
}

int vmferry_source_discard(struct vmferry_source *s, uint64_t address, uint64_t length)
{
	int r = guest_memory_discard(&s->memory, address, length);

	/*
	 * Behind it, as with every write: a lane that has read the page meanwhile sends it again.
	 */
	return r < 0 ? r : dirty_map_mark(s->map, address, length);
}

void vmferry_source_ring_full(struct vmferry_source *s)
{
	/*
	 * The vCPU cannot go on anyway: it harvests itself instead of waiting for another thread to
	 * be scheduled.
	 */
	harvester_now(&s->harvester);
}

void vmferry_source_progress(const struct vmferry_source *s, struct vmferry_progress *p)
{
	uint64_t end = atomic_load(&s->ended_ns);

	*p = (struct vmferry_progress){
		.phase = phase_now(&s->phase),
		.elapsed_ns = (end > 0 ? end : vmferry_now()) - s->began_ns,
		.bytes_total = atomic_load(&s->content_bytes),
		.bytes_sent = atomic_load_explicit(&s->sent_bytes, memory_order_relaxed),
		.bytes_remaining = atomic_load_explicit(&s->remaining, memory_order_relaxed),
		.rate = atomic_load_explicit(&s->bandwidth, memory_order_relaxed),
		.dirty_rate = atomic_load_explicit(&s->harvester.dirty_rate, memory_order_relaxed),
		.predicted_ns = atomic_load_explicit(&s->predicted_ns, memory_order_relaxed),
		.round = atomic_load_explicit(&s->round, memory_order_relaxed),
		.losses = atomic_load_explicit(&s->loss_count, memory_order_relaxed),
		.reconnecting = atomic_load_explicit(&s->reconnecting, memory_order_relaxed),
	};
}

void vmferry_source_free(struct vmferry_source **source)
{
	struct vmferry_source *s = *source;

	if (s == NULL)
		return;
	if (s->started) {
		vmferry_source_cancel(s);
		pthread_join(s->thread, NULL);
	}
	harvester_destroy(&s->harvester);
	guest_memory_destroy(&s->memory);
	pthread_cond_destroy(&s->over);
	pthread_mutex_destroy(&s->lock);
	if (s->done_fd >= 0)
		close(s->done_fd);
	vmferry_problems_free(&s->problems);
	page_sets_free(&s->sets);
	if (s->map != NULL)
		dirty_map_free(&s->map);
	for (unsigned int i = 0; i < VMFERRY_RAILS_MAX; i++)
		free((char *)s->options.transport.rails[i]);
	free(s->uri);
	vm_release(&s->vm);
	free(s);
	*source = NULL;
}
