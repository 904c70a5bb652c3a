/* SPDX-License-Identifier: MIT */
/* qemu-send and qemu-receive as a service manager starts them. */
#include <criterion/criterion.h>
#include <fcntl.h>
#include <glob.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "program.h"

TestSuite(service, .timeout = 120, .init = work_set_up, .fini = work_tear_down);

#define HEAR_MS 30000
#define OWN_FDS 100 /* the test's own sockets are out of the way of those that it passes */

static int unix_socket(int type, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, type, 0);
	int high = fcntl(fd, F_DUPFD_CLOEXEC, OWN_FDS);

	close(fd);
	cr_assert_geq(high, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	cr_assert_eq(bind(high, (struct sockaddr *)&address, sizeof(address)), 0);
	return high;
}

static int listening_socket(const char *path)
{
	int fd = unix_socket(SOCK_STREAM, path);

	cr_assert_eq(listen(fd, 8), 0);
	return fd;
}

/* The manager's end of the notifications. */
static int open_manager(void)
{
	int fd = unix_socket(SOCK_DGRAM, work_path("notify"));

	setenv("NOTIFY_SOCKET", work_path("notify"), 1);
	return fd;
}

/* The next thing that the manager is told. */
static const char *hear(int manager)
{
	static char text[1024];
	struct pollfd p = {.fd = manager, .events = POLLIN};
	ssize_t n;

	cr_assert_eq(poll(&p, 1, HEAR_MS), 1, "the manager is told nothing");
	n = recv(manager, text, sizeof(text) - 1, 0);
	cr_assert_geq(n, 0);
	text[n] = '\0';
	return text;
}

static bool hears(int manager, const char *text)
{
	return strstr(hear(manager), text) != NULL;
}

#define PASS(program, fd, ...)                                                   \
	program_start_passing(program, (const char *const[]){__VA_ARGS__, NULL}, \
			      (const int[]){fd}, 1)

static int end(struct program *program)
{
	cr_assert_eq(kill(program->pid, SIGTERM), 0);
	return program_finish(program, 60);
}

