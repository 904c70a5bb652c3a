/* SPDX-License-Identifier: MIT */
#include "receiver.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "log.h"
#include "moment.h"

#define DESTINATIONS_MAX 64u
#define ACCEPT_NS	 (100 * NS_PER_MS)
#define IDLE_MS		 1000
#define ENDING_MS	 10

struct qemu_receiver {
	struct qemu_receiver_options options;
	struct vmferry_listener *listener;
	int ended_fd; /* eventfd: a destination has ended */

	pthread_mutex_t lock; /* of the fields below */
	struct qemu_destination *destinations[DESTINATIONS_MAX];
	unsigned int count;
	struct qemu_destination *ended[DESTINATIONS_MAX];
	unsigned int ended_count;
	unsigned int completed_count;
	unsigned int over_count;
};

static void destination_ended(void *ctx, struct qemu_destination *destination, bool completed,
			      struct json_object *report)
{
	struct qemu_receiver *r = ctx;
	const uint64_t one = 1;

	if (r->options.report != NULL)
		r->options.report(r->options.ctx, completed, report);
	json_object_put(report);
	pthread_mutex_lock(&r->lock);
	r->ended[r->ended_count++] = destination;
	r->completed_count += completed;
	r->over_count++;
	pthread_mutex_unlock(&r->lock);
	if (write(r->ended_fd, &one, sizeof(one)) < 0)
		qemu_debug("receiver: the eventfd is saturated");
}

/* Frees those that have ended. */
static void reap(struct qemu_receiver *r)
{
	for (;;) {
		struct qemu_destination *destination = NULL;

		pthread_mutex_lock(&r->lock);
		if (r->ended_count > 0)
			destination = r->ended[--r->ended_count];
		for (unsigned int i = 0; destination != NULL && i < r->count; i++)
			if (r->destinations[i] == destination)
				r->destinations[i--] = r->destinations[--r->count];
		pthread_mutex_unlock(&r->lock);
		if (destination == NULL)
			return;
		qemu_destination_free(&destination);
	}
}

int qemu_receiver_open(const struct qemu_receiver_options *options, struct qemu_receiver **receiver)
{
	struct qemu_receiver *r = calloc(1, sizeof(*r));
	int ret;

	if (r == NULL)
		return -ENOMEM;
	r->options = *options;
	r->options.destination.ended = destination_ended;
	r->options.destination.ctx = r;
	pthread_mutex_init(&r->lock, NULL);
	r->ended_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ret = r->ended_fd < 0 ? -errno
			      : vmferry_listen(options->uri, &options->transport, &r->listener);
	if (ret < 0) {
		qemu_receiver_close(&r);
		return ret;
	}
	*receiver = r;
	return 0;
}

const char *qemu_receiver_uri(const struct qemu_receiver *receiver)
{
	return vmferry_listener_uri(receiver->listener);
}

static void serve(struct qemu_receiver *r, struct vmferry_session *session)
{
	struct qemu_destination *destination;

	pthread_mutex_lock(&r->lock);
	if (r->count == DESTINATIONS_MAX) {
		qemu_error("receiver %s: refused %s: %u migrations are under way",
			   qemu_receiver_uri(r), vmferry_session_peer(session), DESTINATIONS_MAX);
		vmferry_session_close(&session);
	} else if (qemu_destination_start(&r->options.destination, session, &destination) == 0) {
		r->destinations[r->count++] = destination;
	}
	pthread_mutex_unlock(&r->lock);
}

static int accept_one(struct qemu_receiver *r)
{
	struct vmferry_session *session;
	int ret = vmferry_accept(r->listener, vmferry_now() + ACCEPT_NS, &session);

	if (ret == 0)
		serve(r, session);
	return ret == -ETIMEDOUT ? 0 : ret;
}

static void cancel_all(struct qemu_receiver *r)
{
	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < r->count; i++)
		qemu_destination_cancel(r->destinations[i]);
	pthread_mutex_unlock(&r->lock);
}

static bool is_done(struct qemu_receiver *r, int *ret)
{
	bool done;

	pthread_mutex_lock(&r->lock);
	done = r->options.once && r->over_count > 0;
	if (done)
		*ret = r->completed_count > 0 ? 0 : -EIO;
	pthread_mutex_unlock(&r->lock);
	return done;
}

int qemu_receiver_run(struct qemu_receiver *r, int stop_fd)
{
	struct pollfd fds[] = {{.fd = stop_fd, .events = POLLIN},
			       {.fd = r->ended_fd, .events = POLLIN},
			       {.fd = vmferry_listener_fd(r->listener), .events = POLLIN}};
	uint64_t counter;
	int ret = 0;

	while (ret == 0 && !is_done(r, &ret)) {
		if (r->options.alive != NULL)
			r->options.alive(r->options.alive_ctx);
		if (poll(fds, 3, IDLE_MS) < 0)
			continue;
		if ((fds[0].revents & POLLIN) != 0)
			ret = -ECANCELED;
		if ((fds[1].revents & POLLIN) != 0 &&
		    read(r->ended_fd, &counter, sizeof(counter)) < 0)
			qemu_debug("receiver: nobody has ended");
		if (ret == 0 && (fds[2].revents & POLLIN) != 0)
			ret = accept_one(r);
		reap(r);
	}
	cancel_all(r);
	return ret;
}

void qemu_receiver_close(struct qemu_receiver **receiver)
{
	struct qemu_receiver *r = *receiver;

	if (r == NULL)
		return;
	cancel_all(r);
	while (r->count > 0) {
		struct pollfd p = {.fd = r->ended_fd, .events = POLLIN};

		reap(r);
		if (r->count > 0)
			poll(&p, 1, ENDING_MS);
	}
	vmferry_listener_close(&r->listener);
	if (r->ended_fd >= 0)
		close(r->ended_fd);
	pthread_mutex_destroy(&r->lock);
	free(r);
	*receiver = NULL;
}
