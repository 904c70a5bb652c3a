/* SPDX-License-Identifier: MIT */
/* This process is QEMU here, and listens itself. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migrator/qemu/send_buffers.h"

#define BYTES (1u << 20)

static char directory[] = "/tmp/send-buffers-XXXXXX";
static char paths[2][64];
static int listeners[2];

static int unix_socket(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	snprintf(address->sun_path, sizeof(address->sun_path), "%s", path);
	return socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
}

static void setup(void)
{
	struct sockaddr_un address;

	cr_assert_not_null(mkdtemp(directory));
	for (int i = 0; i < 2; i++) {
		snprintf(paths[i], sizeof(paths[i]), "%s/%d", directory, i);
		listeners[i] = unix_socket(paths[i], &address);
		cr_assert_eq(bind(listeners[i], (struct sockaddr *)&address, sizeof(address)), 0);
		cr_assert_eq(listen(listeners[i], 8), 0);
	}
}

static void teardown(void)
{
	for (int i = 0; i < 2; i++)
		unlink(paths[i]);
	rmdir(directory);
}

TestSuite(send_buffers, .init = setup, .fini = teardown, .timeout = 60);

static int connected(int listener)
{
	struct sockaddr_un address;
	int fd = unix_socket(paths[listener], &address);

	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

static uint32_t size_of(int fd)
{
	uint32_t bytes = 0;
	socklen_t length = sizeof(bytes);

	cr_assert_eq(getsockopt(fd, SOL_SOCKET, SO_SNDBUF, &bytes, &length), 0);
	return bytes;
}

/* SO_SNDBUFFORCE is for those who may configure the network: others keep what they have. */
Test(send_buffers, set__those_that_lead_to_the_path_and_no_others)
{
	int ours[] = {connected(0), connected(0)}, other = connected(1);
	int here = accept(listeners[0], NULL, NULL);
	uint32_t before = size_of(ours[0]);
	int ret = send_buffers_set(getpid(), paths[0], BYTES);

	if (ret == -EPERM) {
		cr_expect_neq(geteuid(), 0);
		cr_skip("no right to CAP_NET_ADMIN's SO_SNDBUFFORCE");
	}
	cr_expect_eq(ret, 2);
	cr_expect_eq(size_of(ours[0]), BYTES);
	cr_expect_eq(size_of(ours[1]), BYTES);
	cr_expect_eq(size_of(other), before);
	cr_expect_eq(size_of(here), before);
	cr_expect_eq(size_of(listeners[0]), before);
}

Test(send_buffers, borrowed_for_the_call_only__closing_is_seen)
{
	int fd = connected(0), here = accept(listeners[0], NULL, NULL);
	char byte;

	send_buffers_set(getpid(), paths[0], BYTES);
	close(fd);
	cr_expect_eq(recv(here, &byte, 1, MSG_DONTWAIT), 0);
}

Test(send_buffers, nobody_connected__none)
{
	cr_expect_eq(send_buffers_set(getpid(), "/nowhere", BYTES), 0);
}

Test(send_buffers, process_gone__esrch)
{
	pid_t pid = fork();

	if (pid == 0)
		_exit(0);
	cr_assert_eq(waitpid(pid, NULL, 0), pid);
	cr_expect_eq(send_buffers_set(pid, paths[0], BYTES), -ESRCH);
}
