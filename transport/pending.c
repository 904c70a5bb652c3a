/* SPDX-License-Identifier: MIT */
/*
 * Pending connections are read without ever being waited for, so that nobody who is silent, slow or
 * speaks something else can keep a source out.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/wire.h"
#include "transport/listener.h"

/*
 * Reads before a refused connection is closed: enough for what a peer sends right after its hello.
 */
#define REST_READS 16
/* So many lines about closed connections in so long a time. */
#define SAY_MAX		20
#define SAY_INTERVAL_NS NS_PER_S

static void unwatch(const struct vmferry_listener *listener, int fd)
{
	epoll_ctl(listener->epoll_fd, EPOLL_CTL_DEL, fd, NULL);
}

static void forget(const struct vmferry_listener *listener, struct pending_connection *pending)
{
	unwatch(listener, pending->fd);
	if (pending->session != NULL) {
		vmferry_session_close(&pending->session);
	} else {
		char rest[512];

		/*
		 * Closing with unread bytes sends a reset, which could overtake the answer that
		 * says why. Bounded: a peer that sends faster than this reads would hold the
		 * listener for ever.
		 */
		for (int i = 0; i < REST_READS; i++)
			if (socket_recv(pending->fd, rest, sizeof(rest)) != sizeof(rest))
				break;
		close(pending->fd);
	}
	pending->fd = -1;
}

/* Peers decide how often connections are closed: limits how many lines they can cause. */
static bool may_say(struct vmferry_listener *listener)
{
	uint64_t now = vmferry_now();

	if (now - listener->said_since >= SAY_INTERVAL_NS) {
		if (listener->unsaid > 0)
			log_warn("listener %s: %u more connections were closed", listener->uri,
				 listener->unsaid);
		listener->said_since = now;
		listener->said = 0;
		listener->unsaid = 0;
	}
	if (listener->said < SAY_MAX) {
		listener->said++;
		return true;
	}
	listener->unsaid++;
	return false;
}

__attribute__((format(printf, 3, 4))) static void
reject(struct vmferry_listener *listener, struct pending_connection *pending, const char *fmt, ...)
{
	char why[160];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	if (may_say(listener))
		log_warn("listener %s: connection from %s closed: %s", listener->uri,
			 pending->peer_text, why);
	forget(listener, pending);
}

static struct pending_connection *free_place(struct vmferry_listener *listener)
{
	struct pending_connection *first = NULL;

	for (unsigned int i = 0; i < PENDING_MAX; i++) {
		struct pending_connection *s = &listener->pending[i];

		if (s->fd < 0)
			return s;
		/* A session that waits for lanes goes only when there is nobody else. */
		if (first == NULL || (first->session != NULL && s->session == NULL) ||
		    ((first->session == NULL) == (s->session == NULL) &&
		     s->deadline < first->deadline))
			first = s;
	}
	reject(listener, first, "too many pending connections, and it had waited longest");
	return first;
}

void pending_new(struct vmferry_listener *listener, int fd, const struct address *peer)
{
	struct pending_connection *s = free_place(listener);
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = s};

	*s = (struct pending_connection){
		.fd = fd,
		.peer = *peer,
		.deadline = vmferry_now() + HELLO_PATIENCE_NS,
	};
	address_text(peer, s->peer_text, sizeof(s->peer_text));
	if (socket_setup(fd, peer) < 0 ||
	    epoll_ctl(listener->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0)
		reject(listener, s, "cannot be set up: %s", strerror(errno));
}

uint64_t pending_expire(struct vmferry_listener *listener)
{
	uint64_t now = vmferry_now();
	uint64_t next = UINT64_MAX;

	for (unsigned int i = 0; i < PENDING_MAX; i++) {
		struct pending_connection *s = &listener->pending[i];

		if (s->fd < 0)
			continue;
		if (s->deadline <= now && s->session != NULL)
			reject(listener, s, "%u of %u lanes came in time", s->joined,
			       s->session->lane_count);
		else if (s->deadline <= now)
			reject(listener, s, "no complete hello in time (%zu bytes)", s->have);
		else if (s->deadline < next)
			next = s->deadline;
	}
	return next;
}

void pending_close_all(struct vmferry_listener *listener)
{
	for (unsigned int i = 0; i < PENDING_MAX; i++)
		if (listener->pending[i].fd >= 0)
			forget(listener, &listener->pending[i]);
}

