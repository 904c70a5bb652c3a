/* SPDX-License-Identifier: MIT */
/*
 * The source's part of the handshake: control connection, then all lanes, then the destination's
 * word that it is ready.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/options.h"
#include "transport/session.h"
#include "transport/uri.h"

static int failed(const char *uri, const char *what, int error)
{
	const char *remedy = "check that the destination runs and can be reached";

	if (error == -ECONNREFUSED)
		remedy = "nobody listens there: start the destination first, or correct the port";
	log_error("connect %s: %s: %s: %s", uri, what, strerror(-error), remedy);
	return error;
}

/* Tries all addresses of the URI in turn. */
static int connect_any(const char *uri, const struct addrinfo *list, uint64_t deadline,
		       struct address *peer, int *fd)
{
	char text[ADDRESS_TEXT_MAX] = "";
	int ret = -ENOENT;

	for (const struct addrinfo *a = list; a != NULL; a = a->ai_next) {
		*peer = (struct address){.length = a->ai_addrlen};
		memcpy(&peer->storage, a->ai_addr, a->ai_addrlen);
		address_text(peer, text, sizeof(text));
		ret = socket_connect(peer, deadline, fd);
		if (ret == 0)
			return 0;
	}
	return failed(uri, text, ret);
}

static int open_control(const char *uri, bool insecure, uint64_t deadline, struct address *peer,
			int *fd)
{
	struct addrinfo *list;
	struct uri parsed;
	int ret = uri_parse(uri, &parsed);

	if (ret < 0)
		return ret;
	if (strtoul(parsed.port, NULL, 10) == 0) {
		log_error("uri '%s': port 0 is only for listening: name the port that the "
			  "destination shows",
			  uri);
		return -EINVAL;
	}
	ret = uri_resolve(&parsed, false, insecure, &list);
	if (ret < 0)
		return ret;
	ret = connect_any(uri, list, deadline, peer, fd);
	freeaddrinfo(list);
	return ret;
}

/* Judges the twelve bytes that all versions begin with. */
static int check_answer(const char *uri, const uint8_t *prefix, struct answer *answer)
{
	if (answer_prefix_decode(prefix, answer) < 0) {
		log_error("connect %s: the other side does not speak vmferry: check the port", uri);
		return -EPROTO;
	}
	if (answer->version != PROTOCOL_VERSION) {
		log_error(
			"connect %s: peer speaks version %u, this is %u: upgrade the older of the "
			"two",
			uri, answer->version, PROTOCOL_VERSION);
		return -EPROTO;
	}
	if (answer->status != ANSWER_OK) {
		log_error("connect %s: refused with status %u: give both sides the same transport",
			  uri, answer->status);
		return -EPROTO;
	}
	return 0;
}

static int recv_answer(const char *uri, int fd, uint64_t deadline, struct answer *answer)
{
	uint8_t bytes[ANSWER_BYTES];
	int ret = socket_recv_all(fd, bytes, ANSWER_PREFIX, deadline);

	if (ret < 0)
		return failed(uri, "no answer to the handshake", ret);
	ret = check_answer(uri, bytes, answer);
	if (ret < 0)
		return ret;
	ret = socket_recv_all(fd, bytes + ANSWER_PREFIX, ANSWER_BYTES - ANSWER_PREFIX, deadline);
	if (ret < 0)
		return failed(uri, "no complete answer to the handshake", ret);
	ret = answer_decode(bytes + ANSWER_PREFIX, answer);
	if (ret < 0)
		failed(uri, "the answer to the handshake makes no sense", ret);
	return ret;
}

static const char *answered_reason(const struct answer *answer)
{
	switch (answer->reason) {
	case REASON_DESTINATION:
		return "the destination asked for it";
	case REASON_BOTH:
		return "both sides have RDMA";
	case REASON_NO_DEVICE:
		return "the destination has no RDMA device";
	case REASON_MEMLOCK:
		return "the destination's memlock limit does not allow to pin the memory";
	default:
		return NULL;
	}
}

