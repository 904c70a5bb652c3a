/* SPDX-License-Identifier: MIT */
/* What may come to a listener besides a good source, and that none of it keeps one out. */
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/wire.h"
#include "pair.h"
#include "raw.h"
#include "support/fake_clock.h"

static struct vmferry_listener *listener;

static void setup(void)
{
	log_keep();
	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
}

static void teardown(void)
{
	vmferry_listener_close(&listener);
}

TestSuite(pending, .init = setup, .fini = teardown, .timeout = 120);

Test(pending, garbage__closed_and_good_source_gets_through)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
	int fd = raw_connect(listener);

	raw_send(fd, http, sizeof(http));
	expect_good_source(listener, 2);
	cr_expect(raw_closed(fd));
	cr_expect(log_has("it does not speak vmferry"));
	cr_expect(log_has("connection from 127.0.0.1:"));
	close(fd);
}

/* One line each up to a limit, so that nobody fills the log. */
Test(pending, many_in_a_second__the_log_counts_them)
{
	fake_clock_stop();
	for (int i = 0; i < 40; i++) {
		struct vmferry_session *session = NULL;
		int fd = raw_connect(listener);

		raw_send(fd, "GET / HTTP/1.1\r\n", 16);
		raw_await_taken(fd);
		cr_assert_eq(vmferry_accept(listener, vmferry_now(), &session), -ETIMEDOUT);
		cr_assert(raw_closed(fd));
		close(fd);
		if (i == 38) {
			cr_expect_not(log_has("more connections"));
			fake_clock_pass(1000 * MS);
		}
	}
	cr_expect(log_has("19 more connections were closed"));
}

#define ENOUGH_READS 1000

/*
 * A peer that is always faster than whoever reads: what is read comes whole, behind a first byte
 * that is no hello.
 */
static bool endless;
static unsigned int reads;

ssize_t __real_socket_recv(int fd, void *data, size_t length);
ssize_t __wrap_socket_recv(int fd, void *data, size_t length);

ssize_t __wrap_socket_recv(int fd, void *data, size_t length)
{
	if (!endless || length < sizeof(uint64_t))
		return __real_socket_recv(fd, data, length);
	if (++reads == ENOUGH_READS)
		return -ECONNRESET;
	memset(data, 'G', length);
	return (ssize_t)length;
}

Test(pending, garbage_without_end__is_not_read_to_its_end)
{
	struct vmferry_session *session = NULL;
	int fd = raw_connect(listener);

	raw_send(fd, "G", 1);
	raw_await_taken(fd);
	endless = true;
	cr_expect_eq(vmferry_accept(listener, vmferry_now(), &session), -ETIMEDOUT);
	endless = false;
	cr_expect_lt(reads, ENOUGH_READS / 10);
	cr_expect(raw_closed(fd));
	cr_expect(log_has("it does not speak vmferry"));
	close(fd);
	expect_good_source(listener, 2);
}

/*
 * Each came a millisecond after the one before. From then on the clock stands still, so nobody is
 * closed for having been silent too long.
 */
Test(pending, silent__does_not_delay_a_good_source)
{
	struct vmferry_session *session = NULL;
	int fds[20];

	fake_clock_stop();
	fake_clock_rush(true);
	for (unsigned int i = 0; i < 20; i++) {
		fds[i] = raw_connect(listener);
		cr_assert_eq(vmferry_accept(listener, vmferry_now() + MS, &session), -ETIMEDOUT);
	}
	fake_clock_rush(false);
	expect_good_source(listener, 4);
	cr_expect(log_has("too many pending connections"));
	cr_expect_not(log_has("in time"));
	for (unsigned int i = 0; i < 20; i++)
		close(fds[i]);
}

Test(pending, silent__closed_after_its_time)
{
	struct vmferry_session *session = NULL;
	int fd = raw_connect(listener);

	raw_send(fd, "VMF", 3);
	raw_await_taken(fd);
	fake_clock_stop();
	fake_clock_rush(true);
	cr_expect_eq(vmferry_accept(listener, vmferry_now() + 2300 * MS, &session), -ETIMEDOUT);
	cr_expect(raw_closed(fd));
	cr_expect(log_has("no complete hello in time (3 bytes)"));
	close(fd);
}

Test(pending, hello_byte_by_byte__session)
{
	struct hello_control hello = {.transport = VMFERRY_TRANSPORT_TCP};
	uint8_t bytes[HELLO_CONTROL];
	uint8_t reply[ANSWER_BYTES + READY_BYTES];
	struct accepting a;
	int fd = raw_connect(listener);

	accept_begin(&a, listener, PATIENT);
	hello_control_encode(&hello, bytes);
	for (unsigned int i = 0; i < sizeof(bytes); i++) {
		raw_send(fd, bytes + i, 1);
		raw_await_taken(fd);
	}
	cr_expect(raw_recv(fd, reply, sizeof(reply)));
	cr_assert_eq(accept_end(&a), 0);
	vmferry_session_close(&a.session);
	close(fd);
}

Test(pending, other_version__told_ours)
{
	struct hello_control hello = {.lanes = 1, .transport = VMFERRY_TRANSPORT_TCP};
	uint8_t bytes[HELLO_CONTROL];
	uint8_t reply[ANSWER_PREFIX];
	struct answer answer;
	int fd = raw_connect(listener);

	hello_control_encode(&hello, bytes);
	wire_put_u16(bytes + 8, 42);
	raw_send(fd, bytes, sizeof(bytes));
	expect_good_source(listener, 1);
	cr_assert(raw_recv(fd, reply, sizeof(reply)));
	cr_assert_eq(answer_prefix_decode(reply, &answer), 0);
	cr_expect_eq(answer.version, PROTOCOL_VERSION);
	cr_expect_eq(answer.status, ANSWER_VERSION);
	cr_expect(raw_closed(fd));
	cr_expect(log_has("it speaks version 42"));
	close(fd);
}

