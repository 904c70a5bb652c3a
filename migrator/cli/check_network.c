/* SPDX-License-Identifier: MIT */
/* What TCP will do with the lanes. */
#include "host_check.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void check_network(struct json_object *checks)
{
	struct check_item item = {.name = "TCP",
				  .required = true,
				  .remedy = "give this process a network stack with IPv4"};
	char name[16] = "unknown";
	socklen_t length = sizeof(name) - 1;
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	item.ok = fd >= 0;
	if (fd < 0) {
		check_add(checks, &item, "no socket: %s", strerror(errno));
		return;
	}
	getsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, name, &length);
	close(fd);
	check_add(checks, &item, "congestion control %s", name);
}
