/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <netinet/in.h>
#include <pthread.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/clock.h"
#include "support/fake_clock.h"
#include "transport/socket.h"

TestSuite(socket, .timeout = 60);

static void connect_both(int ends[2])
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t length = sizeof(address);
	int listener = socket(AF_INET, SOCK_STREAM, 0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address, length), 0);
	cr_assert_eq(listen(listener, 1), 0);
	cr_assert_eq(getsockname(listener, (struct sockaddr *)&address, &length), 0);
	ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	connect(ends[0], (struct sockaddr *)&address, length);
	ends[1] = accept(listener, NULL, NULL);
	cr_assert(ends[0] >= 0 && ends[1] >= 0);
	close(listener);
}

/* More than the peer's kernel takes. */
static void fill(int fd)
{
	static const char bytes[1 << 16];

	while (send(fd, bytes, sizeof(bytes), MSG_NOSIGNAL) > 0)
		;
	cr_assert_gt(socket_unsent(fd), 0);
}

/* The clock stands still: it is not the deadline that ends this. */
Test(socket, drain_of_a_reset_connection__ends)
{
	int ends[2];

	connect_both(ends);
	fill(ends[0]);
	close(ends[1]);
	fake_clock_stop();
	socket_drain(ends[0], vmferry_now() + 1);
	close(ends[0]);
}

static void *pass_time(void *arg)
{
	usleep(50000);
	fake_clock_pass(2);
	return arg;
}

Test(socket, drain_while_the_peer_takes_nothing__waits_for_the_deadline)
{
	pthread_t thread;
	uint64_t deadline;
	int ends[2];

	connect_both(ends);
	fill(ends[0]);
	fake_clock_stop();
	deadline = vmferry_now() + 1;
	cr_assert_eq(pthread_create(&thread, NULL, pass_time, NULL), 0);
	socket_drain(ends[0], deadline);
	cr_expect_geq(vmferry_now(), deadline);
	cr_expect_gt(socket_unsent(ends[0]), 0);
	pthread_join(thread, NULL);
}
