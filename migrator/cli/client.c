/* SPDX-License-Identifier: MIT */
/*
 * Errors of connecting are printed here; those of a connection are the caller's, who knows what was
 * under way.
 */
#include "client.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "lines.h"
#include "units.h"

/* A report with very many rounds is longer than a request may be. */
#define ANSWER_MAX   (16u << 20)
#define SEND_WAIT_NS (5 * NS_PER_S)

struct client {
	int fd;
	struct lines lines;
};

static int connect_path(int fd, const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	if (strlen(path) >= sizeof(address.sun_path))
		return -ENAMETOOLONG;
	memcpy(address.sun_path, path, strlen(path) + 1);
	return connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0 ? -errno : 0;
}

int client_connect(const char *path, struct client **client)
{
	struct client *c;
	int rc = -ENOMEM;

	c = calloc(1, sizeof(*c));
	if (c == NULL)
		return rc;
	lines_init(&c->lines, ANSWER_MAX);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	rc = c->fd < 0 ? -errno : connect_path(c->fd, path);
	if (rc == 0) {
		*client = c;
		return 0;
	}
	fprintf(stderr,
		"vmferry: control socket %s: %s: name the socket that vmferry run or receive has "
		"printed, while it runs\n",
		path, strerror(-rc));
	client_free(&c);
	return rc;
}

void client_free(struct client **client)
{
	if (*client == NULL)
		return;
	if ((*client)->fd >= 0)
		close((*client)->fd);
	lines_free(&(*client)->lines);
	free(*client);
	*client = NULL;
}

int client_send(struct client *client, struct json_object *object)
{
	return lines_send(client->fd, object, vmferry_now() + SEND_WAIT_NS);
}

struct json_object *client_request(const char *name)
{
	struct json_object *request = json_object_new_object();

	json_object_object_add(request, "command", json_object_new_string(name));
	return request;
}

static int wait_readable(int fd, int signal_fd, uint64_t deadline)
{
	struct pollfd fds[] = {{.fd = fd, .events = POLLIN}, {.fd = signal_fd, .events = POLLIN}};
	uint64_t now = vmferry_now();
	int wait = now >= deadline ? 0 : (int)((deadline - now + NS_PER_MS - 1) / NS_PER_MS);
	int rc = poll(fds, 2, wait);

	if (rc < 0)
		return errno == EINTR ? 0 : -errno;
	if (rc == 0)
		return -ETIMEDOUT;
	return fds[1].revents != 0 ? -EINTR : 0;
}

int client_recv(struct client *client, int signal_fd, uint64_t deadline,
		struct json_object **object)
{
	const char *line;
	int rc;

	while ((line = lines_next(&client->lines)) == NULL) {
		rc = wait_readable(client->fd, signal_fd, deadline);
		if (rc < 0)
			return rc;
		rc = lines_read(&client->lines, client->fd);
		if (rc == 0)
			return -ECONNRESET;
		if (rc < 0 && rc != -EAGAIN)
			return rc;
	}
	*object = lines_parse(line);
	return *object == NULL ? -EPROTO : 0;
}

int client_ask(struct client *client, const char *name, int signal_fd, uint64_t deadline,
	       struct json_object **answer)
{
	int rc = client_send(client, client_request(name));

	return rc < 0 ? rc : client_recv(client, signal_fd, deadline, answer);
}
