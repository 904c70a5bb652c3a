/* SPDX-License-Identifier: MIT */
#include "destination.h"

#include <errno.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "destination_state.h"
#include "log.h"
#include "moment.h"

/* libvirt starts QEMU first, a user's script perhaps at the same time. */
#define OPEN_NS	    (2 * NS_PER_S)
#define OPEN_NAP_NS (20 * NS_PER_MS)
#define FENCE_NS    (10 * NS_PER_S)
#define GOODBYE_NS  (10 * NS_PER_S)

/* ---- connections to QEMU --------------------------------------------------------------------- */

static int connect_once(const char *path, int *fd)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	/* A listener whose queue is full says EAGAIN then, and would block for ever otherwise. */
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (s < 0)
		return -errno;
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	if (connect(s, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		int error = errno;

		close(s);
		return -error;
	}
	*fd = s;
	return 0;
}

static int connect_to_qemu(struct qemu_destination *d, int *fd)
{
	uint64_t deadline = vmferry_now() + OPEN_NS;
	const struct timespec nap = moment_timespec(OPEN_NAP_NS);
	int ret;

	for (;;) {
		ret = connect_once(d->path, fd);
		if ((ret != -ENOENT && ret != -ECONNREFUSED && ret != -EAGAIN) ||
		    vmferry_now() > deadline || relay_error(&d->relay) != 0)
			break;
		nanosleep(&nap, NULL);
	}
	return ret < 0 ? relay_fail(&d->relay, ret,
				    "cannot connect to QEMU at %s: %s; is it there, started with "
				    "-incoming?",
				    d->path, strerror(-ret))
		       : 0;
}

/*
 * The path may be the peer's word: before a byte is sent it has to be a QEMU that waits for a
 * migration, and not any other service that this process may talk to.
 */
static int identify(struct qemu_destination *d, int fd)
{
	int ret = qemu_process_of_socket(fd, &d->process);

	if (ret < 0)
		return relay_fail(
			&d->relay, ret,
			"the process behind %s cannot be found: %s; it has to be visible from here",
			d->path, strerror(-ret));
	if (!d->process.incoming)
		return relay_fail(&d->relay, -EPERM,
				  "the process behind %s, pid %d, is no QEMU with -incoming",
				  d->path, (int)d->process.pid);
	return 0;
}

/* Another QEMU may have come to listen at the path meanwhile. */
static int check_process(struct qemu_destination *d, int fd)
{
	struct ucred peer = {0};
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
	    peer.pid == d->process.pid)
		return 0;
	return relay_fail(&d->relay, -EPERM, "the process behind %s is pid %d now, and was %d",
			  d->path, (int)peer.pid, (int)d->process.pid);
}

static int open_connection(struct qemu_destination *d, unsigned int number)
{
	struct connection *c;
	int fd = -1;
	int ret = -EPROTO;

	if (!d->greeted || number != d->relay.connection_count)
		return relay_fail(&d->relay, ret, "the source opens connection %u out of order",
				  number);
	ret = connect_to_qemu(d, &fd);
	if (ret < 0)
		return ret;
	ret = number == 0 ? identify(d, fd) : check_process(d, fd);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return relay_add(&d->relay, fd, NULL, &c);
}

static int greet(struct qemu_destination *d, const struct vmferry_message *m)
{
	struct peer_hello hello;
	int ret = peer_hello_decode(m->data, m->length, &hello);

	if (ret < 0 || d->greeted)
		return relay_fail(&d->relay, -EPROTO, "the source's greeting makes no sense");
	if (hello.version != PEER_VERSION)
		return relay_fail(
			&d->relay, -EPROTO,
			"the source speaks version %u, this is %u; update the older vmferry",
			hello.version, PEER_VERSION);
	if (d->options.incoming == NULL && hello.path[0] != '/')
		return relay_fail(&d->relay, -EINVAL,
				  "the source's path '%s' is not absolute; give --incoming here",
				  hello.path);
	snprintf(d->path, sizeof(d->path), "%s",
		 d->options.incoming != NULL ? d->options.incoming : hello.path);
	d->greeted = true;
	return 0;
}

/* ---- the relay's calls ----------------------------------------------------------------------- */