/*
 * All lanes have joined: 1 with the session, which is not pending any more, or 0 if it did not live
 * to see it.
 */
static int complete(struct vmferry_listener *listener, struct pending_connection *pending,
		    struct vmferry_session **session)
{
	struct vmferry_session *s = pending->session;
	uint8_t ready[READY_BYTES];

	session_forget_secret(s);
	for (unsigned int i = 0; s->ops->start != NULL && i < s->lane_count; i++) {
		if (s->ops->start(s->lanes[i]) < 0) {
			reject(listener, pending, "a lane cannot be started");
			return 0;
		}
	}
	answer_prefix_encode(ANSWER_OK, ready);
	if (socket_send(pending->fd, ready, sizeof(ready), false) != sizeof(ready)) {
		reject(listener, pending, "it has gone before it was ready");
		return 0;
	}
	unwatch(listener, pending->fd);
	/* Only now: its thread writes to the control connection too. */
	if (s->kind != NULL && s->ops->ready(s) < 0) {
		reject(listener, pending, "its lanes cannot be served");
		return 0;
	}
	pending->fd = -1;
	pending->session = NULL;
	*session = s;
	return 1;
}

static const char *reason_text(uint32_t reason)
{
	switch (reason) {
	case REASON_SOURCE:
		return "the source asked for it";
	case REASON_DESTINATION:
		return "asked for here";
	case REASON_BOTH:
		return "both sides have RDMA";
	case REASON_MEMLOCK:
		return "the memlock limit here does not allow to pin the memory";
	default:
		return "no RDMA device here";
	}
}

static int make_session(struct vmferry_listener *listener, struct pending_connection *pending,
			struct answer *answer)
{
	const struct transport_ops *ops =
		answer->transport == VMFERRY_TRANSPORT_RDMA ? &rdma_ops : &tcp_ops;
	uint8_t bytes[ANSWER_BYTES];
	struct vmferry_session *s;
	int ret = handshake_random(answer->session, answer->secret);

	if (ret < 0)
		return ret;
	ret = session_new(ops, false, pending->fd, &pending->peer, &pending->session);
	if (ret < 0)
		return ret;
	s = pending->session;
	session_identify(s, answer->session, answer->secret);
	s->lane_count = answer->lanes;
	snprintf(s->reason, sizeof(s->reason), "%s", reason_text(answer->reason));
	if (answer->transport == VMFERRY_TRANSPORT_RDMA)
		ops->listener_describe(listener->lane_listener, &answer->addresses);
	/* No rail without a lane. */
	if (answer->addresses.rail_count > answer->lanes)
		answer->addresses.rail_count = answer->lanes;
	if (ops->attach != NULL && answer->lanes > 0)
		ret = ops->attach(s, &listener->options, &answer->addresses);
	if (ret < 0)
		return ret;
	pending->deadline = vmferry_now() + LANES_PATIENCE_NS;
	answer_encode(answer, bytes);
	/* Nothing was sent before: an empty socket buffer takes this whole. */
	return socket_send(pending->fd, bytes, sizeof(bytes), false) == sizeof(bytes) ? 0
										      : -ECONNRESET;
}

static unsigned int agree_lanes(const struct vmferry_listener *listener, uint32_t wish)
{
	unsigned int most = listener->options.lanes;

	if (most == VMFERRY_LANES_NONE)
		return 0;
	if (most == 0)
		most = VMFERRY_LANES_MAX;
	return wish < most ? wish : most;
}

static void refuse(const struct pending_connection *pending, enum answer_status status)
{
	uint8_t bytes[ANSWER_PREFIX];

	answer_prefix_encode(status, bytes);
	/* As well as can be: the connection is closed in any case. */
	(void)!socket_send(pending->fd, bytes, sizeof(bytes), false);
}

static bool may_pin(const struct vmferry_listener *listener, uint64_t bytes)
{
	char why[REASON_MAX];

	if (rdma_may_pin(&listener->options, bytes, why, sizeof(why)))
		return true;
	log_warn("listener %s: %s: using TCP", listener->uri, why);
	return false;
}

/*
 * Which transport it comes to be: 0, or -ENOTSUP when one side insists on what the other has not.
 */
