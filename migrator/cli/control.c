/* SPDX-License-Identifier: MIT */
/* One epoll instance over the listener and the clients, so that the host polls a single fd. */
#include "control.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "lines.h"
#include "units.h"

#define CLIENTS_MAX   16
#define LISTENER_ID   0
#define SEND_WAIT_NS  NS_PER_S
#define EVENTS_MAX    8
#define GREETING_HINT "one JSON object a line, like {\"command\":\"status\"}"

struct client {
	uint64_t id; /* 0: free */
	int fd;
	bool has_asked;
	uint64_t used_ns; /* when it has said or was told something */
	struct lines lines;
};

struct control {
	int listen_fd;
	int epoll_fd;
	int reserve_fd; /* to be given up when there is none for a client; -1: none */
	uint64_t next_id;
	char *path;
	struct client clients[CLIENTS_MAX];
};

/* ---- the socket ------------------------------------------------------------------------------ */

static int fill_address(const char *path, struct sockaddr_un *address)
{
	*address = (struct sockaddr_un){.sun_family = AF_UNIX};
	if (strlen(path) >= sizeof(address->sun_path))
		return -ENAMETOOLONG;
	memcpy(address->sun_path, path, strlen(path) + 1);
	return 0;
}

/* Removes a socket that nobody listens at; -EADDRINUSE if somebody does or it is not a socket. */
static int remove_stale(const char *path, const struct sockaddr_un *address)
{
	struct stat st;
	int fd;
	int rc;

	if (lstat(path, &st) < 0)
		return -errno;
	if (!S_ISSOCK(st.st_mode))
		return -EADDRINUSE;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	rc = connect(fd, (const struct sockaddr *)address, sizeof(*address)) < 0 ? -errno : 0;
	close(fd);
	if (rc != -ECONNREFUSED)
		return -EADDRINUSE;
	return unlink(path) < 0 ? -errno : 0;
}

static int bind_listen(int fd, const char *path)
{
	struct sockaddr_un address;
	int rc;

	rc = fill_address(path, &address);
	if (rc < 0)
		return rc;
	/*
	 * The mode of the fd becomes that of the path, so there is no moment in which others could
	 * connect.
	 */
	if (fchmod(fd, 0600) < 0)
		return -errno;
	if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0) {
		if (errno != EADDRINUSE)
			return -errno;
		rc = remove_stale(path, &address);
		if (rc < 0)
			return rc;
		if (bind(fd, (const struct sockaddr *)&address, sizeof(address)) < 0)
			return -errno;
	}
	return listen(fd, CLIENTS_MAX) < 0 ? -errno : 0;
}

int control_listen(const char *path, int *fd)
{
	int listen_fd;
	int rc;

	listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	rc = listen_fd < 0 ? -errno : bind_listen(listen_fd, path);
	if (rc < 0) {
		fprintf(stderr,
			"vmferry: control socket %s: %s: choose another path with --control\n",
			path, strerror(-rc));
		if (listen_fd >= 0)
			close(listen_fd);
		return rc;
	}
	*fd = listen_fd;
	return 0;
}

/* ---- clients --------------------------------------------------------------------------------- */

static struct client *find_client(struct control *control, uint64_t id)
{
	for (unsigned int i = 0; i < CLIENTS_MAX; i++)
		if (control->clients[i].id == id)
			return &control->clients[i];
	return NULL;
}

static void drop(struct client *client)
{
	close(client->fd);
	lines_free(&client->lines);
	client->id = 0;
}

static int watch(struct control *control, int fd, uint64_t id)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = id};

	return epoll_ctl(control->epoll_fd, EPOLL_CTL_ADD, fd, &event) < 0 ? -errno : 0;
}

/*
 * The client to drop for a new one: one that has never asked anything, else the one idle longest.
 */
static struct client *find_idlest(struct control *control)
{
	struct client *idlest = &control->clients[0];

	for (unsigned int i = 1; i < CLIENTS_MAX; i++) {
		struct client *c = &control->clients[i];

		if (c->has_asked != idlest->has_asked ? idlest->has_asked
						      : c->used_ns < idlest->used_ns)
			idlest = c;
	}
	return idlest;
}

/*
 * A connection that cannot be accepted stays in the backlog, and epoll would report it again at
 * once. The reserved descriptor is closed so that it can be accepted and closed.
 */
static int accept_without_descriptors(struct control *control)
{
	int fd;

	close(control->reserve_fd);
	fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	if (fd >= 0)
		close(fd);
	control->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return -EMFILE;
}

