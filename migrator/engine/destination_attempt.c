/* SPDX-License-Identifier: MIT */
/*
 * One source's try at the destination: CHECK, RECEIVE, LOAD, READY, RUNNING, and undoing it all
 * when it fails before.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/clock.h"
#include "common/log.h"
#include "destination.h"
#include "verify.h"
#include "vm.h"

/*
 * The source pings several times a second in pre-copy, but write-protecting a very large guest to
 * begin with may take long. There is no hurry: the guest runs at the source.
 */
#define SILENCE_NS	  (60 * NS_PER_S)
#define REPLY_NS	  (5 * NS_PER_S)
#define LAST_FENCE_NS	  (10 * NS_PER_S)
#define GO_NS		  (10 * NS_PER_S)
#define CLOSING_NS	  (10 * NS_PER_S)
#define LINGER_NS	  (300 * NS_PER_MS)
#define POPULATE_AHEAD_NS NS_PER_S

__attribute__((format(printf, 2, 3))) static void because(struct attempt *a, const char *fmt, ...)
{
	va_list args;

	if (a->reason[0] != 0)
		return;
	va_start(args, fmt);
	vsnprintf(a->reason, sizeof(a->reason), fmt, args);
	va_end(args);
}

static int reply(struct attempt *a, enum vmferry_channel channel, uint32_t type)
{
	return vmferry_send(a->session, channel, type, NULL, 0, vmferry_now() + REPLY_NS);
}

static int refuse(struct attempt *a, struct vmferry_message *m, const char *expected)
{
	char text[256];
	int r = message_unexpected("destination", m, expected);

	message_text(m, text, sizeof(text));
	if (m->type == MESSAGE_ABORT)
		because(a, "the source gave up: %s", text);
	else
		because(a, "%s came where %s was expected", message_name(m->type), expected);
	return r;
}

static void say_abort(struct attempt *a)
{
	vmferry_send(a->session, VMFERRY_CONTROL, MESSAGE_ABORT, a->reason, strlen(a->reason),
		     vmferry_now() + NS_PER_S / 10);
}

/* ---- CHECK ----------------------------------------------------------------------------------- */

static void check_engine(const struct offer *o, struct vmferry_problems *problems)
{
	char what[160];

	if (o->version != ENGINE_VERSION) {
		snprintf(what, sizeof(what), "the source speaks engine version %u, this is %u",
			 o->version, ENGINE_VERSION);
		vmferry_problems_add(problems, what, "install the same version on both hosts");
	} else if (o->page_size != VMFERRY_PAGE_SIZE) {
		snprintf(what, sizeof(what), "the source counts pages of %u bytes, this is %u",
			 o->page_size, VMFERRY_PAGE_SIZE);
		vmferry_problems_add(problems, what, "migrate between hosts of one page size");
	}
}

/* The source's regions must be ours, one by one: both sides speak guest physical addresses. */
static void compare_regions(const struct offer *o, const struct vmferry_vm *vm,
			    struct vmferry_problems *problems)
{
	char what[200];

	if (o->region_count != vm->region_count) {
		snprintf(what, sizeof(what), "the source has %u memory regions, this VM has %u",
			 o->region_count, vm->region_count);
		vmferry_problems_add(problems, what, "use the same VMM version and memory size");
		return;
	}
	for (uint32_t i = 0; i < o->region_count; i++) {
		const struct vmferry_region *r = &vm->regions[i];

		if (o->regions[i].address == r->address && o->regions[i].size == r->size)
			continue;
		snprintf(what, sizeof(what),
			 "memory region %u is at 0x%llx with %llu bytes at the source, at 0x%llx "
			 "with %llu here",
			 i, (unsigned long long)o->regions[i].address,
			 (unsigned long long)o->regions[i].size, (unsigned long long)r->address,
			 (unsigned long long)r->size);
		vmferry_problems_add(problems, what, "use the same VMM version and memory size");
	}
}