/* The transport is known now: what it keeps for a session is made. */
static int take_answer(struct vmferry_session *session, const char *uri,
		       const struct vmferry_transport_options *options,
		       const struct hello_control *hello, const struct answer *answer)
{
	bool rdma = answer->transport == VMFERRY_TRANSPORT_RDMA;
	const char *reason = answered_reason(answer);

	if (answer->lanes > (rdma ? hello->rdma_lanes : hello->lanes) ||
	    (rdma && (hello->transport == VMFERRY_TRANSPORT_TCP || answer->lanes == 0 ||
		      answer->addresses.rail_count == 0))) {
		log_error("connect %s: %u lanes of transport %u answered, which was not asked for: "
			  "the peer is broken",
			  uri, answer->lanes, answer->transport);
		return -EPROTO;
	}
	session_identify(session, answer->session, answer->secret);
	session->lane_count = answer->lanes;
	session->ops = rdma ? &rdma_ops : &tcp_ops;
	if (reason != NULL)
		snprintf(session->reason, sizeof(session->reason), "%s", reason);
	if (session->lane_count == 0 || session->ops->attach == NULL)
		return 0;
	return session->ops->attach(session, options, &answer->addresses);
}

static unsigned int wished_lanes(const struct vmferry_session *session,
				 const struct transport_ops *ops,
				 const struct vmferry_transport_options *options)
{
	if (options->lanes == VMFERRY_LANES_NONE)
		return 0;
	return options->lanes != 0 ? options->lanes : ops->default_lanes(&session->peer, options);
}

static int say_hello(struct vmferry_session *session, const char *uri,
		     const struct vmferry_transport_options *options, uint64_t deadline)
{
	struct hello_control hello = {
		.lanes = wished_lanes(session, &tcp_ops, options),
		.rdma_lanes = wished_lanes(session, &rdma_ops, options),
		.transport = options->transport,
		.memory = options->memory,
	};
	uint8_t bytes[HELLO_CONTROL];
	struct answer answer;
	int ret;

	hello_control_encode(&hello, bytes);
	ret = socket_send_all(session->control.fd, bytes, sizeof(bytes), deadline);
	if (ret < 0)
		return failed(uri, "cannot say hello", ret);
	ret = recv_answer(uri, session->control.fd, deadline, &answer);
	return ret < 0 ? ret : take_answer(session, uri, options, &hello, &answer);
}

static int open_lane(struct vmferry_session *session, unsigned int number, uint64_t deadline)
{
	struct lane **place = number == LANE_MAILBOX ? NULL : &session->lanes[number];
	struct hello_lane hello = {.number = number};
	int ret;

	memcpy(hello.session, session->id, SESSION_ID_BYTES);
	ret = lane_prove(session->secret, &hello);
	return ret < 0 ? ret : session->ops->connect(session, &hello, deadline, place);
}

static int open_lanes(struct vmferry_session *session, uint64_t deadline)
{
	int ret = 0;

	if (session->ops->has_mailbox && session->lane_count > 0)
		ret = open_lane(session, LANE_MAILBOX, deadline);
	for (unsigned int i = 0; ret == 0 && i < session->lane_count; i++)
		ret = open_lane(session, i, deadline);
	return ret;
}

static int await_ready(struct vmferry_session *session, const char *uri, uint64_t deadline)
{
	uint8_t bytes[READY_BYTES];
	struct answer answer;
	int ret = socket_recv_all(session->control.fd, bytes, sizeof(bytes), deadline);

	if (ret < 0)
		return failed(uri, "the destination did not get ready", ret);
	ret = check_answer(uri, bytes, &answer);
	if (ret < 0 || session->kind == NULL)
		return ret;
	return session->ops->ready(session);
}