static int agree_transport(const struct vmferry_listener *listener,
			   const struct hello_control *hello, struct answer *answer)
{
	enum vmferry_transport here = listener->options.transport;

	answer->transport = VMFERRY_TRANSPORT_TCP;
	if (hello->transport == VMFERRY_TRANSPORT_TCP) {
		answer->reason = REASON_SOURCE;
		/* A session without lanes carries nothing that could be sent another way. */
		return here == VMFERRY_TRANSPORT_RDMA && hello->lanes > 0 ? -ENOTSUP : 0;
	}
	if (hello->transport == VMFERRY_TRANSPORT_AUTO && here == VMFERRY_TRANSPORT_AUTO &&
	    listener->lane_listener != NULL && !may_pin(listener, hello->memory)) {
		answer->reason = REASON_MEMLOCK;
		return 0;
	}
	if (listener->lane_listener != NULL) {
		answer->transport = VMFERRY_TRANSPORT_RDMA;
		answer->reason =
			hello->transport == VMFERRY_TRANSPORT_AUTO ? REASON_BOTH : REASON_SOURCE;
		return 0;
	}
	answer->reason = here == VMFERRY_TRANSPORT_TCP ? REASON_DESTINATION : REASON_NO_DEVICE;
	return hello->transport == VMFERRY_TRANSPORT_AUTO ? 0 : -ENOTSUP;
}

static int hear_control(struct vmferry_listener *listener, struct pending_connection *pending,
			struct vmferry_session **session)
{
	struct answer answer = {.status = ANSWER_OK};
	struct hello_control hello;
	uint32_t wish;
	int ret;

	hello_control_decode(pending->hello + HELLO_PREFIX, &hello);
	if (hello.transport > VMFERRY_TRANSPORT_RDMA || hello.flags != 0 ||
	    agree_transport(listener, &hello, &answer) < 0) {
		refuse(pending, ANSWER_TRANSPORT);
		reject(listener, pending, "it asks for transport %u, flags 0x%x", hello.transport,
		       hello.flags);
		return 0;
	}
	wish = answer.transport == VMFERRY_TRANSPORT_RDMA ? hello.rdma_lanes : hello.lanes;
	if (wish > VMFERRY_LANES_MAX) {
		reject(listener, pending, "it asks for %u lanes, %d is the most", wish,
		       VMFERRY_LANES_MAX);
		return 0;
	}
	answer.lanes = agree_lanes(listener, wish);
	/* Without lanes there is nothing that any device has to do with. */
	if (answer.lanes == 0)
		answer.transport = VMFERRY_TRANSPORT_TCP;
	ret = make_session(listener, pending, &answer);
	if (ret < 0) {
		reject(listener, pending, "no session can be made: %s", strerror(-ret));
		return 0;
	}
	return pending->session->lane_count == 0 ? complete(listener, pending, session) : 0;
}

static struct pending_connection *find_session(struct vmferry_listener *listener, const uint8_t *id)
{
	for (unsigned int i = 0; i < PENDING_MAX; i++) {
		struct pending_connection *s = &listener->pending[i];

		if (s->fd >= 0 && s->session != NULL &&
		    memcmp(s->session->id, id, SESSION_ID_BYTES) == 0)
			return s;
	}
	return NULL;
}

/* Why this lane of @ops may not join, NULL if it may. */
static const char *check_lane(const struct pending_connection *owner,
			      const struct hello_lane *hello, const struct transport_ops *ops)
{
	if (owner == NULL || owner->session->ops != ops)
		return "it says to be a lane of a session that does not wait for lanes";
	if (lane_check(owner->session->secret, hello) < 0)
		return "it says to be a lane but its proof is wrong";
	if (hello->number == LANE_MAILBOX && ops->has_mailbox)
		return NULL;
	if (hello->number >= owner->session->lane_count)
		return "it says to be a lane that was not agreed on";
	if (owner->session->lanes[hello->number] != NULL)
		return "it says to be a lane that has joined already";
	return NULL;
}

static int hear_lane(struct vmferry_listener *listener, struct pending_connection *pending,
		     struct vmferry_session **session)
{
	struct pending_connection *owner;
	struct vmferry_session *s;
	struct hello_lane hello;
	const char *why;

	hello_lane_decode(pending->hello + HELLO_PREFIX, &hello);
	owner = find_session(listener, hello.session);
	why = check_lane(owner, &hello, &tcp_ops);
	if (why != NULL) {
		reject(listener, pending, "%s", why);
		return 0;
	}
	s = owner->session;
	unwatch(listener, pending->fd);
	if (s->ops->accept(s, hello.number, pending->fd, &s->lanes[hello.number]) < 0) {
		reject(listener, pending, "no lane can be made of it");
		return 0;
	}
	pending->fd = -1;
	owner->deadline = vmferry_now() + LANES_PATIENCE_NS;
	return ++owner->joined == s->lane_count ? complete(listener, owner, session) : 0;
}