static int prepare(struct vmferry_destination *d, struct vmferry_problems *problems)
{
	struct attempt *a = &d->attempt;
	struct vmferry_vm vm = {.size = sizeof(vm), .vm_fd = -1};
	char what[160];
	int r;

	/* Set first: one that failed half way is abandoned, too. */
	a->prepared = true;
	r = d->ops.prepare(d->ctx, a->offer.spec, a->offer.spec_length, &vm);
	if (r < 0) {
		snprintf(what, sizeof(what), "the VM could not be built: %s", strerror(-r));
		vmferry_problems_add(problems, what, "see the log of the destination");
		return 0;
	}
	r = vm_copy(&vm, &a->vm);
	if (r == 0)
		compare_regions(&a->offer, &a->vm, problems);
	return r;
}

static int register_memory(struct vmferry_destination *d)
{
	int r;

	r = guest_memory_register(&d->memory, d->attempt.session, VMFERRY_ACCESS_REMOTE_WRITE);
	if (r < 0)
		because(&d->attempt, "guest memory could not be registered: %s", strerror(-r));
	return r;
}

/* What is written to soon is pinned ahead, where that is needed. */
static int prepare_memory(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < a->offer.extent_count; i++) {
		const struct offer_extent *e = &a->offer.extents[i];

		r = vmferry_prepare(d->memory.handles[e->region], e->extent.offset,
				    e->extent.length);
	}
	if (r < 0)
		because(a, "guest memory cannot be prepared for the lanes: %s: see the log",
			strerror(-r));
	return r;
}

static int start_populate(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	const struct offer *o = &a->offer;
	struct populate_range *ranges = calloc(o->extent_count + 1, sizeof(*ranges));
	int r;

	if (ranges == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < o->extent_count; i++) {
		const struct offer_extent *e = &o->extents[i];

		ranges[i].base = (char *)a->vm.regions[e->region].base + e->extent.offset;
		ranges[i].length = e->extent.length;
	}
	r = populate_start(ranges, o->extent_count, &a->populate);
	free(ranges);
	r = r < 0 ? r : prepare_memory(d);
	/*
	 * A guest of moderate size is populated before its pages come, which then arrive at the
	 * link's speed. A large one must not wait for all of its memory: there the rest goes on
	 * beside the first pass.
	 */
	if (r == 0)
		populate_wait(a->populate, vmferry_now() + POPULATE_AHEAD_NS);
	return r;
}

static int prepare_verify(struct attempt *a)
{
	return a->offer.verify ? hasher_new(a->session, &a->vm, &a->hasher) : 0;
}

static int send_verdict(struct attempt *a, const struct vmferry_problems *problems)
{
	struct vmferry_blob *blob = NULL;
	int r = vmferry_blob_new(&blob);

	r = r < 0 ? r : verdict_pack(problems, blob);
	if (r < 0) {
		vmferry_blob_free(&blob);
		return r;
	}
	return message_send(a->session, VMFERRY_CONTROL, MESSAGE_VERDICT, &blob,
			    vmferry_now() + REPLY_NS);
}

/* Everything that can be wrong is found before anything is built; what building finds is added. */
static int examine(struct vmferry_destination *d, struct vmferry_problems *problems)
{
	struct attempt *a = &d->attempt;
	int r = 0;

	check_engine(&a->offer, problems);
	if (vmferry_problems_count(problems) == 0)
		r = d->ops.check(d->ctx, a->offer.spec, a->offer.spec_length, problems);
	if (r == 0 && vmferry_problems_count(problems) == 0)
		r = ledger_begin(&d->ledger, a->offer.id);
	if (r == 0 && vmferry_problems_count(problems) == 0)
		r = prepare(d, problems);
	return r;
}

static int take_session(struct attempt *a)
{
	a->lanes = vmferry_session_lanes(a->session);
	a->transport = vmferry_session_transport(a->session);
	snprintf(a->transport_reason, sizeof(a->transport_reason), "%s",
		 vmferry_session_transport_reason(a->session));
	snprintf(a->peer, sizeof(a->peer), "%s", vmferry_session_peer(a->session));
	if (a->lanes > 0)
		return 0;
	because(a, "the source opened no lanes: nothing could carry memory");
	return -EPROTO;
}