/*
 * Lanes of RDMA may fail where TCP would not; the time that is left is halved, so that there is
 * some for TCP.
 */
static uint64_t lanes_deadline(const struct vmferry_session *session,
			       const struct vmferry_transport_options *options, uint64_t deadline)
{
	uint64_t now = vmferry_now();

	if (session->ops == &tcp_ops || options->transport != VMFERRY_TRANSPORT_AUTO ||
	    deadline <= now)
		return deadline;
	return now + (deadline - now) / 2;
}

/*
 * One try with the transport of @options: 0, -EREMOTEIO when RDMA was agreed on but its lanes
 * cannot be had (the reason in @why), or another error.
 */
static int try_connect(const char *uri, const struct vmferry_transport_options *options,
		       uint64_t deadline, char why[REASON_MAX], struct vmferry_session **session)
{
	struct vmferry_session *s = NULL;
	struct address peer = {0};
	int fd = -1;
	int ret = open_control(uri, options->insecure, deadline, &peer, &fd);

	if (ret < 0)
		return ret;
	ret = session_new(&tcp_ops, true, fd, &peer, &s);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	snprintf(s->reason, sizeof(s->reason), "%s", why);
	ret = say_hello(s, uri, options, deadline);
	if (ret == 0) {
		ret = open_lanes(s, lanes_deadline(s, options, deadline));
		if (ret < 0 && s->ops == &tcp_ops)
			failed(uri, "cannot open a lane", ret);
		else if (ret < 0)
			ret = -EREMOTEIO;
	}
	if (ret == 0)
		ret = await_ready(s, uri, deadline);
	session_forget_secret(s);
	if (ret < 0) {
		snprintf(why, REASON_MAX, "%s", s->reason);
		vmferry_session_close(&s);
		return ret;
	}
	*session = s;
	return 0;
}

/* What will not work here needs no try. */
static int choose(const char *uri, struct vmferry_transport_options *o, char why[REASON_MAX])
{
	snprintf(why, REASON_MAX, "asked for");
	if (o->lanes == VMFERRY_LANES_NONE)
		o->transport = VMFERRY_TRANSPORT_TCP;
	if (o->transport == VMFERRY_TRANSPORT_TCP)
		return 0;
	if (rdma_has_device()) {
		if (o->transport == VMFERRY_TRANSPORT_AUTO &&
		    !rdma_may_pin(o, o->memory, why, REASON_MAX)) {
			log_warn("connect %s: %s: using TCP", uri, why);
			o->transport = VMFERRY_TRANSPORT_TCP;
		}
		return 0;
	}
	if (o->transport == VMFERRY_TRANSPORT_RDMA) {
		log_error("connect %s: there is no RDMA device on this host: see vmferry check, or "
			  "use the transport tcp or auto",
			  uri);
		return -ENODEV;
	}
	snprintf(why, REASON_MAX, "no RDMA device here");
	o->transport = VMFERRY_TRANSPORT_TCP;
	return 0;
}

int vmferry_connect(const char *uri, const struct vmferry_transport_options *options,
		    uint64_t deadline, struct vmferry_session **session)
{
	struct vmferry_transport_options o;
	char why[REASON_MAX];
	int ret = options_complete(options, &o);

	if (ret == 0)
		ret = choose(uri, &o, why);
	if (ret < 0)
		return ret;
	ret = try_connect(uri, &o, deadline, why, session);
	if (ret != -EREMOTEIO)
		return ret;
	if (o.transport == VMFERRY_TRANSPORT_RDMA) {
		log_error("connect %s: no RDMA lanes: %s: see vmferry check on both sides, or use "
			  "the transport tcp or auto",
			  uri, why);
		return ret;
	}
	log_warn("connect %s: no RDMA lanes: %s: using TCP", uri, why);
	o.transport = VMFERRY_TRANSPORT_TCP;
	return try_connect(uri, &o, deadline, why, session);
}
