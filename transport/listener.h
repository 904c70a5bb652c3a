/* SPDX-License-Identifier: MIT */
/*
 * A listener and its pending connections, which have not yet shown what they are. Each says hello
 * first; then it is a lane and joins a session, or it is the control connection of a session that
 * waits for its lanes.
 */
#ifndef TRANSPORT_LISTENER_H
#define TRANSPORT_LISTENER_H

#include <stdatomic.h>
#include <stdbool.h>

#include "transport/handshake.h"
#include "transport/session.h"
#include "transport/uri.h"

#define PENDING_MAX	  16
#define HELLO_PATIENCE_NS 2000000000ull
/*
 * For the next lane of a session that was agreed on: making and connecting a queue pair takes
 * seconds on a busy host.
 */
#define LANES_PATIENCE_NS 10000000000ull

struct pending_connection {
	int fd;		   /* -1: this place is free; owned by the session if there is one */
	uint64_t deadline; /* put off by each lane that joins */
	struct address peer;
	char peer_text[ADDRESS_TEXT_MAX];
	uint8_t hello[HELLO_MAX];
	size_t have;
	struct vmferry_session *session; /* waits for lanes; NULL while the hello is not complete */
	unsigned int joined;
};

struct vmferry_listener {
	struct vmferry_transport_options options;
	struct lane_listener *lane_listener; /* of rdma_ops; NULL: only TCP lanes can come */
	char uri[URI_HOST_MAX + 16];
	int fd;
	int epoll_fd; /* all of the others are in it */
	int stop_fd;  /* eventfd, never read again once written */
	int pause_fd; /* timerfd: from then on connections are accepted again */
	bool starved; /* no descriptor or memory for the last connection */
	uint64_t said_since;
	unsigned int said;   /* lines about closed connections since then */
	unsigned int unsaid; /* and closed without one */
	struct pending_connection pending[PENDING_MAX];
};

/* From now on what comes at @fd is an event, of which @what tells whose it is. */
int listener_watch(const struct vmferry_listener *listener, int fd, void *what);

/* Takes a connection in; the longest waiting one gives way if there is no place. */
void pending_new(struct vmferry_listener *listener, int fd, const struct address *peer);

/* Something has come from one of them. 1 with @session set if that completed a session. */
int pending_event(struct vmferry_listener *listener, struct pending_connection *pending,
		  struct vmferry_session **session);

/* Something has come at @lane_listener. 1 with @session set if that completed a session. */
int pending_lane_event(struct vmferry_listener *listener, struct vmferry_session **session);

/*
 * Closes those whose time is over and returns when the next one's is; UINT64_MAX if there are none.
 */
uint64_t pending_expire(struct vmferry_listener *listener);
void pending_close_all(struct vmferry_listener *listener);

#endif
