/* SPDX-License-Identifier: MIT */
/*
 * Garbage on the control socket and on the migration port: answered or closed, and nothing else
 * happens.
 */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <unistd.h>

#include "guests.h"

static struct program source;
static struct program destination;

static void tear_down(void)
{
	program_kill(&source);
	program_kill(&destination);
	work_tear_down();
}

TestSuite(strangers, .timeout = 300, .init = work_set_up, .fini = tear_down);

static void limit_wait(int fd)
{
	const struct timeval wait = {.tv_sec = 20};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
}

static int connect_control(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	limit_wait(fd);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* Everything that comes until the other side closes; false if it does not close in time. */
static bool read_to_end(int fd, char *text, size_t size)
{
	size_t used = 0;
	ssize_t got;

	while ((got = recv(fd, text + used, size - 1 - used, 0)) > 0 && used + 1 < size)
		used += (size_t)got;
	text[used] = '\0';
	return got == 0 || (got < 0 && errno == ECONNRESET);
}

static bool read_line(int fd, char *text, size_t size)
{
	size_t used = 0;
	ssize_t got;

	do {
		got = recv(fd, text + used, size - 1 - used, 0);
		used += got > 0 ? (size_t)got : 0;
		text[used] = '\0';
	} while (got > 0 && strchr(text, '\n') == NULL);
	return got > 0;
}

Test(strangers, garbage_on_the_control_socket__error_and_the_guest_runs_on)
{
	static const char *const garbage[] = {"garbage\n", "[]\n", "{\"command\":\n", "\x80\xff\n"};
	char text[1024];

	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	for (unsigned int i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
		int fd = connect_control(work_path("a"));

		send(fd, garbage[i], strlen(garbage[i]), MSG_NOSIGNAL);
		cr_assert(read_to_end(fd, text, sizeof(text)), "line %u is not closed", i);
		cr_assert_not_null(strstr(text, "\"event\":\"error\""), "line %u: %s", i, text);
		close(fd);
	}
	guest_assert_beats(work_path("a"));
	cr_assert_eq(guest_quit(&source, work_path("a")), 0);
}

Test(strangers, endless_line_on_the_control_socket__closed_at_64_KiB)
{
	static char flood[1 << 20];
	char text[1024];
	int fd;

	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	memset(flood, '{', sizeof(flood));
	fd = connect_control(work_path("a"));
	send(fd, flood, sizeof(flood), MSG_NOSIGNAL);
	cr_assert(read_to_end(fd, text, sizeof(text)));
	close(fd);
	guest_assert_beats(work_path("a"));
}

Test(strangers, unknown_and_impossible_requests__errors_on_an_open_connection)
{
	static const char *const requests[] = {
		"{}\n",
		"{\"command\":1}\n",
		"{\"command\":\"explode\"}\n",
		"{\"command\":\"cancel\"}\n",
		"{\"command\":\"migrate\"}\n",
		"{\"command\":\"migrate\",\"uri\":\"tcp:h:1\",\"options\":{\"lanes\":\"x\"}}\n"};
	char text[1024];
	int fd;

	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	fd = connect_control(work_path("a"));
	for (unsigned int i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		send(fd, requests[i], strlen(requests[i]), MSG_NOSIGNAL);
		cr_assert(read_line(fd, text, sizeof(text)), "line %u", i);
		cr_assert_not_null(strstr(text, "\"event\":\"error\""), "line %u: %s", i, text);
	}
	close(fd);
	guest_assert_beats(work_path("a"));
}

static int connect_port(const char *uri)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	limit_wait(fd);
	address.sin_port = htons((in_port_t)strtoul(strrchr(uri, ':') + 1, NULL, 10));
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

Test(strangers, garbage_on_the_migration_port__closed_and_the_wait_goes_on)
{
	static const char *const garbage[] = {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "x"};
	char uri[PATH_BYTES];
	struct program migrate;
	static char text[65536];
	int silent;

	PROGRAM(&destination, "receive", "tcp:127.0.0.1:0", "--control", work_path("b"),
		"--console", "none");
	receiver_uri(work_path("b"), uri);
	for (unsigned int i = 0; i < 2; i++) {
		int fd = connect_port(uri);

		send(fd, garbage[i], strlen(garbage[i]), MSG_NOSIGNAL);
		shutdown(fd, SHUT_WR);
		cr_assert(read_to_end(fd, text, sizeof(text)), "line %u is not closed", i);
		close(fd);
	}
	silent = connect_port(uri);

	PROGRAM(&source, SMALL_GUEST(work_path("a")));
	guest_wait_ready(work_path("a"));
	cr_assert_eq(RUN_TO_END(&migrate, "migrate", work_path("a"), uri, "--downtime", "1s",
				"--verify"),
		     0, "%s", program_err(&migrate));
	guest_assert_beats(work_path("b"));
	close(silent);
}