static int check(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	struct vmferry_problems *problems = NULL;
	int r = phase_enter(&d->phase, VMFERRY_CHECK);

	a->offer_ns = vmferry_now();
	r = r < 0 ? r : take_session(a);
	r = r < 0 ? r : offer_unpack(&a->first, &a->offer);
	r = r < 0 ? r : vmferry_problems_new(&problems);
	r = r < 0 ? r : examine(d, problems);
	if (r == 0 && vmferry_problems_count(problems) > 0) {
		because(a, "%s", vmferry_problems_get(problems, 0));
		log_warn("destination: guest of %s refused: %zu problems, the first: %s",
			 vmferry_session_peer(a->session), vmferry_problems_count(problems),
			 a->reason);
		send_verdict(a, problems);
		r = -EXDEV;
	}
	r = r < 0 ? r : prepare_verify(a);
	if (r == 0)
		guest_memory_set(&d->memory, &a->vm);
	r = r < 0 ? r : register_memory(d);
	r = r < 0 ? r : start_populate(d);
	r = r < 0 ? r : send_verdict(a, problems);
	a->prepare_ns = vmferry_now() - a->offer_ns;
	vmferry_problems_free(&problems);
	if (r == 0 && a->offer.reconnect_ns > 0)
		destination_allow_rejoin(d);
	return r < 0 ? r : phase_enter(&d->phase, VMFERRY_RECEIVE);
}

/* ---- RECEIVE --------------------------------------------------------------------------------- */

static int rehearse(struct vmferry_destination *d, const struct vmferry_message *m)
{
	struct attempt *a = &d->attempt;
	uint64_t began = vmferry_now();
	int r = d->ops.load(d->ctx, m->data, m->length);

	a->rehearse_ns = vmferry_now() - began;
	if (r < 0) {
		because(a, "the state could not be loaded for trial: %s", strerror(-r));
		return r;
	}
	return message_send_number(a->session, VMFERRY_CONTROL, MESSAGE_REHEARSED, a->rehearse_ns,
				   vmferry_now() + REPLY_NS);
}

static int hash(struct attempt *a, const struct vmferry_message *m)
{
	uint64_t fence;
	int r = number_unpack(m, &fence);

	if (r == 0 && a->hasher == NULL)
		r = -EPROTO;
	return r < 0 ? r : hasher_start(a->hasher, fence);
}

/* The last moment before the blackout; what may take time is done here. */
static int arm(struct attempt *a, const struct vmferry_message *m)
{
	uint64_t fence;
	int r = number_unpack(m, &fence);

	if (r < 0)
		return r;
	if (fence <= FENCE_FIRST_PASS || fence > UINT32_MAX)
		return -EPROTO;
	a->last_fence = (uint32_t)fence;
	/*
	 * Every page that holds anything has come: populating on would only take the blackout's
	 * CPUs.
	 */
	populate_stop(a->populate);
	vmferry_session_busy_poll(a->session, vmferry_now() + BUSY_POLL_NS);
	return reply(a, VMFERRY_MAILBOX, MESSAGE_ARMED);
}

static int take_message(struct vmferry_destination *d, struct vmferry_message *m)
{
	struct attempt *a = &d->attempt;

	switch (m->type) {
	case MESSAGE_PING:
		return message_send_number(a->session, VMFERRY_CONTROL, MESSAGE_PONG, 0,
					   vmferry_now() + REPLY_NS);
	case MESSAGE_REHEARSE:
		return rehearse(d, m);
	case MESSAGE_HASH:
		return hash(a, m);
	case MESSAGE_ARM:
		return arm(a, m);
	case MESSAGE_RESENT:
		return a->hasher != NULL ? hasher_resent(a->hasher, m) : -EPROTO;
	default:
		return refuse(a, m, "a message of pre-copy");
	}
}

