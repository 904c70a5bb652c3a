/* SPDX-License-Identifier: MIT */
/*
 * A stretch of network between source and destination: hands the bytes of TCP connections on, and
 * cuts them when the test says so. In threads of this process; one at a time.
 */
#ifndef TEST_CUTTER_H
#define TEST_CUTTER_H

#include <stdint.h>

/* Hands on to @uri, "tcp:127.0.0.1:PORT". Returns the URI where it listens. */
const char *cutter_open(const char *uri);
void cutter_close(void);

/* Resets all connections: both ends see so at once. How many there were. */
unsigned int cutter_cut(void);

/*
 * Resets the connection that was made as the @number-th, from 0, of those that are open: the first
 * is a session's control connection.
 */
void cutter_cut_one(unsigned int number);

/*
 * From now on bytes are swallowed, and nobody is told; new connections, too, are taken and not
 * served. Until cutter_mend().
 */
void cutter_freeze(void);

/* Nobody listens any more. */
void cutter_refuse(void);

/* What was frozen is reset, and what comes from now on is served. */
void cutter_mend(void);

/* How many connections have been made. */
unsigned int cutter_count(void);

#endif
