/* SPDX-License-Identifier: MIT */
#include "service.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include <vmferry/vmferry.h>

#include "units.h"

static void tell(const struct service *service, const char *state)
{
	int ret = sd_notify(0, state);

	if (ret < 0)
		fprintf(stderr,
			"vmferry %s: the service manager cannot be told: %s; check NOTIFY_SOCKET\n",
			service->command, strerror(-ret));
}

void service_open(struct service *service, const char *command)
{
	uint64_t watchdog_us;

	*service = (struct service){.command = command};
	/* sd_watchdog_enabled(3) recommends half of the time. */
	if (sd_watchdog_enabled(0, &watchdog_us) > 0)
		service->alive_every_ns = watchdog_us * NS_PER_US / 2;
}

static int refuse(const struct service *service, const char *name, const char *why)
{
	fprintf(stderr, "vmferry %s: socket '%s' of the service manager: %s\n", service->command,
		name, why);
	return -EINVAL;
}

static int examine(const struct service *service, const char *name, int fd,
		   char path[SERVICE_PATH_MAX])
{
	struct sockaddr_un address = {.sun_family = AF_UNSPEC};
	socklen_t length = sizeof(address);
	int flags;

	_Static_assert(sizeof(address.sun_path) == SERVICE_PATH_MAX, "the path has to fit");
	if (sd_is_socket_unix(fd, SOCK_STREAM, 1, NULL, 0) <= 0)
		return refuse(service, name,
			      "not a unix stream socket that listens; give ListenStream= a path");
	if (getsockname(fd, (struct sockaddr *)&address, &length) < 0)
		return refuse(service, name, strerror(errno));
	/* An abstract name begins with a zero byte; the destination could not connect to it. */
	if (address.sun_path[0] != '/')
		return refuse(service, name,
			      "not bound to an absolute path; give ListenStream= one");
	/* A path that fills the array has no zero byte behind it. */
	if (memchr(address.sun_path, '\0', sizeof(address.sun_path)) == NULL)
		return refuse(service, name,
			      "its path is too long; give ListenStream= a shorter one");
	/* systemd passes sockets in blocking mode. */
	flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return refuse(service, name, strerror(errno));
	snprintf(path, SERVICE_PATH_MAX, "%s", address.sun_path);
	return 0;
}

int service_socket(const struct service *service, char path[SERVICE_PATH_MAX], int *fd)
{
	char **names = NULL;
	int count = sd_listen_fds_with_names(1, &names);
	int ret;

	if (count == 0)
		return -ENOENT;
	if (count < 0)
		ret = refuse(service, "unknown", strerror(-count));
	else if (count > 1)
		ret = refuse(service, names[1], "one too many; start a service for each");
	else
		ret = examine(service, names[0], SD_LISTEN_FDS_START, path);
	if (ret == 0)
		*fd = SD_LISTEN_FDS_START;
	for (int i = 0; names != NULL && i < count; i++)
		free(names[i]);
	free(names);
	return ret;
}

void service_ready(const struct service *service, const char *status)
{
	char state[512];

	snprintf(state, sizeof(state), "READY=1\nSTATUS=%s", status);
	tell(service, state);
}

void service_alive(void *arg)
{
	struct service *service = arg;
	uint64_t now;

	if (service->alive_every_ns == 0)
		return;
	now = vmferry_now();
	if (now - service->alive_ns < service->alive_every_ns)
		return;
	service->alive_ns = now;
	tell(service, "WATCHDOG=1");
}

void service_stopping(const struct service *service)
{
	tell(service, "STOPPING=1");
}
