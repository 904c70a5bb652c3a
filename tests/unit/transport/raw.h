/* SPDX-License-Identifier: MIT */
/* A peer that speaks, or breaks, the protocol byte by byte. */
#ifndef TEST_RAW_H
#define TEST_RAW_H

#include <stdbool.h>
#include <stddef.h>

#include <vmferry/transport.h>

#include "transport/handshake.h"

/* A plain connection to the listener; blocking, with a timeout of a minute. */
int raw_connect(const struct vmferry_listener *listener);
void raw_send(int fd, const void *data, size_t length);

/* Until all that was sent lies in the other side's socket. */
void raw_await_taken(int fd);

/* Reads exactly so much; false if the connection ended before. */
bool raw_recv(int fd, void *data, size_t length);

/* Whether the other side closes within a minute, whatever it says before. */
bool raw_closed(int fd);

/* Says hello and returns the answer. */
int raw_hello(const struct vmferry_listener *listener, const struct hello_control *hello,
	      struct answer *answer);

/* The same, for so many lanes over TCP. */
int raw_control(const struct vmferry_listener *listener, unsigned int lanes, struct answer *answer);

/*
 * What becomes of a source that is answered with these bytes, after which the connection is closed.
 */
int raw_answered(const void *reply, size_t length);

/* A lane's hello, with the right proof. */
void raw_lane_hello(const struct answer *answer, unsigned int number, uint8_t bytes[HELLO_LANE]);

/* A session of one lane whose source is this test: control and lane are plain fds. */
struct raw_session {
	struct vmferry_listener *listener;
	struct vmferry_session *destination;
	int control;
	int lane;
};

void raw_session_open(struct raw_session *raw);
void raw_session_close(struct raw_session *raw);

#endif
