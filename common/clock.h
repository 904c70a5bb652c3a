/* SPDX-License-Identifier: MIT */
/*
 * Deadlines: absolute CLOCK_MONOTONIC nanoseconds, and their forms for poll(2) and
 * pthread_cond_clockwait(3).
 */
#ifndef COMMON_CLOCK_H
#define COMMON_CLOCK_H

#include <time.h>

#include <vmferry/vmferry.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

/* CPU time of the calling thread in nanoseconds. */
uint64_t thread_cpu_ns(void);

/*
 * Milliseconds until @deadline, rounded up so that a wait does not end early and spin; 0 if it has
 * passed.
 */
int deadline_poll_ms(uint64_t deadline);

/* The deadline as a timespec, for pthread_cond_clockwait(CLOCK_MONOTONIC). */
struct timespec deadline_timespec(uint64_t deadline);

#endif
