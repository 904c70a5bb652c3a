/* SPDX-License-Identifier: MIT */
/* signalfd(2); no handler and no state of the process but the signal mask. */
#include "signals.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "units.h"

int signals_open(int *fd)
{
	sigset_t set;
	int rc;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	signal(SIGPIPE, SIG_IGN);
	rc = sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
	if (rc == 0)
		*fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (rc == 0 && *fd < 0)
		rc = -errno;
	if (rc < 0)
		fprintf(stderr, "vmferry: signals: %s: free descriptors\n", strerror(-rc));
	return rc;
}

bool signals_take(int fd)
{
	struct signalfd_siginfo info;
	bool any = false;

	while (read(fd, &info, sizeof(info)) == (ssize_t)sizeof(info))
		any = true;
	return any;
}

bool signals_sleep(int fd, uint64_t deadline)
{
	struct pollfd pfd = {.fd = fd, .events = POLLIN};

	for (;;) {
		uint64_t now = vmferry_now();

		if (now >= deadline)
			return false;
		if (poll(&pfd, 1, (int)((deadline - now + NS_PER_MS - 1) / NS_PER_MS)) > 0)
			return signals_take(fd);
	}
}
