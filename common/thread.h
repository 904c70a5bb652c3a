/* SPDX-License-Identifier: MIT */
/* Every thread of the library is started here. */
#ifndef COMMON_THREAD_H
#define COMMON_THREAD_H

#include <pthread.h>

#define THREAD_NAME_MAX 16 /* with its end; the kernel's limit */

/*
 * Starts a joinable thread called @name, which is cut to THREAD_NAME_MAX. All signals are blocked
 * in it: they belong to the program, which does not know of this thread. Returns 0 or -errno, and
 * logs nothing.
 */
int thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg);

#endif
