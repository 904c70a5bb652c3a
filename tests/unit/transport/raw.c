/* SPDX-License-Identifier: MIT */
#include "raw.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "pair.h"

int raw_connect(const struct vmferry_listener *listener)
{
	const char *uri = vmferry_listener_uri(listener);
	struct sockaddr_in to = {
		.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)strtoul(strrchr(uri, ':') + 1, NULL, 10)),
	};
	struct timeval minute = {.tv_sec = 60};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	cr_assert_geq(fd, 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &minute, sizeof(minute));
	cr_assert_eq(connect(fd, (const struct sockaddr *)&to, sizeof(to)), 0);
	return fd;
}

void raw_send(int fd, const void *data, size_t length)
{
	/* The other side may close in the middle: that is what most of these tests are about. */
	(void)!send(fd, data, length, MSG_NOSIGNAL);
}

void raw_await_taken(int fd)
{
	int unacknowledged;

	while (ioctl(fd, SIOCOUTQ, &unacknowledged) == 0 && unacknowledged > 0)
		usleep(100);
}

bool raw_recv(int fd, void *data, size_t length)
{
	return recv(fd, data, length, MSG_WAITALL) == (ssize_t)length;
}

bool raw_closed(int fd)
{
	char bytes[512];
	ssize_t n;

	do {
		n = recv(fd, bytes, sizeof(bytes), 0);
	} while (n > 0);
	return n == 0 || errno == ECONNRESET;
}

int raw_hello(const struct vmferry_listener *listener, const struct hello_control *hello,
	      struct answer *answer)
{
	uint8_t bytes[HELLO_CONTROL];
	uint8_t reply[ANSWER_BYTES];
	int fd = raw_connect(listener);

	hello_control_encode(hello, bytes);
	raw_send(fd, bytes, sizeof(bytes));
	cr_assert(raw_recv(fd, reply, sizeof(reply)));
	cr_assert_eq(answer_prefix_decode(reply, answer), 0);
	cr_assert_eq(answer->status, ANSWER_OK);
	cr_assert_eq(answer_decode(reply + ANSWER_PREFIX, answer), 0);
	return fd;
}

int raw_control(const struct vmferry_listener *listener, unsigned int lanes, struct answer *answer)
{
	const struct hello_control hello = {.lanes = lanes, .transport = VMFERRY_TRANSPORT_TCP};

	return raw_hello(listener, &hello, answer);
}

struct answering {
	int fd;
	const void *reply;
	size_t length;
};

static void *answer_once(void *arg)
{
	const struct answering *a = arg;
	uint8_t hello[HELLO_CONTROL];
	int fd = accept(a->fd, NULL, NULL);

	if (raw_recv(fd, hello, sizeof(hello)))
		raw_send(fd, a->reply, a->length);
	close(fd);
	return NULL;
}

int raw_answered(const void *reply, size_t length)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000001)};
	struct answering a = {socket(AF_INET, SOCK_STREAM, 0), reply, length};
	struct vmferry_session *session = NULL;
	socklen_t size = sizeof(at);
	pthread_t thread;
	char uri[64];
	int ret;

	cr_assert_eq(bind(a.fd, (struct sockaddr *)&at, size), 0);
	cr_assert_eq(listen(a.fd, 1), 0);
	getsockname(a.fd, (struct sockaddr *)&at, &size);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(at.sin_port));
	pthread_create(&thread, NULL, answer_once, &a);
	ret = vmferry_connect(uri, NULL, PATIENT, &session);
	pthread_join(thread, NULL);
	close(a.fd);
	cr_expect_null(session);
	return ret;
}

void raw_lane_hello(const struct answer *answer, unsigned int number, uint8_t bytes[HELLO_LANE])
{
	struct hello_lane hello = {.number = number};

	memcpy(hello.session, answer->session, SESSION_ID_BYTES);
	cr_assert_eq(lane_prove(answer->secret, &hello), 0);
	hello_lane_encode(&hello, bytes);
}

void raw_session_open(struct raw_session *raw)
{
	uint8_t hello[HELLO_LANE];
	uint8_t ready[READY_BYTES];
	struct accepting a;
	struct answer answer;

	if (raw->listener == NULL)
		cr_assert_eq(vmferry_listen(LOOP, NULL, &raw->listener), 0);
	accept_begin(&a, raw->listener, PATIENT);
	raw->control = raw_control(raw->listener, 1, &answer);
	raw->lane = raw_connect(raw->listener);
	raw_lane_hello(&answer, 0, hello);
	raw_send(raw->lane, hello, sizeof(hello));
	cr_assert(raw_recv(raw->control, ready, sizeof(ready)));
	cr_assert_eq(accept_end(&a), 0);
	raw->destination = a.session;
}

void raw_session_close(struct raw_session *raw)
{
	close(raw->control);
	close(raw->lane);
	vmferry_session_close(&raw->destination);
}
