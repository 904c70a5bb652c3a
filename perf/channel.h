/* SPDX-License-Identifier: MIT */
/*
 * Lines of JSON over a stream socket: vmferry's control socket and QEMU's monitor protocol are both
 * that. Like measure.h, this ends the program when something fails.
 */
#ifndef PERF_CHANNEL_H
#define PERF_CHANNEL_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stdint.h>

struct channel {
	const char *name; /* for messages */
	int fd;
	char *line;
	size_t have;
	size_t room;
};

/* Connects to a unix socket, which may not be there yet. */
void channel_connect(struct channel *c, const char *name, const char *path, uint64_t deadline);
void channel_close(struct channel *c);

/* Takes @object over. */
void channel_send(struct channel *c, struct json_object *object);
void channel_send_text(struct channel *c, const char *json);

/* The next object, which is the caller's. NULL when @deadline has passed. */
struct json_object *channel_next(struct channel *c, uint64_t deadline);

/*
 * The next object that has the member @name (with @value, unless that is NULL); others are passed
 * over.
 */
struct json_object *channel_await(struct channel *c, const char *name, const char *value,
				  uint64_t deadline);

/*
 * Whether an object with the member @name comes before the process ends, which is no failure here.
 */
bool channel_answers(struct channel *c, const char *name, uint64_t deadline);

/*
 * Returns as soon as @text has been received, without looking further: it is still to be taken by
 * one of the above.
 */
void channel_await_text(struct channel *c, const char *text, uint64_t deadline);

/* A member's text or number; "" and 0 if it is not there. @path may go down: "ram/transferred". */
struct json_object *member(struct json_object *object, const char *path);
const char *member_text(struct json_object *object, const char *path);
uint64_t member_number(struct json_object *object, const char *path);

#endif