Test(service, passed_socket__taken_with_its_path_and_kept)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	const char *path = work_path("qemu");
	int manager = open_manager(), passed = listening_socket(path);
	int client = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct pollfd p = {.fd = client, .events = POLLIN};
	struct program program;
	char ready[512];

	PASS(&program, passed, "qemu-send", "systemd:", "tcp:127.0.0.1:1", "--log", "error");
	snprintf(ready, sizeof(ready),
		 "READY=1\nSTATUS=listening at unix:%s for QEMU, sending to tcp:127.0.0.1:1", path);
	cr_assert_str_eq(hear(manager), ready);

	/* It serves that socket: a QEMU that cannot be brought anywhere is told so. */
	strcpy(address.sun_path, path);
	cr_assert_eq(connect(client, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(send(client, "QEVM", 4, MSG_NOSIGNAL), 4);
	cr_assert_eq(poll(&p, 1, HEAR_MS), 1);
	cr_assert_eq(kill(program.pid, 0), 0);

	cr_assert_eq(end(&program), 0);
	cr_assert_str_eq(hear(manager), "STOPPING=1");
	/* The socket is the manager's: the next one of its services gets it. */
	cr_assert_eq(access(path, F_OK), 0);
}

Test(service, path_of_the_passed_socket__may_be_named)
{
	const char *path = work_path("qemu");
	int manager = open_manager(), passed = listening_socket(path);
	struct program program;
	char name[PATH_BYTES + 8];

	snprintf(name, sizeof(name), "unix:%s", path);
	PASS(&program, passed, "qemu-send", name, "tcp:127.0.0.1:1");
	cr_assert(hears(manager, "READY=1"));
	cr_assert_eq(end(&program), 0);
}

/* Devices may come later: it serves, and says what is amiss now. */
Test(service, no_rdma_device__said_at_the_start)
{
	int manager = open_manager(), passed = listening_socket(work_path("qemu"));
	struct program program;
	glob_t devices = {0};

	PASS(&program, passed, "qemu-send", "systemd:", "tcp:127.0.0.1:1", "--transport", "rdma");
	cr_assert(hears(manager, "READY=1"));
	cr_assert_eq(end(&program), 0);
	cr_assert_eq(strstr(program_err(&program), "no RDMA device on this host") != NULL,
		     glob("/sys/class/infiniband/*", 0, NULL, &devices) == GLOB_NOMATCH, "%s",
		     program_err(&program));
	globfree(&devices);
}

static void refused(struct program *program, const char *why)
{
	cr_assert_eq(program_finish(program, 60), 2, "%s", program_err(program));
	cr_assert_not_null(strstr(program_err(program), why), "%s", program_err(program));
}

Test(service, sockets_that_cannot_serve__exit_2_and_say_why)
{
	int stream = listening_socket(work_path("stream"));
	const int two[] = {stream, listening_socket(work_path("another"))};
	int idle = unix_socket(SOCK_STREAM, work_path("idle"));
	int datagrams = unix_socket(SOCK_DGRAM, work_path("datagrams"));
	int nameless = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int high = fcntl(nameless, F_DUPFD_CLOEXEC, OWN_FDS);
	static const char *const words[] = {"qemu-send", "systemd:", "tcp:127.0.0.1:1", NULL};
	struct program program;

	close(nameless);
	/* The kernel gives it an abstract name. */
	cr_assert_eq(bind(high, &(struct sockaddr){.sa_family = AF_UNIX}, sizeof(sa_family_t)), 0);
	cr_assert_eq(listen(high, 1), 0);

	PASS(&program, idle, "qemu-send", "systemd:", "tcp:127.0.0.1:1");
	refused(&program, "'qemu-0' of the service manager: not a unix stream socket that listens");
	PASS(&program, datagrams, "qemu-send", "systemd:", "tcp:127.0.0.1:1");
	refused(&program, "not a unix stream socket that listens");
	PASS(&program, high, "qemu-send", "systemd:", "tcp:127.0.0.1:1");
	refused(&program, "not bound to an absolute path");
	PASS(&program, stream, "qemu-send", "unix:/another/path", "tcp:127.0.0.1:1");
	refused(&program, "has passed another socket");
	PASS(&program, stream, "qemu-send", "systemd:", "tcp:127.0.0.1:1", "--socket-group", "kvm");
	refused(&program, "give SocketGroup= there");
	program_start_passing(&program, words, two, 2);
	refused(&program, "'qemu-1' of the service manager: one too many");
	program_start(&program, words);
	refused(&program, "has passed no socket");
}

Test(service, receiver__says_where_it_listens)
{
	int manager = open_manager();
	struct program program;
	const char *ready;

	PROGRAM(&program, "qemu-receive", "tcp:127.0.0.1:0");
	ready = hear(manager);
	cr_assert_eq(strncmp(ready, "READY=1\nSTATUS=listening at tcp:127.0.0.1:", 42), 0, "%s",
		     ready);
	cr_assert_eq(end(&program), 0);
	cr_assert_str_eq(hear(manager), "STOPPING=1");
}

/* It would be restarted by its manager when no sign of life came in time. */
static void watched(struct program *program, int manager, const char *const *words)
{
	setenv("WATCHDOG_USEC", "2000000", 1);
	unsetenv("WATCHDOG_PID");
	program_start(program, words);
	cr_assert(hears(manager, "READY=1"));
	for (unsigned int i = 0; i < 3; i++)
		cr_assert_str_eq(hear(manager), "WATCHDOG=1");
	/* They come from the loop that serves: one that stands still sends none. */
	cr_assert_eq(end(program), 0);
	while (!hears(manager, "STOPPING=1"))
		;
}

Test(service, watchdog__fed_by_both)
{
	int manager = open_manager();
	struct program program;
	char name[PATH_BYTES + 8];

	snprintf(name, sizeof(name), "unix:%s", work_path("qemu"));
	watched(&program, manager,
		(const char *const[]){"qemu-send", name, "tcp:127.0.0.1:1", NULL});
	watched(&program, manager, (const char *const[]){"qemu-receive", "tcp:127.0.0.1:0", NULL});
}

Test(service, no_manager__no_word_of_it)
{
	struct program program;

	unsetenv("NOTIFY_SOCKET");
	PROGRAM(&program, "qemu-receive", "tcp:127.0.0.1:0");
	cr_assert(file_says(program.out, "listening at", 60));
	cr_assert_eq(end(&program), 0);
	cr_assert_str_eq(program_err(&program), "");
}

/* A manager that is gone is said once for each word to it, and hinders nothing. */
Test(service, manager_gone__serves_on)
{
	struct program program;

	setenv("NOTIFY_SOCKET", work_path("nobody"), 1);
	PROGRAM(&program, "qemu-receive", "tcp:127.0.0.1:0");
	cr_assert(file_says(program.err, "the service manager cannot be told", 60));
	cr_assert(file_says(program.out, "listening at", 60));
	cr_assert_eq(end(&program), 0);
}
