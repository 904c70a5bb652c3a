/* SPDX-License-Identifier: MIT */
#include "transport/listener.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "common/log.h"
#include "transport/options.h"

#define BACKLOG 128

static int listen_error(const char *uri, const char *what, int error)
{
	const char *remedy = "check address and permissions";

	if (error == -EADDRINUSE)
		remedy =
			"the port is taken: stop who has it, choose another, or 0 for any free one";
	else if (error == -EADDRNOTAVAIL)
		remedy = "this host does not have that address";
	log_error("listen %s: %s: %s: %s", uri, what, strerror(-error), remedy);
	return error;
}

static int open_socket(const char *uri, const struct addrinfo *address, int *fd)
{
	int one = 1;
	int ret;
	int s = socket(address->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (s < 0)
		return listen_error(uri, "socket", -errno);
	if (setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) == 0 &&
	    bind(s, address->ai_addr, address->ai_addrlen) == 0 && listen(s, BACKLOG) == 0) {
		*fd = s;
		return 0;
	}
	ret = listen_error(uri, "cannot listen", -errno);
	close(s);
	return ret;
}

static int open_uri(struct vmferry_listener *listener, const char *uri)
{
	struct address bound = {.length = sizeof(bound.storage)};
	struct addrinfo *list;
	struct uri parsed;
	int ret = uri_parse(uri, &parsed);

	if (ret < 0)
		return ret;
	ret = uri_resolve(&parsed, true, listener->options.insecure, &list);
	if (ret < 0)
		return ret;
	ret = open_socket(uri, list, &listener->fd);
	freeaddrinfo(list);
	if (ret < 0)
		return ret;
	if (getsockname(listener->fd, (struct sockaddr *)&bound.storage, &bound.length) < 0)
		return listen_error(uri, "getsockname", -errno);
	uri_format(&bound, listener->uri, sizeof(listener->uri));
	return 0;
}

/* Without a device for RDMA that is fine, unless it was asked for by name. */
static int open_door(struct vmferry_listener *listener)
{
	struct address bound = {.length = sizeof(bound.storage)};
	int ret;

	if (listener->options.transport == VMFERRY_TRANSPORT_TCP)
		return 0;
	if (getsockname(listener->fd, (struct sockaddr *)&bound.storage, &bound.length) < 0)
		return listen_error(listener->uri, "getsockname", -errno);
	ret = rdma_ops.listener_open(&listener->options, &bound, &listener->lane_listener);
	if (ret != -ENODEV)
		return ret;
	if (listener->options.transport == VMFERRY_TRANSPORT_AUTO &&
	    listener->options.rail_count == 0)
		return 0;
	log_error("listen %s: this host has no RDMA device at the addresses asked for: see vmferry "
		  "check, or use the transport tcp",
		  listener->uri);
	return ret;
}

int listener_watch(const struct vmferry_listener *listener, int fd, void *what)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = what};

	return epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

static int open_events(struct vmferry_listener *listener)
{
	int ret;

	listener->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	listener->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	listener->pause_fd = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	if (listener->epoll_fd < 0 || listener->stop_fd < 0 || listener->pause_fd < 0)
		return listen_error(listener->uri, "event fds", -errno);
	ret = listener_watch(listener, listener->fd, &listener->fd);
	if (ret == 0)
		ret = listener_watch(listener, listener->stop_fd, &listener->stop_fd);
	if (ret == 0)
		ret = listener_watch(listener, listener->pause_fd, &listener->pause_fd);
	if (ret == 0 && listener->lane_listener != NULL)
		ret = listener_watch(listener, rdma_ops.listener_fd(listener->lane_listener),
				     &listener->lane_listener);
	return ret == 0 ? 0 : listen_error(listener->uri, "epoll", ret);
}

int vmferry_listen(const char *uri, const struct vmferry_transport_options *options,
		   struct vmferry_listener **listener)
{
	struct vmferry_listener *l = calloc(1, sizeof(*l));
	int ret;

	if (l == NULL)
		return -ENOMEM;
	l->fd = l->epoll_fd = l->stop_fd = l->pause_fd = -1;
	for (unsigned int i = 0; i < PENDING_MAX; i++)
		l->pending[i].fd = -1;
	ret = options_complete(options, &l->options);
	if (ret == 0)
		ret = open_uri(l, uri);
	if (ret == 0)
		ret = open_door(l);
	if (ret == 0)
		ret = open_events(l);
	if (ret < 0) {
		vmferry_listener_close(&l);
		return ret;
	}
	*listener = l;
	return 0;
}

const char *vmferry_listener_uri(const struct vmferry_listener *listener)
{
	return listener->uri;
}

int vmferry_listener_fd(const struct vmferry_listener *listener)
{
	return listener->epoll_fd;
}

void vmferry_listener_shutdown(struct vmferry_listener *listener)
{
	/* It can only fail when it has been written so often that it is readable anyway. */
	(void)!eventfd_write(listener->stop_fd, 1);
}

void vmferry_listener_close(struct vmferry_listener **listener)
{
	struct vmferry_listener *l = *listener;

	if (l == NULL)
		return;
	pending_close_all(l);
	if (l->lane_listener != NULL)
		rdma_ops.listener_close(l->lane_listener);
	if (l->pause_fd >= 0)
		close(l->pause_fd);
	if (l->stop_fd >= 0)
		close(l->stop_fd);
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	if (l->fd >= 0)
		close(l->fd);
	free(l);
	*listener = NULL;
}
