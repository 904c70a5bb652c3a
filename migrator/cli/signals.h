/* SPDX-License-Identifier: MIT */
/*
 * Ctrl-C and its kin as a file descriptor, so that they come in order with everything else a poll
 * loop sees.
 */
#ifndef CLI_SIGNALS_H
#define CLI_SIGNALS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Blocks SIGINT, SIGTERM and SIGHUP, ignores SIGPIPE, and gives an fd that is readable when one of
 * them came. Call it before any thread is made, since threads inherit what is blocked. A negative
 * errno is printed.
 */
int signals_open(int *fd);

/* Takes all signals that have come; true if there was one. */
bool signals_take(int fd);

/* Sleeps until @deadline; true if a signal came before that. */
bool signals_sleep(int fd, uint64_t deadline);

#endif