Test(pending, destination_of_other_version__eproto)
{
	uint8_t reply[ANSWER_PREFIX];

	answer_prefix_encode(ANSWER_VERSION, reply);
	wire_put_u16(reply + 8, 42);
	cr_expect_eq(raw_answered(reply, sizeof(reply)), -EPROTO);
	cr_expect(log_has("peer speaks version 42, this is 2: upgrade"));
}

Test(pending, destination_speaks_something_else__eproto)
{
	cr_expect_eq(raw_answered("SSH-2.0-OpenSSH_9.2", 19), -EPROTO);
	cr_expect(log_has("does not speak vmferry"));
}

Test(pending, destination_gives_more_lanes__eproto)
{
	uint8_t reply[ANSWER_BYTES];
	struct answer answer = {.lanes = 65};

	answer_encode(&answer, reply);
	cr_expect_eq(raw_answered(reply, sizeof(reply)), -EPROTO);
}

Test(pending, destination_closes__econnreset)
{
	cr_expect_eq(raw_answered(NULL, 0), -ECONNRESET);
}

Test(pending, destination_silent__etimedout)
{
	struct vmferry_session *session = NULL;
	uint64_t begun;

	fake_clock_stop();
	fake_clock_rush(true);
	begun = vmferry_now();
	cr_expect_eq(
		vmferry_connect(vmferry_listener_uri(listener), NULL, begun + 200 * MS, &session),
		-ETIMEDOUT);
	cr_expect_eq(vmferry_now() - begun, 200 * MS);
}

Test(pending, too_many_lanes_asked_for__closed)
{
	struct hello_control hello = {.lanes = 1000000, .transport = VMFERRY_TRANSPORT_TCP};
	uint8_t bytes[HELLO_CONTROL];
	int fd = raw_connect(listener);

	hello_control_encode(&hello, bytes);
	raw_send(fd, bytes, sizeof(bytes));
	expect_good_source(listener, 1);
	cr_expect(raw_closed(fd));
	close(fd);
}

/*
 * Sends a lane's hello beside a session that waits for two lanes; then those two join, and it is
 * whole.
 */
static void join_beside(unsigned int number, unsigned int flip, const char *why)
{
	uint8_t hello[HELLO_LANE];
	uint8_t ready[READY_BYTES];
	struct answer answer;
	struct accepting a;
	int fds[4];

	accept_begin(&a, listener, PATIENT);
	fds[0] = raw_control(listener, 2, &answer);
	fds[1] = raw_connect(listener);
	raw_lane_hello(&answer, 0, hello);
	raw_send(fds[1], hello, sizeof(hello));

	fds[2] = raw_connect(listener);
	raw_lane_hello(&answer, number, hello);
	if (flip > 0)
		hello[flip] ^= 1;
	raw_send(fds[2], hello, sizeof(hello));
	cr_expect(raw_closed(fds[2]));
	cr_expect(log_has(why), "%s", why);

	fds[3] = raw_connect(listener);
	raw_lane_hello(&answer, 1, hello);
	raw_send(fds[3], hello, sizeof(hello));
	cr_expect(raw_recv(fds[0], ready, sizeof(ready)));
	cr_assert_eq(accept_end(&a), 0);
	cr_expect_eq(vmferry_session_lanes(a.session), 2);
	vmferry_session_close(&a.session);
	for (unsigned int i = 0; i < 4; i++)
		close(fds[i]);
}

Test(pending, lane_twice__closed)
{
	join_beside(0, 0, "joined already");
}

Test(pending, lane_not_agreed_on__closed)
{
	join_beside(2, 0, "not agreed on");
}

Test(pending, wrong_proof__closed)
{
	join_beside(1, HELLO_LANE - 1, "its proof is wrong");
	/* A proof is for one lane: that of lane 1 does not open lane 0. */
	join_beside(1, 28, "its proof is wrong");
}

Test(pending, lane_of_unknown_session__closed)
{
	join_beside(1, HELLO_PREFIX, "does not wait for lanes");
}

Test(pending, source_goes_before_its_lanes__next_gets_through)
{
	struct answer answer;
	struct accepting a;
	int fd;

	fake_clock_stop();
	accept_begin(&a, listener, PATIENT);
	fd = raw_control(listener, 2, &answer);
	close(fd);
	cr_expect(log_will_have("gone before all lanes came"));
	fake_clock_pass(60000 * MS);
	cr_expect_eq(accept_end(&a), -ETIMEDOUT);
	expect_good_source(listener, 2);
}

Test(pending, source_talks_too_early__closed)
{
	struct answer answer;
	struct accepting a;
	int fd;

	fake_clock_stop();
	accept_begin(&a, listener, PATIENT);
	fd = raw_control(listener, 2, &answer);
	raw_send(fd, "x", 1);
	cr_expect(raw_closed(fd));
	fake_clock_pass(60000 * MS);
	cr_expect_eq(accept_end(&a), -ETIMEDOUT);
	cr_expect(log_has("before it was ready"));
	close(fd);
}