static int take_message(void *ctx, const struct vmferry_message *m)
{
	struct qemu_destination *d = ctx;

	if ((m->type & PEER_MASK) == PEER_OPEN)
		return open_connection(d, m->type & ~(uint32_t)PEER_MASK);
	switch (m->type) {
	case PEER_HELLO:
		return greet(d, m);
	case PEER_BLOCKS:
		return destination_take_blocks(d, m);
	case PEER_STAGED:
		return destination_take_staged(d, m);
	case PEER_AHEAD:
		return destination_take_ahead(d, m);
	case PEER_DONE:
		d->done = true;
		return RELAY_LAST;
	default:
		return relay_fail(&d->relay, -EPROTO, "the source sends a message of type %u",
				  m->type);
	}
}

static bool is_fenced(struct qemu_destination *d)
{
	bool fenced;

	pthread_mutex_lock(&d->relay.lock);
	fenced = d->fenced_ns != 0;
	pthread_mutex_unlock(&d->relay.lock);
	return fenced;
}

/*
 * What was staged before was copied by the message thread before it put this fence into the
 * connection's queue, so that only the lanes' own writes are left to be waited for.
 */
static int pass_fence(void *ctx, uint32_t epoch, bool last)
{
	struct qemu_destination *d = ctx;
	uint64_t asked = vmferry_now();
	uint8_t number[4];
	int ret = vmferry_fence_wait(d->relay.session, epoch, asked + FENCE_NS);

	/* An earlier fence, of a connection that comes later, may find the lanes revoked. */
	if (ret < 0 && is_fenced(d))
		return 0;
	if (ret < 0)
		return destination_fail(d, ret, "the last pages have not come");
	if (!last)
		return 0;
	pthread_mutex_lock(&d->relay.lock);
	d->fence_ns = vmferry_now() - asked;
	d->fenced_ns = vmferry_now();
	pthread_cond_broadcast(&d->relay.changed);
	pthread_mutex_unlock(&d->relay.lock);
	peer_numbers_encode(&epoch, 1, number);
	return relay_send(&d->relay, PEER_FENCED, number, sizeof(number));
}

static const struct relay_ops ops = {
	.message = take_message,
	.fence = pass_fence,
};

/* ---- its thread ------------------------------------------------------------------------------ */

static void add_number(struct json_object *o, const char *name, uint64_t number)
{
	json_object_object_add(o, name, json_object_new_int64((int64_t)number));
}

static struct json_object *make_report(struct qemu_destination *d)
{
	struct json_object *report = json_object_new_object();
	uint64_t fenced = d->fenced_ns, now = vmferry_now(), populated = 0;

	json_object_object_add(report, "qemu", json_object_new_string(d->process.name));
	add_number(report, "pid", (uint64_t)d->process.pid);
	json_object_object_add(report, "autostart", json_object_new_boolean(d->process.autostart));
	json_object_object_add(report, "total_us",
			       json_object_new_double((double)(now - d->begun_ns) / NS_PER_US));
	json_object_object_add(
		report, "fence_us",
		fenced == 0 ? NULL : json_object_new_double((double)d->fence_ns / NS_PER_US));
	json_object_object_add(
		report, "fence_to_close_us",
		fenced == 0 ? NULL : json_object_new_double((double)(now - fenced) / NS_PER_US));
	if (d->populate != NULL)
		placement_populate_done(d->populate, &populated);
	add_number(report, "populated_bytes", populated);
	add_number(report, "copied_pages", d->copied_pages);
	add_number(report, "copied_zero_pages", d->copied_zero_pages);
	return report;
}

/* How it ended stands first, and is known last. Takes @report. */
static struct json_object *add_result(struct json_object *report, bool completed,
				      const char *reason)
{
	struct json_object *whole = json_object_new_object();

	json_object_object_add(whole, "result",
			       json_object_new_string(completed ? "completed" : "failed"));
	json_object_object_add(whole, "reason", json_object_new_string(reason));
	json_object_object_foreach(report, name, value)
		json_object_object_add(whole, name, json_object_get(value));
	json_object_put(report);
	return whole;
}