/* Until the state comes: 0 and @state, the caller's. */
static int receive(struct vmferry_destination *d, struct vmferry_message *state)
{
	struct attempt *a = &d->attempt;
	int r;

	for (;;) {
		r = vmferry_recv(a->session, state, vmferry_now() + SILENCE_NS);
		if (r < 0) {
			because(a, "the source was lost in pre-copy: %s",
				failure_text(a->session, r));
			return r;
		}
		if (state->type == MESSAGE_STATE)
			return 0;
		r = take_message(d, state);
		vmferry_message_free(state);
		if (r < 0) {
			because(a, "pre-copy failed: %s", strerror(-r));
			return r;
		}
	}
}

/* ---- LOAD, READY, RUNNING -------------------------------------------------------------------- */

/*
 * The source sends the state while its last pages are still on the lanes: nothing may be read
 * before the fence.
 */
static int load(struct vmferry_destination *d, const struct vmferry_message *state)
{
	struct attempt *a = &d->attempt;
	uint64_t received = vmferry_now(), fenced, hashed;
	int r = phase_enter(&d->phase, VMFERRY_LOAD);

	if (r == 0 && a->last_fence == 0)
		r = -EPROTO;
	r = r < 0 ? r : vmferry_fence_wait(a->session, a->last_fence, received + LAST_FENCE_NS);
	fenced = vmferry_now();
	if (r < 0)
		because(a, "the last pages did not come: %s", failure_text(a->session, r));
	if (r == 0 && a->hasher != NULL)
		r = hasher_finish(a->hasher);
	/* A lane alone may have ended; without its pages the session is of no use. */
	if (error_is_of_connection(r))
		vmferry_session_shutdown(a->session);
	hashed = vmferry_now();
	r = r < 0 ? r : d->ops.load(d->ctx, state->data, state->length);
	if (r < 0)
		because(a, "the state could not be loaded: %s", strerror(-r));
	a->times.fence_ns = fenced - received;
	a->times.hash_ns = hashed - fenced;
	a->times.load_ns = vmferry_now() - hashed;
	return r < 0 ? r : phase_enter(&d->phase, VMFERRY_READY);
}

/* GO is a message of its own that names the migration: nothing else lets the guest run here. */
static int wait_for_go(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	uint64_t deadline = vmferry_now() + GO_NS;
	struct vmferry_message m;
	int r;

	for (;;) {
		r = vmferry_recv(a->session, &m, deadline);
		if (r < 0) {
			because(a, "GO did not come: %s", failure_text(a->session, r));
			return r;
		}
		if (m.type != MESSAGE_PING)
			break;
		vmferry_message_free(&m);
	}
	if (m.type != MESSAGE_GO)
		r = refuse(a, &m, "go");
	else if (m.length != MIGRATION_ID_BYTES ||
		 memcmp(m.data, a->offer.id, MIGRATION_ID_BYTES) != 0)
		r = -EPROTO;
	vmferry_message_free(&m);
	return r < 0 ? r : ledger_take(&d->ledger, a->offer.id);
}

static int run(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	uint64_t ready, go;
	int r = reply(a, VMFERRY_MAILBOX, MESSAGE_READY);

	ready = vmferry_now();
	/*
	 * All that the source has to write is placed: from here on nobody but the guest writes its
	 * memory. While READY and GO are under way this takes nothing from the blackout.
	 * Deregistering takes longer and follows when the guest runs.
	 */
	if (r == 0) {
		r = vmferry_session_revoke(a->session);
		if (r < 0)
			because(a, "the lanes cannot be revoked: %s", strerror(-r));
	}
	r = r < 0 ? r : wait_for_go(d);
	if (r < 0)
		return r;
	go = vmferry_now();
	r = d->ops.run(d->ctx);
	a->times.go_ns = go - ready;
	a->times.run_ns = vmferry_now() - go;
	phase_enter(&d->phase, VMFERRY_RUNNING);
	if (r < 0) {
		log_error("destination: the guest is owned here but could not be run: %s: nobody "
			  "else may run it",
			  strerror(-r));
		because(a, "run failed: %s", strerror(-r));
		say_abort(a);
		return -EIO;
	}
	return 0;
}

