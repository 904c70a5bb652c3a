/* SPDX-License-Identifier: MIT */
/* The source's part of the handshake: control connection, then all lanes, then the destination's word that it is ready. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

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
		log_error(
			"uri '%s': port 0 is only for listening: name the port that the destination "
			"shows",
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
			"connect %s: peer speaks version %u, this is %u: upgrade the older of the two",
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
	answer_decode(bytes + ANSWER_PREFIX, answer);
	return 0;
}

static int say_hello(struct vmferry_session *session, const char *uri,
		     const struct vmferry_transport_options *options, uint64_t deadline)
{
	struct hello_control hello = {.lanes = options->lanes, .transport = options->transport};
	uint8_t bytes[HELLO_CONTROL];
	struct answer answer;
	int ret;

	if (options->lanes == VMFERRY_LANES_NONE)
		hello.lanes = 0;
	else if (options->lanes == 0)
		hello.lanes = session->ops->default_lanes(&session->peer);
	hello_control_encode(&hello, bytes);
	ret = socket_send_all(session->control.fd, bytes, sizeof(bytes), deadline);
	if (ret < 0)
		return failed(uri, "cannot say hello", ret);
	ret = recv_answer(uri, session->control.fd, deadline, &answer);
	if (ret < 0)
		return ret;
	if (answer.lanes > hello.lanes) {
		log_error("connect %s: %u lanes answered, %u asked for: the peer is broken", uri,
			  answer.lanes, hello.lanes);
		return -EPROTO;
	}
	session_identify(session, answer.session, answer.secret);
	session->lane_count = answer.lanes;
	return 0;
}

static int open_lanes(struct vmferry_session *session, const char *uri, uint64_t deadline)
{
	for (unsigned int i = 0; i < session->lane_count; i++) {
		struct hello_lane hello = {.number = i};
		int ret;

		memcpy(hello.session, session->id, SESSION_ID_BYTES);
		ret = lane_prove(session->secret, &hello);
		if (ret < 0)
			return ret;
		ret = session->ops->connect(session, &hello, deadline, &session->lanes[i]);
		if (ret < 0)
			return failed(uri, "cannot open a lane", ret);
	}
	return 0;
}

static int await_ready(struct vmferry_session *session, const char *uri, uint64_t deadline)
{
	uint8_t bytes[READY_BYTES];
	struct answer answer;
	int ret = socket_recv_all(session->control.fd, bytes, sizeof(bytes), deadline);

	if (ret < 0)
		return failed(uri, "the destination did not get ready", ret);
	return check_answer(uri, bytes, &answer);
}

int vmferry_connect(const char *uri, const struct vmferry_transport_options *options,
		    uint64_t deadline, struct vmferry_session **session)
{
	struct vmferry_transport_options o;
	struct vmferry_session *s = NULL;
	struct address peer = {0};
	int fd = -1;
	int ret = options_complete(options, &o);

	if (ret == 0)
		ret = open_control(uri, o.insecure, deadline, &peer, &fd);
	if (ret < 0)
		return ret;
	ret = session_new(&tcp_ops, true, fd, &peer, &s);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	ret = say_hello(s, uri, &o, deadline);
	if (ret == 0)
		ret = open_lanes(s, uri, deadline);
	if (ret == 0)
		ret = await_ready(s, uri, deadline);
	session_forget_secret(s);
	if (ret < 0) {
		vmferry_session_close(&s);
		return ret;
	}
	*session = s;
	return 0;
}
