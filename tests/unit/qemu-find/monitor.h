/* SPDX-License-Identifier: MIT */
/* The other end of a QMP connection: what it says stands in the socket before it is read. */
#ifndef TESTS_QEMU_FIND_MONITOR_H
#define TESTS_QEMU_FIND_MONITOR_H

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>

#include "migrator/qemu/qmp.h"

#define GREETING                                                                           \
	"{\"QMP\": {\"version\": {\"qemu\": {\"micro\": 17, \"minor\": 2, \"major\": 7}, " \
	"\"package\": \"Debian\"}, \"capabilities\": [\"oob\"]}}\r\n"
#define READY GREETING "{\"return\": {}, \"id\": 1}\r\n"

struct monitor {
	int fd;
	int client; /* the other end, which a connection takes */
	struct qmp *qmp;
};

void monitor_new(struct monitor *monitor);
void monitor_free(struct monitor *monitor);

void monitor_say(struct monitor *monitor, const char *text);

/* Says @said and opens the connection; returns what that gave. */
int monitor_open(struct monitor *monitor, const char *said);

/*
 * Says the results of the commands from number @id on, each when its command has come, in a thread;
 * "error" for one that is refused. NULL ends them. monitor_script_end() waits until all are said,
 * and gives what was heard; static.
 */
struct monitor_script {
	struct monitor *monitor;
	unsigned int id;
	const char *const *results;
	pthread_t thread;
	char heard[8192];
	size_t length;
};

void monitor_script(struct monitor_script *script, struct monitor *monitor, unsigned int id,
		    const char *const *results);
const char *monitor_script_end(struct monitor_script *script);

/* The line of one result. */
void monitor_answer(struct monitor *monitor, unsigned int id, const char *result);

/* What the client has sent so far. */
const char *monitor_heard(struct monitor *monitor);

/* One that no test reaches, and one that each silent test reaches. */
uint64_t far(void);
uint64_t near(void);

#endif
