/* SPDX-License-Identifier: MIT */
/* A buffer grows to its limit and no further; a peer that sends more in one line is refused. */
#include "lines.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <vmferry/vmferry.h>

#include "units.h"

#define FIRST_SIZE 4096u

void lines_init(struct lines *lines, size_t limit)
{
	*lines = (struct lines){.limit = limit};
}

void lines_free(struct lines *lines)
{
	free(lines->data);
	lines->data = NULL;
	lines->used = 0;
	lines->size = 0;
	lines->consumed = 0;
}

/* Drops the lines that were handed out. */
static void compact(struct lines *lines)
{
	if (lines->consumed == 0)
		return;
	memmove(lines->data, lines->data + lines->consumed, lines->used - lines->consumed);
	lines->used -= lines->consumed;
	lines->consumed = 0;
}

static int make_room(struct lines *lines)
{
	size_t size = lines->size == 0 ? FIRST_SIZE : lines->size * 2;
	char *data;

	compact(lines);
	if (lines->used < lines->size)
		return 0;
	if (lines->size == lines->limit)
		return -EMSGSIZE;
	if (size > lines->limit)
		size = lines->limit;
	data = realloc(lines->data, size);
	if (data == NULL)
		return -ENOMEM;
	lines->data = data;
	lines->size = size;
	return 0;
}

int lines_read(struct lines *lines, int fd)
{
	ssize_t got;
	int rc;

	rc = make_room(lines);
	if (rc < 0)
		return rc;
	do {
		got = recv(fd, lines->data + lines->used, lines->size - lines->used, MSG_DONTWAIT);
	} while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	lines->used += (size_t)got;
	return (int)got;
}

const char *lines_next(struct lines *lines)
{
	const char *line;
	char *end;

	if (lines->used == lines->consumed)
		return NULL;
	line = lines->data + lines->consumed;
	end = memchr(line, '\n', lines->used - lines->consumed);
	if (end == NULL)
		return NULL;
	*end = '\0';
	lines->consumed = (size_t)(end + 1 - lines->data);
	return line;
}

struct json_object *lines_parse(const char *text)
{
	struct json_object *object;
	struct json_tokener *tokener;

	tokener = json_tokener_new();
	if (tokener == NULL)
		return NULL;
	json_tokener_set_flags(tokener, JSON_TOKENER_STRICT);
	object = json_tokener_parse_ex(tokener, text, (int)strlen(text) + 1);
	if (json_tokener_get_error(tokener) != json_tokener_success ||
	    !json_object_is_type(object, json_type_object)) {
		json_object_put(object);
		object = NULL;
	}
	json_tokener_free(tokener);
	return object;
}

static int poll_ms(uint64_t deadline)
{
	uint64_t now = vmferry_now();

	return now >= deadline ? 0 : (int)((deadline - now + NS_PER_MS - 1) / NS_PER_MS);
}

static int send_all(int fd, const char *data, size_t length, uint64_t deadline)
{
	struct pollfd pfd = {.fd = fd, .events = POLLOUT};

	while (length > 0) {
		ssize_t sent = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent >= 0) {
			data += sent;
			length -= (size_t)sent;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (errno == EAGAIN && poll(&pfd, 1, poll_ms(deadline)) == 0)
			return -ETIMEDOUT;
	}
	return 0;
}

int lines_send(int fd, struct json_object *object, uint64_t deadline)
{
	const char *text = json_object_to_json_string_ext(
		object, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	size_t length = text == NULL ? 0 : strlen(text);
	char *line = text == NULL ? NULL : malloc(length + 1);
	int rc = -ENOMEM;

	if (line != NULL) {
		memcpy(line, text, length + 1);
		line[length] = '\n';
		rc = send_all(fd, line, length + 1, deadline);
	}
	free(line);
	json_object_put(object);
	return rc;
}
