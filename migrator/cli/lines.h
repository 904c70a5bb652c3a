/* SPDX-License-Identifier: MIT */
/* JSON over a stream socket, one object a line, with a limit on what a line may cost. */
#ifndef CLI_LINES_H
#define CLI_LINES_H

#include <stddef.h>
#include <stdint.h>

struct json_object;

struct lines {
	char *data;
	size_t used;
	size_t consumed; /* bytes of lines that were handed out */
	size_t size;
	size_t limit; /* of one line, bytes */
};

void lines_init(struct lines *lines, size_t limit);
void lines_free(struct lines *lines);

/*
 * Reads what is there without waiting: bytes read, 0 at the end, -EAGAIN, -EMSGSIZE for a line
 * beyond the limit.
 */
int lines_read(struct lines *lines, int fd);

/*
 * The next complete line as text, NULL when there is none; valid until the next call with @lines.
 */
const char *lines_next(struct lines *lines);

/*
 * A JSON object from text that has nothing else in it; NULL if it is anything else. The caller puts
 * it.
 */
struct json_object *lines_parse(const char *text);

/*
 * Sends one object as a line; takes the reference. Waits until @deadline at most; then, as with
 * every error, part of a line may have been sent.
 */
int lines_send(int fd, struct json_object *object, uint64_t deadline);

#endif