/* What the callbacks of the lanes' own listener work on. */
struct at_door {
	struct vmferry_listener *listener;
	struct vmferry_session **completed;
	int ret;
};

static struct vmferry_session *admit_lane(void *ctx, const struct hello_lane *hello,
					  const char **why)
{
	const struct at_door *at = ctx;
	struct pending_connection *owner = find_session(at->listener, hello->session);

	*why = check_lane(owner, hello, &rdma_ops);
	return *why == NULL ? owner->session : NULL;
}

static void lane_joined(void *ctx, struct vmferry_session *session)
{
	struct at_door *at = ctx;
	struct pending_connection *owner = find_session(at->listener, session->id);

	if (owner == NULL)
		return;
	owner->deadline = vmferry_now() + LANES_PATIENCE_NS;
	if (++owner->joined == session->lane_count + 1)
		at->ret = complete(at->listener, owner, at->completed);
}

static void lane_failed(void *ctx, struct vmferry_session *session, const char *why)
{
	struct at_door *at = ctx;
	struct pending_connection *owner = find_session(at->listener, session->id);

	if (owner != NULL)
		reject(at->listener, owner, "%s", why);
}

int pending_lane_event(struct vmferry_listener *listener, struct vmferry_session **session)
{
	struct at_door at = {.listener = listener, .completed = session};
	const struct lane_admission admission = {
		.ctx = &at, .admit = admit_lane, .joined = lane_joined, .failed = lane_failed};

	/*
	 * One event at a time: when it completes a session, that is to be handed out before the
	 * next.
	 */
	rdma_ops.listener_event(listener->lane_listener, &admission);
	return at.ret;
}

/*
 * Judges the beginning as soon as it is there, so that what speaks something else is not waited
 * for.
 */
static size_t hear_prefix(struct vmferry_listener *listener, struct pending_connection *pending)
{
	struct hello_prefix prefix;
	size_t bytes;

	if (hello_prefix_decode(pending->hello, &prefix) < 0) {
		reject(listener, pending, "it does not speak vmferry");
		return 0;
	}
	if (prefix.version != PROTOCOL_VERSION) {
		refuse(pending, ANSWER_VERSION);
		reject(listener, pending, "it speaks version %u, this is %u: upgrade the older",
		       prefix.version, PROTOCOL_VERSION);
		return 0;
	}
	bytes = hello_bytes(prefix.kind);
	if (bytes == 0)
		reject(listener, pending, "its hello is of an unknown kind %u", prefix.kind);
	return bytes;
}

/* A session that waits for its lanes: nothing may come, so it has gone or breaks the protocol. */
static int hear_waiting(struct vmferry_listener *listener, struct pending_connection *pending)
{
	uint8_t byte;
	ssize_t n = socket_recv(pending->fd, &byte, sizeof(byte));

	if (n > 0)
		reject(listener, pending, "it sent something before it was ready");
	else if (n != -EAGAIN)
		reject(listener, pending, "it has gone before all lanes came");
	return 0;
}

int pending_event(struct vmferry_listener *listener, struct pending_connection *pending,
		  struct vmferry_session **session)
{
	size_t whole;

	if (pending->session != NULL)
		return hear_waiting(listener, pending);
	whole = pending->have < HELLO_PREFIX
			? HELLO_PREFIX
			: hello_bytes((uint16_t)wire_get(pending->hello + 10, 2));
	while (pending->have < whole) {
		/* Never more than the hello: what follows it belongs to the lane. */
		ssize_t n = socket_recv(pending->fd, pending->hello + pending->have,
					whole - pending->have);

		if (n == -EAGAIN)
			return 0;
		if (n < 0) {
			reject(listener, pending, "it ended after %zu bytes of a hello",
			       pending->have);
			return 0;
		}
		pending->have += (size_t)n;
		if (pending->have == HELLO_PREFIX) {
			whole = hear_prefix(listener, pending);
			if (whole == 0)
				return 0;
		}
	}
	return whole == HELLO_CONTROL ? hear_control(listener, pending, session)
				      : hear_lane(listener, pending, session);
}