static int accept_fd(struct control *control)
{
	int fd = accept4(control->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0 && (errno == EMFILE || errno == ENFILE) && control->reserve_fd >= 0)
		return accept_without_descriptors(control);
	return fd;
}

static void accept_client(struct control *control)
{
	struct client *client = find_client(control, 0);
	int fd = accept_fd(control);

	if (fd < 0)
		return;
	if (client == NULL) {
		client = find_idlest(control);
		drop(client);
	}
	if (watch(control, fd, control->next_id) < 0) {
		close(fd);
		return;
	}
	client->id = control->next_id++;
	client->fd = fd;
	client->has_asked = false;
	client->used_ns = vmferry_now();
	lines_init(&client->lines, CONTROL_LINE_MAX);
}

static void refuse(struct control *control, struct client *client, const char *why)
{
	control_send_error(control, client->id, why);
	if (client->id != 0)
		drop(client);
}

static void serve_client(struct control *control, struct client *client, control_fn fn, void *ctx)
{
	uint64_t id = client->id;
	const char *line;
	int rc;

	rc = lines_read(&client->lines, client->fd);
	if (rc == -EMSGSIZE) {
		refuse(control, client, "a line is longer than 64 KiB: send " GREETING_HINT);
		return;
	}
	if (rc <= 0) {
		if (rc != -EAGAIN)
			drop(client);
		return;
	}
	/* A request's handler may drop the client. */
	while (client->id == id && (line = lines_next(&client->lines)) != NULL) {
		struct json_object *request = lines_parse(line);

		if (request == NULL) {
			refuse(control, client, "not a request: send " GREETING_HINT);
			return;
		}
		client->has_asked = true;
		client->used_ns = vmferry_now();
		fn(ctx, id, request);
		json_object_put(request);
	}
}

void control_serve(struct control *control, control_fn fn, void *ctx)
{
	struct epoll_event events[EVENTS_MAX];
	int count;

	count = epoll_wait(control->epoll_fd, events, EVENTS_MAX, 0);
	for (int i = 0; i < count; i++) {
		struct client *client;

		if (events[i].data.u64 == LISTENER_ID) {
			accept_client(control);
			continue;
		}
		client = find_client(control, events[i].data.u64);
		if (client != NULL)
			serve_client(control, client, fn, ctx);
	}
}

void control_send(struct control *control, uint64_t client, struct json_object *object)
{
	struct client *to = client == 0 ? NULL : find_client(control, client);

	if (to == NULL) {
		json_object_put(object);
		return;
	}
	to->used_ns = vmferry_now();
	if (lines_send(to->fd, object, vmferry_now() + SEND_WAIT_NS) < 0)
		drop(to);
}

void control_send_error(struct control *control, uint64_t client, const char *message)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "event", json_object_new_string("error"));
	json_object_object_add(object, "message", json_object_new_string(message));
	control_send(control, client, object);
}

/* ---- lifetime -------------------------------------------------------------------------------- */

int control_fd(const struct control *control)
{
	return control->epoll_fd;
}

int control_new(int listen_fd, const char *path, struct control **control)
{
	struct control *c;
	int rc = -ENOMEM;

	c = calloc(1, sizeof(*c));
	if (c == NULL)
		goto err_close;
	c->listen_fd = listen_fd;
	c->reserve_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	c->next_id = LISTENER_ID + 1;
	c->path = strdup(path);
	if (c->path == NULL)
		goto err_free;
	c->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	rc = c->epoll_fd < 0 ? -errno : watch(c, listen_fd, LISTENER_ID);
	if (rc < 0)
		goto err_path;
	*control = c;
	return 0;

err_path:
	if (c->epoll_fd >= 0)
		close(c->epoll_fd);
	free(c->path);
err_free:
	if (c->reserve_fd >= 0)
		close(c->reserve_fd);
	free(c);
err_close:
	close(listen_fd);
	fprintf(stderr, "vmferry: control socket %s: %s: free memory or descriptors\n", path,
		strerror(-rc));
	return rc;
}

void control_free(struct control **control)
{
	struct control *c = *control;

	if (c == NULL)
		return;
	for (unsigned int i = 0; i < CLIENTS_MAX; i++)
		if (c->clients[i].id != 0)
			drop(&c->clients[i]);
	unlink(c->path);
	if (c->reserve_fd >= 0)
		close(c->reserve_fd);
	close(c->listen_fd);
	close(c->epoll_fd);
	free(c->path);
	free(c);
	*control = NULL;
}
