/* SPDX-License-Identifier: MIT */
/* vmferry_accept(): one loop over the listening socket, the strangers and the request to stop. */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/listener.h"

#define OVERTIME_EVENTS 256

static int accept_stranger(struct vmferry_listener *listener)
{
	struct address peer = {.length = sizeof(peer.storage)};
	int fd = accept4(listener->fd, (struct sockaddr *)&peer.storage, &peer.length,
			 SOCK_NONBLOCK | SOCK_CLOEXEC);
	int ret;

	if (fd >= 0) {
		stranger_new(listener, fd, &peer);
		return 0;
	}
	/* Most errors are of the one connection, which is gone; these are ours and would come again at once. */
	if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
		return 0;
	ret = -errno;
	log_error("listener %s: cannot accept: %s: raise the limit of open files or of memory",
		  listener->uri, strerror(-ret));
	return ret;
}

/* Waits for one event: 0 with @what set, -ETIMEDOUT when none came until @deadline. */
static int wait_event(const struct vmferry_listener *listener, uint64_t deadline, void **what)
{
	struct epoll_event event;
	int n = epoll_wait(listener->epoll_fd, &event, 1, deadline_poll_ms(deadline));

	if (n < 0 && errno != EINTR)
		return -errno;
	if (n <= 0)
		return -ETIMEDOUT;
	*what = event.data.ptr;
	return 0;
}

/* 1 when a session is complete, 0 to go on. */
static int handle(struct vmferry_listener *listener, void *what, struct vmferry_session **session)
{
	if (what == &listener->stop_fd)
		return -ECANCELED;
	if (what == &listener->fd)
		return accept_stranger(listener);
	if (what == &listener->door)
		return strangers_door_event(listener, session);
	return stranger_event(listener, what, session);
}

static bool is_stopped(const struct vmferry_listener *listener)
{
	return socket_wait(listener->stop_fd, POLLIN, 0) == 0;
}

int vmferry_accept(struct vmferry_listener *listener, uint64_t deadline,
		   struct vmferry_session **session)
{
	int ret = is_stopped(listener) ? -ECANCELED : 0;
	unsigned int overtime =
		0; /* events handled after the deadline: what is there already, but not for ever */

	while (ret == 0) {
		uint64_t next = strangers_expire(listener);
		void *what = NULL;

		ret = wait_event(listener, next < deadline ? next : deadline, &what);
		if (ret == 0 && vmferry_now() >= deadline && overtime++ == OVERTIME_EVENTS)
			ret = -ETIMEDOUT;
		else if (ret == 0)
			ret = handle(listener, what, session);
		else if (ret == -ETIMEDOUT && vmferry_now() < deadline)
			ret = 0;
	}
	return ret > 0 ? 0 : ret;
}
