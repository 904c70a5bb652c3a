/* SPDX-License-Identifier: MIT */
/* The control socket by itself: its mode, who may take the path over, and what garbage meets. */
#include <criterion/criterion.h>
#include <criterion/redirect.h>
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <migrator/cli/client.h>
#include <migrator/cli/control.h>
#include <migrator/cli/report.h>
#include <vmferry/vmferry.h>

TestSuite(control, .timeout = 20);

static char directory[64];
static char path[96];
static struct control *control;
static int requests;

static void answer(void *ctx, uint64_t client, struct json_object *request)
{
	(void)ctx;
	requests++;
	control_send(control, client, json_object_get(request));
}

static void set_up(void)
{
	int fd;

	cr_redirect_stderr();
	strcpy(directory, "/tmp/vmferry-test-XXXXXX");
	cr_assert_not_null(mkdtemp(directory));
	snprintf(path, sizeof(path), "%s/control", directory);
	cr_assert_eq(control_listen(path, &fd), 0);
	cr_assert_eq(control_new(fd, path, &control), 0);
}

static void tear_down(void)
{
	control_free(&control);
	cr_assert_eq(access(path, F_OK), -1);
	rmdir(directory);
}

static void serve(void)
{
	struct pollfd pfd = {.fd = control_fd(control), .events = POLLIN};

	while (poll(&pfd, 1, 50) > 0)
		control_serve(control, answer, NULL);
}

static int connect_raw(void)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

Test(control, request__answered, .init = set_up, .fini = tear_down)
{
	struct json_object *object;
	struct client *client;

	cr_assert_eq(client_connect(path, &client), 0);
	cr_assert_eq(client_send(client, client_request("status")), 0);
	serve();
	cr_assert_eq(client_recv(client, -1, vmferry_now() + 1000000000, &object), 0);
	cr_assert_str_eq(report_text(object, "command", ""), "status");
	json_object_put(object);
	client_free(&client);
}

Test(control, mode__is_0600, .init = set_up, .fini = tear_down)
{
	struct stat st;

	cr_assert_eq(stat(path, &st), 0);
	cr_assert_eq(st.st_mode & 0777, 0600);
}

static void expect_refusal(const char *data, size_t length)
{
	char text[512] = "";
	int before = requests;
	int fd = connect_raw();
	size_t sent = 0;
	ssize_t n = 1;

	while (sent < length) {
		n = send(fd, data + sent, length - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n < 0 && errno != EAGAIN)
			break;
		sent += n > 0 ? (size_t)n : 0;
		serve();
	}
	serve();
	n = recv(fd, text, sizeof(text) - 1, 0);
	cr_assert_gt((int)n, 0);
	cr_assert_not_null(strstr(text, "\"event\":\"error\""), "%s", text);
	cr_assert_leq((int)recv(fd, text, sizeof(text), 0), 0);
	cr_assert_eq(requests, before);
	close(fd);
	serve();
}

Test(control, garbage__error_and_closed, .init = set_up, .fini = tear_down)
{
	static char big[CONTROL_LINE_MAX + 4096];
	static const char binary[] = "\0\1\2\377\n";

	memset(big, '{', sizeof(big));
	expect_refusal("hello\n", 6);
	expect_refusal("[1]\n", 4);
	expect_refusal(binary, sizeof(binary) - 1);
	expect_refusal(big, sizeof(big));
}

static bool is_open(int fd)
{
	char byte;

	return recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN;
}

static void ask_and_take_answer(int fd)
{
	char text[512];

	cr_assert_gt((int)send(fd, "{\"command\":\"status\"}\n", 21, MSG_NOSIGNAL), 0);
	serve();
	cr_assert_gt((int)recv(fd, text, sizeof(text), MSG_DONTWAIT), 0);
}

/* Silent ones must not lock the socket: those who have asked something stay. */
Test(control, many_clients__the_idlest_gives_way, .init = set_up, .fini = tear_down)
{
	int fds[20];

	for (int i = 0; i < 20; i++) {
		fds[i] = connect_raw();
		serve();
		if (i == 0)
			ask_and_take_answer(fds[i]);
	}
	cr_expect(is_open(fds[0]));
	for (int i = 1; i <= 4; i++)
		cr_expect_not(is_open(fds[i]), "client %d", i);
	for (int i = 5; i < 20; i++)
		cr_expect(is_open(fds[i]), "client %d", i);
	ask_and_take_answer(fds[19]);
	for (int i = 0; i < 20; i++)
		close(fds[i]);
	serve();
	expect_refusal("x\n", 2);
}

/* Not an event again and again: serve() would not come back. */
Test(control, no_descriptors_left__closed_and_no_busy_loop, .init = set_up, .fini = tear_down)
{
	struct rlimit before, limit;
	int fd = connect_raw();
	int next = dup(fd);

	cr_assert_geq(next, 0);
	close(next);
	cr_assert_eq(getrlimit(RLIMIT_NOFILE, &before), 0);
	limit = before;
	limit.rlim_cur = (rlim_t)next;
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
	serve();
	cr_assert_eq(setrlimit(RLIMIT_NOFILE, &before), 0);
	cr_expect_not(is_open(fd));
	close(fd);
	fd = connect_raw();
	ask_and_take_answer(fd);
	close(fd);
}

Test(control, path_in_use__refused, .init = set_up, .fini = tear_down)
{
	int fd;

	cr_assert_eq(control_listen(path, &fd), -EADDRINUSE);
}

Test(control, path_of_a_dead_process__taken_over, .init = cr_redirect_stderr)
{
	char dead[] = "/tmp/vmferry-test-dead-XXXXXX";
	int fd = mkstemp(dead);

	close(fd);
	cr_assert_eq(control_listen(dead, &fd), -EADDRINUSE, "a file is not a socket");
	unlink(dead);
	cr_assert_eq(control_listen(dead, &fd), 0);
	close(fd);
	cr_assert_eq(control_listen(dead, &fd), 0);
	close(fd);
	unlink(dead);
}

Test(control, path_too_long__refused, .init = cr_redirect_stderr)
{
	char longer[200];
	int fd;

	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	cr_assert_eq(control_listen(longer, &fd), -ENAMETOOLONG);
}
