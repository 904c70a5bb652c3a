/* SPDX-License-Identifier: MIT */
/*
 * A client of QEMU's monitor protocol (QMP) over a unix socket. QEMU serves one client a socket at
 * a time: a second one connects, and gets no greeting until the first has gone.
 *
 * Deadlines are absolute, as vmferry_now() counts. A connection belongs to one thread at a time.
 */
#ifndef QEMU_QMP_H
#define QEMU_QMP_H

#include <stdint.h>

struct json_object;
struct qmp;

/* Connects to the socket at @path, reads the greeting and leaves capability negotiation. */
int qmp_open(const char *path, uint64_t deadline, struct qmp **qmp);

/*
 * The same over @fd, a connected stream socket, which is the connection's from now on, also on
 * failure. @name is for the log.
 */
int qmp_open_fd(int fd, const char *name, uint64_t deadline, struct qmp **qmp);

/* Accepts a pointer to NULL. */
void qmp_close(struct qmp **qmp);

/*
 * Runs @command and waits for its result, which is the caller's to put; @result NULL: not wanted.
 * @arguments (NULL for none) are taken over. -EREMOTEIO: QEMU refused, its words are logged and
 * kept for qmp_error(). Any other error ends the connection: -ETIMEDOUT, -EPIPE (QEMU closed it),
 * -EPROTO.
 */
int qmp_execute(struct qmp *qmp, const char *command, struct json_object *arguments,
		uint64_t deadline, struct json_object **result);

/*
 * As qmp_execute(), but a refusal is only logged as debug: for questions that not every QEMU knows.
 */
int qmp_ask(struct qmp *qmp, const char *command, struct json_object *arguments, uint64_t deadline,
	    struct json_object **result);

/* What QEMU said when it refused the last command, as "Class: description"; "" when it did not. */
const char *qmp_error(const struct qmp *qmp);

/* Runs a line of the human monitor; @text is the caller's to free. */
int qmp_hmp(struct qmp *qmp, const char *line, uint64_t deadline, char **text);

/*
 * The next event, in order, also of those that came during qmp_execute(); the caller puts it.
 * -ETIMEDOUT keeps the connection. The 64 newest events are kept.
 */
int qmp_event(struct qmp *qmp, uint64_t deadline, struct json_object **event);

/*
 * To be polled for input. Events that are queued already do not show there: take them until
 * -ETIMEDOUT first.
 */
int qmp_fd(const struct qmp *qmp);

/* QEMU's version from the greeting: major * 10000 + minor * 100 + micro. */
unsigned int qmp_version(const struct qmp *qmp);

#endif
