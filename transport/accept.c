/* SPDX-License-Identifier: MIT */
/*
 * vmferry_accept(): one loop over the listening socket, the pending connections and the request to
 * stop.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/listener.h"

#define OVERTIME_EVENTS 256
#define PAUSE_NS	(100 * (long)NS_PER_MS)

/*
 * The connection stays in the backlog and would be an event again at once. No event tells when
 * there are descriptors and memory again.
 */
static int pause_accepting(struct vmferry_listener *listener, int error)
{
	const struct itimerspec soon = {.it_value.tv_nsec = PAUSE_NS};

	if (!listener->starved)
		log_error("listener %s: cannot accept: %s: raise the limit of open files or of "
			  "memory; trying again until it works",
			  listener->uri, strerror(-error));
	listener->starved = true;
	if (timerfd_settime(listener->pause_fd, 0, &soon, NULL) < 0 ||
	    epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, listener->fd, NULL) < 0)
		return -errno;
	return 0;
}

static int resume_accepting(struct vmferry_listener *listener)
{
	uint64_t times;

	if (read(listener->pause_fd, &times, sizeof(times)) < 0)
		return 0;
	return listener_watch(listener, listener->fd, &listener->fd);
}

static int accept_pending(struct vmferry_listener *listener)
{
	struct address peer = {.length = sizeof(peer.storage)};
	int fd = accept4(listener->fd, (struct sockaddr *)&peer.storage, &peer.length,
			 SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd >= 0) {
		listener->starved = false;
		pending_new(listener, fd, &peer);
		return 0;
	}
	/*
	 * Most errors are of the one connection, which is gone; these are ours and would come again
	 * at once.
	 */
	if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM)
		return 0;
	return pause_accepting(listener, -errno);
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
		return accept_pending(listener);
	if (what == &listener->pause_fd)
		return resume_accepting(listener);
	if (what == &listener->lane_listener)
		return pending_lane_event(listener, session);
	return pending_event(listener, what, session);
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
		uint64_t next = pending_expire(listener);
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