static void keep_counts(struct attempt *a)
{
	struct vmferry_lane_stats stats;

	if (a->populate != NULL)
		a->populate_ns = populate_ns(a->populate);
	for (unsigned int i = 0; i < a->lanes; i++) {
		if (vmferry_lane_stats(a->session, i, &stats) < 0)
			continue;
		a->placed_bytes += stats.bytes;
		a->lanes_cpu_ns += stats.cpu_ns;
	}
}

static void keep_registration(struct attempt *a)
{
	struct vmferry_registration_stats r;

	vmferry_registration_stats(a->session, &r);
	a->registration.bytes += r.bytes;
	a->registration.regions += r.regions;
	a->registration.ns += r.ns;
}

static int send_closing(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	struct vmferry_blob *words = NULL, *blob = NULL;
	struct closing c;
	int r = vmferry_blob_new(&words);

	r = r < 0 ? r : vmferry_blob_new(&blob);
	if (r == 0 && d->ops.closing != NULL)
		r = d->ops.closing(d->ctx, words);
	c = (struct closing){
		.populate_ns = a->populate_ns,
		.lanes_cpu_ns = a->lanes_cpu_ns,
		.control_cpu_ns = thread_cpu_ns(),
		.placed_bytes = a->placed_bytes,
		.words = r == 0 ? vmferry_blob_data(words) : NULL,
		.words_length = r == 0 ? vmferry_blob_size(words) : 0,
	};
	if (blob != NULL && closing_pack(&c, blob) == 0)
		r = message_send(a->session, VMFERRY_MAILBOX, MESSAGE_CLOSING, &blob,
				 vmferry_now() + CLOSING_NS);
	vmferry_blob_free(&blob);
	vmferry_blob_free(&words);
	return r;
}

/*
 * The guest runs here. What the source still wants to know is told, and a failure to tell changes
 * nothing.
 */
static void tell_source(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	struct vmferry_blob *blob = NULL;
	int r = vmferry_blob_new(&blob);

	r = r < 0 ? r : times_pack(&a->times, blob);
	r = r < 0 ? r
		  : message_send(a->session, VMFERRY_MAILBOX, MESSAGE_RUNNING, &blob,
				 vmferry_now() + REPLY_NS);
	vmferry_blob_free(&blob);
	/*
	 * What is still to be said can wait; the processor is the guest's. Not sooner: this wakes a
	 * thread.
	 */
	vmferry_session_busy_poll(a->session, 0);
	keep_counts(a);
	if (r == 0 && a->hasher != NULL)
		r = verify_send_hashes(a->session, hasher_table(a->hasher),
				       vmferry_now() + CLOSING_NS);
	r = r < 0 ? r : send_closing(d);
	if (r < 0)
		log_warn(
			"destination: the guest runs here but the source could not be told all: %s",
			strerror(-r));
}

static void release(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;

	populate_finish(&a->populate);
	guest_memory_deregister(&d->memory);
	hasher_free(&a->hasher);
	vm_release(&a->vm);
	offer_free(&a->offer);
	vmferry_message_free(&a->first);
}

/*
 * Closing with unread data makes TCP send a reset, which may overtake and destroy the ABORT: read
 * on until the source, which has understood, closes.
 */
static void linger(struct attempt *a)
{
	uint64_t deadline = vmferry_now() + LINGER_NS;
	struct vmferry_message m;

	while (vmferry_recv(a->session, &m, deadline) == 0)
		vmferry_message_free(&m);
}

/* ---- the connection is lost before GO -------------------------------------------------------- */

