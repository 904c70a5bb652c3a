/* SPDX-License-Identifier: MIT */
#include "channel.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "measure.h"

#define LINE_MAX_BYTES (16u << 20)

void channel_connect(struct channel *c, const char *name, const char *path, uint64_t deadline)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};

	*c = (struct channel){.name = name};
	if (strlen(path) >= sizeof(address.sun_path))
		die("%s: the path is too long for a socket", path);
	memcpy(address.sun_path, path, strlen(path) + 1);
	c->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("socket: %s", strerror(errno));
	while (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0) {
		if (now_ns() >= deadline)
			die("%s: %s: %s", name, path, strerror(errno));
		sleep_ns(5 * NS_PER_MS);
	}
}

void channel_close(struct channel *c)
{
	close(c->fd);
	free(c->line);
}

void channel_send_text(struct channel *c, const char *json)
{
	size_t length = strlen(json);

	if (send(c->fd, json, length, MSG_NOSIGNAL) != (ssize_t)length ||
	    send(c->fd, "\n", 1, MSG_NOSIGNAL) != 1)
		die("%s: cannot send: %s", c->name, strerror(errno));
}

void channel_send(struct channel *c, struct json_object *object)
{
	channel_send_text(c, json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
	json_object_put(object);
}

enum { ENDED = -1, LATE, FILLED };

/* A peer that ends with input unread resets the connection. */
static int fill(struct channel *c, uint64_t deadline)
{
	struct pollfd p = {.fd = c->fd, .events = POLLIN};
	uint64_t now = now_ns();
	ssize_t n;

	if (poll(&p, 1, now < deadline ? (int)((deadline - now) / NS_PER_MS) + 1 : 0) == 0)
		return LATE;
	if (c->room - c->have < 4096) {
		c->room = c->room * 2 + 65536;
		if (c->room > LINE_MAX_BYTES)
			die("%s: a line without an end", c->name);
		c->line = realloc(c->line, c->room);
		if (c->line == NULL)
			die("out of memory");
	}
	n = read(c->fd, c->line + c->have, c->room - c->have);
	if (n == 0 || (n < 0 && errno == ECONNRESET))
		return ENDED;
	if (n < 0 && errno != EINTR)
		die("%s: %s", c->name, strerror(errno));
	c->have += n > 0 ? (size_t)n : 0;
	return FILLED;
}

/*
 * The next object; NULL when @deadline has passed or the process has ended, which @state tells
 * apart.
 */
static struct json_object *next(struct channel *c, uint64_t deadline, int *state)
{
	struct json_object *object;
	size_t length;
	char *end;

	*state = FILLED;
	while (c->have == 0 || (end = memchr(c->line, '\n', c->have)) == NULL) {
		*state = fill(c, deadline);
		if (*state != FILLED)
			return NULL;
	}
	*end = '\0';
	object = json_tokener_parse(c->line);
	if (object == NULL)
		die("%s: not JSON: %s", c->name, c->line);
	length = (size_t)(end - c->line) + 1;
	c->have -= length;
	memmove(c->line, end + 1, c->have);
	return object;
}

struct json_object *channel_next(struct channel *c, uint64_t deadline)
{
	int state;
	struct json_object *object = next(c, deadline, &state);

	if (state == ENDED)
		die("%s: the process ended", c->name);
	return object;
}

bool channel_answers(struct channel *c, const char *name, uint64_t deadline)
{
	struct json_object *object;
	bool found = false;
	int state;

	while (!found && (object = next(c, deadline, &state)) != NULL) {
		found = json_object_object_get_ex(object, name, NULL);
		json_object_put(object);
	}
	if (!found && state == LATE)
		die("%s: no answer in time", c->name);
	return found;
}

struct json_object *channel_await(struct channel *c, const char *name, const char *value,
				  uint64_t deadline)
{
	for (;;) {
		struct json_object *object = channel_next(c, deadline);
		struct json_object *found;

		if (object == NULL)
			die("%s: no answer in time", c->name);
		if (json_object_object_get_ex(object, "error", NULL) ||
		    strcmp(member_text(object, "event"), "error") == 0)
			die("%s: %s", c->name, json_object_to_json_string(object));
		if (json_object_object_get_ex(object, name, &found) &&
		    (value == NULL || strcmp(json_object_get_string(found), value) == 0))
			return object;
		json_object_put(object);
	}
}

void channel_await_text(struct channel *c, const char *text, uint64_t deadline)
{
	while (c->have == 0 || memmem(c->line, c->have, text, strlen(text)) == NULL) {
		size_t before = c->have;

		int state = fill(c, deadline);

		if (state == ENDED)
			die("%s: the process ended", c->name);
		if (state == LATE)
			die("%s: not done in time: the last it said: %.*s", c->name, (int)before,
			    c->line);
		/* Whole lines without it are of no interest, but for the last. */
		if (before > 0 && c->line[before - 1] == '\n') {
			c->have -= before;
			memmove(c->line, c->line + before, c->have);
		}
	}
}

struct json_object *member(struct json_object *object, const char *path)
{
	while (object != NULL && *path != '\0') {
		size_t length = strcspn(path, "/");
		char name[64];

		snprintf(name, sizeof(name), "%.*s", (int)length, path);
		if (!json_object_object_get_ex(object, name, &object))
			return NULL;
		path += length + (path[length] == '/');
	}
	return object;
}

const char *member_text(struct json_object *object, const char *path)
{
	struct json_object *found = member(object, path);

	return found == NULL ? "" : json_object_get_string(found);
}

uint64_t member_number(struct json_object *object, const char *path)
{
	return json_object_get_uint64(member(object, path));
}
