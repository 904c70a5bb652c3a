/* SPDX-License-Identifier: MIT */
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "cmdline.h"
#include "log.h"

#define CMDLINE_MAX_BYTES (1U << 20)
#define PATH_BYTES	  64

/* Reads the command line into @text; returns its length or a negative errno. */
static ssize_t read_cmdline(pid_t pid, char *text)
{
	char path[PATH_BYTES];
	size_t bytes = 0;
	ssize_t got;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	do {
		got = read(fd, text + bytes, CMDLINE_MAX_BYTES - bytes);
		bytes += got > 0 ? (size_t)got : 0;
	} while (got > 0);
	if (got < 0)
		got = -errno;
	else
		got = bytes == CMDLINE_MAX_BYTES ? -E2BIG : (ssize_t)bytes;
	close(fd);
	return got;
}

static int take_cmdline(struct qemu_process *process)
{
	char *text = malloc(CMDLINE_MAX_BYTES);
	struct cmdline cmdline;
	ssize_t bytes;

	if (text == NULL)
		return -ENOMEM;
	bytes = read_cmdline(process->pid, text);
	if (bytes > 0) {
		cmdline_parse(text, (size_t)bytes, &cmdline);
		process->autostart = !cmdline.paused;
		process->incoming = cmdline.incoming;
		process->deferred = cmdline.deferred;
		snprintf(process->name, sizeof(process->name), "%s", cmdline.name);
	}
	free(text);
	/* A zombie has none. */
	return bytes > 0 ? 0 : bytes == 0 ? -ESRCH : (int)bytes;
}

/*
 * The kernel judges whether we may before it looks at the address, which is none: it answers
 * -EFAULT if we may.
 */
static bool is_accessible(pid_t pid)
{
	char byte;
	const struct iovec local = {.iov_base = &byte, .iov_len = 1};
	const struct iovec remote = {.iov_base = NULL, .iov_len = 1};

	return process_vm_readv(pid, &local, 1, &remote, 1, 0) >= 0 || errno == EFAULT;
}

bool qemu_process_alive(const struct qemu_process *process)
{
	struct pollfd poll_fd = {.fd = process->pidfd, .events = POLLIN};

	return process->pidfd >= 0 && poll(&poll_fd, 1, 0) == 0;
}

int qemu_process_open(pid_t pid, struct qemu_process *process)
{
	struct qemu_process new = {.pid = pid};
	int status;

	new.pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (new.pidfd < 0) {
		status = -errno;
		qemu_error("process %d: open failed: %s", pid, strerror(errno));
		return status;
	}
	status = take_cmdline(&new);
	new.accessible = is_accessible(pid);
	/*
	 * It lives still: what was read above was of this process and of none that was given its
	 * number.
	 */
	if (status == 0 && !qemu_process_alive(&new))
		status = -ESRCH;
	if (status < 0) {
		qemu_error("process %d: reading its command line failed: %s", pid,
			   strerror(-status));
		qemu_process_close(&new);
		return status;
	}
	*process = new;
	return 0;
}

int qemu_process_of_socket(int fd, struct qemu_process *process)
{
	struct ucred peer;
	socklen_t length = sizeof(peer);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) {
		const int status = -errno;

		qemu_error("incoming socket: SO_PEERCRED failed: %s", strerror(errno));
		return status;
	}
	if (peer.pid <= 0) {
		qemu_error("incoming socket: its process is in a PID namespace that is not visible "
			   "from here; share the host's PID namespace with this process");
		return -ENXIO;
	}
	return qemu_process_open(peer.pid, process);
}

void qemu_process_close(struct qemu_process *process)
{
	if (process->pidfd >= 0)
		close(process->pidfd);
	process->pidfd = -1;
}