/* The source answers whether it was completed: 0, or an error. */
static int say_result(struct qemu_destination *d, struct json_object *report)
{
	const char *text = json_object_to_json_string_ext(report, JSON_C_TO_STRING_PLAIN);
	uint64_t deadline = vmferry_now() + GOODBYE_NS;
	int ret = relay_send(&d->relay, PEER_RESULT, text, strlen(text));

	pthread_mutex_lock(&d->relay.lock);
	while (ret == 0 && !d->relay.peer_gone)
		ret = relay_await(&d->relay, deadline);
	pthread_mutex_unlock(&d->relay.lock);
	if (ret == 0 && d->done)
		return 0;
	return relay_fail(&d->relay, -ECONNRESET, "the source does not say that it was completed");
}

static void close_destination(struct qemu_destination *d)
{
	pthread_mutex_lock(&d->cancel_lock);
	d->over = true;
	pthread_mutex_unlock(&d->cancel_lock);
	relay_join(&d->relay);
	destination_deregister(d);
	relay_close(&d->relay);
	destination_release(d);
	qemu_process_close(&d->process);
}

/*
 * All pages are placed: from here on nobody but QEMU writes to the guest's memory, whatever the
 * source does.
 */
static void revoke_when_fenced(struct qemu_destination *d)
{
	bool fenced;

	pthread_mutex_lock(&d->relay.lock);
	while (d->fenced_ns == 0 && relay_error(&d->relay) == 0 && !relay_ended(&d->relay))
		relay_await(&d->relay, vmferry_now() + NS_PER_S);
	fenced = d->fenced_ns != 0;
	pthread_mutex_unlock(&d->relay.lock);
	/* Should it fail, deregistering follows; QEMU may have read its stream's end already. */
	if (fenced)
		vmferry_session_revoke(d->relay.session);
}

/* A QEMU that closes the main connection earlier has failed, and has told its own log why. */
static int check_read_all(struct qemu_destination *d)
{
	if (!atomic_load(&d->relay.connections[0]->lost))
		return 0;
	return relay_fail(
		&d->relay, -EPIPE,
		"QEMU has closed its connection before it had read all of it; its log says why");
}

static void *destination_main(void *arg)
{
	struct qemu_destination *d = arg;
	struct json_object *report;
	int ret = relay_start(&d->relay);

	pthread_setname_np(pthread_self(), "qemu-destination");
	if (ret == 0) {
		revoke_when_fenced(d);
		ret = relay_wait(&d->relay);
	}
	if (ret == 0)
		ret = check_read_all(d);
	if (ret == 0) {
		report = make_report(d);
		ret = say_result(d, report);
		if (ret == 0)
			relay_rest();
	} else {
		relay_join(&d->relay);
		report = make_report(d);
	}
	relay_join(&d->relay);
	report = add_result(report, ret == 0, ret == 0 ? "" : d->relay.failure);
	close_destination(d);
	d->options.ended(d->options.ctx, d, ret == 0, report);
	return NULL;
}

int qemu_destination_start(const struct qemu_destination_options *options,
			   struct vmferry_session *session, struct qemu_destination **destination)
{
	struct qemu_destination *d = calloc(1, sizeof(*d));
	int ret;

	if (d == NULL) {
		vmferry_session_close(&session);
		return -ENOMEM;
	}
	d->options = *options;
	pthread_mutex_init(&d->cancel_lock, NULL);
	d->process.pidfd = -1;
	d->begun_ns = vmferry_now();
	snprintf(d->name, sizeof(d->name), "destination for %s", vmferry_session_peer(session));
	ret = relay_init(&d->relay, session, &ops, d, d->name);
	if (ret == 0) {
		ret = -pthread_create(&d->thread, NULL, destination_main, d);
		if (ret < 0)
			relay_fail(&d->relay, ret, "a thread cannot be started: %s",
				   strerror(-ret));
	}
	if (ret < 0) {
		relay_close(&d->relay);
		pthread_mutex_destroy(&d->cancel_lock);
		free(d);
		return ret;
	}
	*destination = d;
	return 0;
}

void qemu_destination_cancel(struct qemu_destination *d)
{
	pthread_mutex_lock(&d->cancel_lock);
	if (!d->over)
		relay_fail(&d->relay, -ECANCELED, "cancelled");
	pthread_mutex_unlock(&d->cancel_lock);
}

void qemu_destination_free(struct qemu_destination **destination)
{
	struct qemu_destination *d = *destination;

	if (d == NULL)
		return;
	pthread_join(d->thread, NULL);
	pthread_mutex_destroy(&d->cancel_lock);
	free(d);
	*destination = NULL;
}
