/* SPDX-License-Identifier: MIT */
/*
 * A clock that the test moves. It stands in for CLOCK_MONOTONIC, and for the waits with a deadline
 * of that clock, in executables that CMake builds with FAKE_CLOCK: the linker wraps
 * clock_gettime(), poll(), ppoll(), epoll_wait() and pthread_cond_clockwait(). Until
 * fake_clock_stop() all of these are the real ones.
 *
 * With the clock stopped no deadline passes by itself, however busy the machine: whatever ends a
 * wait then is the event that it is for. A wait that no event ends lasts until the time limit of
 * the test, which is one of the real clock.
 */
#ifndef TEST_FAKE_CLOCK_H
#define TEST_FAKE_CLOCK_H

#include <stdbool.h>
#include <stdint.h>

/* Stops the clock at the present time, for the rest of the process. */
void fake_clock_stop(void);

/*
 * Moves the stopped clock on. Waits in other threads whose deadlines have passed by that end within
 * a millisecond or two.
 */
void fake_clock_pass(uint64_t ns);

/*
 * Whether waits of the calling thread take no time: one that finds no event when it begins moves
 * the clock to its deadline and ends there. For waits that no event is to end; one that is under
 * way would be missed.
 */
void fake_clock_rush(bool rush);

/*
 * From now on @waits, if not NULL, counts each wait of the calling thread that finds no event when
 * it begins.
 */
void fake_clock_watch(_Atomic unsigned int *waits);

/* Until a watched thread waits; false if it still does not after seconds of the real clock. */
bool fake_clock_waits(const _Atomic unsigned int *waits);

#endif