static bool is_lost(struct vmferry_destination *d, int r)
{
	const struct attempt *a = &d->attempt;
	enum vmferry_phase phase = phase_now(&d->phase);

	/* It is shut down here when the source comes with another one. */
	return (error_is_of_connection(r) || r == -ECANCELED) && a->offer.reconnect_ns > 0 &&
	       (phase == VMFERRY_RECEIVE || phase == VMFERRY_LOAD || phase == VMFERRY_READY) &&
	       a->session != NULL && *vmferry_session_failure(a->session) != '\0' &&
	       !atomic_load(&d->cancelled);
}

/* Nothing of the old session's is left when this returns but what is closed with it. */
static void disconnect(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;

	vmferry_session_shutdown(a->session);
	/*
	 * Before memory is deregistered: the source would take it for a refusal, over RDMA, and not
	 * for a loss. Should it fail, deregistering follows.
	 */
	vmferry_session_revoke(a->session);
	hasher_free(&a->hasher);
	keep_counts(a);
	guest_memory_deregister(&d->memory);
	keep_registration(a);
}

static int go_on(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	int r = take_session(a);

	r = r < 0 ? r : prepare_verify(a);
	r = r < 0 ? r : register_memory(d);
	r = r < 0 ? r : prepare_memory(d);
	return r < 0 ? r : reply(a, VMFERRY_CONTROL, MESSAGE_REJOINED);
}

/* 0: connected again, and back in RECEIVE. */
static int reconnect(struct vmferry_destination *d)
{
	struct attempt *a = &d->attempt;
	uint64_t began = vmferry_now();
	int r = phase_now(&d->phase) == VMFERRY_RECEIVE ? 0
							: phase_enter(&d->phase, VMFERRY_RECEIVE);

	a->losses++;
	log_warn("destination: connection to %s lost: %s: waiting for it to come back", a->peer,
		 a->reason[0] != '\0' ? a->reason : vmferry_session_failure(a->session));
	disconnect(d);
	a->last_fence = 0;
	r = r < 0 ? r : destination_await_rejoin(d);
	if (r < 0)
		return r;
	a->reason[0] = '\0';
	r = go_on(d);
	if (r == 0)
		log_warn("destination: connected to %s again after %llu ms", a->peer,
			 (unsigned long long)((vmferry_now() - began) / NS_PER_MS));
	return r;
}

static void give_up(struct vmferry_destination *d, int r)
{
	struct attempt *a = &d->attempt;

	because(a, "%s", strerror(-r));
	ledger_abort(&d->ledger, a->offer.id);
	destination_forbid_rejoin(d);
	/*
	 * GO may be on its way: behind it ABORT would say that the guest is owned here. A source
	 * that loses the connection asks.
	 */
	if (a->session != NULL && phase_now(&d->phase) != VMFERRY_READY) {
		say_abort(a);
		linger(a);
	}
	if (a->session != NULL)
		vmferry_session_shutdown(a->session);
	log_warn("destination: attempt of %s ended, the guest never ran here: %s", a->peer,
		 a->reason);
	release(d);
	/* What is abandoned is the VMM's to unmap. */
	guest_memory_forget(&d->memory);
	if (a->prepared)
		d->ops.abandon(d->ctx);
	phase_enter(&d->phase, VMFERRY_FAILED);
}

/* From RECEIVE to RUNNING. */
static int take_guest(struct vmferry_destination *d)
{
	struct vmferry_message state = {0};
	int r = receive(d, &state);

	r = r < 0 ? r : load(d, &state);
	r = r < 0 ? r : run(d);
	vmferry_message_free(&state);
	return r;
}

int attempt_run(struct vmferry_destination *d)
{
	int r = check(d);

	r = r < 0 ? r : take_guest(d);
	while (is_lost(d, r)) {
		r = reconnect(d);
		r = r < 0 ? r : take_guest(d);
	}
	if (r == 0)
		tell_source(d);
	if (phase_now(&d->phase) == VMFERRY_RUNNING) {
		destination_forbid_rejoin(d);
		release(d);
	} else {
		give_up(d, r);
	}
	if (d->attempt.session != NULL)
		keep_registration(&d->attempt);
	return r;
}
