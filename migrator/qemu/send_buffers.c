/* SPDX-License-Identifier: MIT */
#include "send_buffers.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* By its name first: other descriptors of QEMU are not to be touched, not even for a moment. */
static bool is_socket(int directory, const char *fd)
{
	static const char start[] = "socket:";
	char name[sizeof(start)] = "";

	return readlinkat(directory, fd, name, sizeof(start) - 1) > 0 && strcmp(name, start) == 0;
}

static bool leads_to(int fd, const char *path)
{
	struct sockaddr_un peer = {0};
	socklen_t length = sizeof(peer);

	/* What is no unix socket has another family, and what is not connected no peer. */
	return getpeername(fd, (struct sockaddr *)&peer, &length) == 0 &&
	       peer.sun_family == AF_UNIX &&
	       strncmp(peer.sun_path, path, sizeof(peer.sun_path)) == 0;
}

/* 1: it was one of those that are meant. */
static int set_one(int pidfd, int number, const char *path, uint32_t bytes)
{
	/* The kernel doubles it, to leave room for its own bookkeeping (socket(7)). */
	const int value = (int)(bytes / 2);
	int fd = (int)syscall(SYS_pidfd_getfd, pidfd, number, 0);
	int ret = 0;

	if (fd < 0)
		/* EBADF: it has just been closed. */
		return errno == EBADF ? 0 : -errno;
	if (leads_to(fd, path))
		ret = setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &value, sizeof(value)) < 0 ? -errno
											    : 1;
	/* At once: as long as it is open here, QEMU's own closing would not be seen. */
	close(fd);
	return ret;
}

static int set_all(int pidfd, DIR *directory, const char *path, uint32_t bytes)
{
	struct dirent *entry;
	int count = 0;

	while ((entry = readdir(directory)) != NULL) {
		int ret;

		if (!is_socket(dirfd(directory), entry->d_name))
			continue;
		ret = set_one(pidfd, atoi(entry->d_name), path, bytes);
		if (ret < 0)
			return ret;
		count += ret;
	}
	return count;
}

int send_buffers_set(pid_t pid, const char *path, uint32_t bytes)
{
	char name[64];
	DIR *directory;
	int ret;
	int pidfd = (int)syscall(SYS_pidfd_open, pid, 0);

	if (pidfd < 0)
		return -errno;
	snprintf(name, sizeof(name), "/proc/%d/fd", (int)pid);
	directory = opendir(name);
	ret = directory == NULL ? -errno : set_all(pidfd, directory, path, bytes);
	if (directory != NULL)
		closedir(directory);
	close(pidfd);
	return ret;
}
