/* SPDX-License-Identifier: MIT */
/*
 * Absolute times of CLOCK_MONOTONIC, as vmferry_now() counts them, for the calls that want another
 * form.
 */
#ifndef QEMU_MOMENT_H
#define QEMU_MOMENT_H

#include <stdint.h>
#include <time.h>

#include <vmferry/vmferry.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

static inline struct timespec moment_timespec(uint64_t moment)
{
	return (struct timespec){
		.tv_sec = (time_t)(moment / NS_PER_S),
		.tv_nsec = (long)(moment % NS_PER_S),
	};
}

/* For poll(2), rounded up. */
static inline int moment_poll_ms(uint64_t deadline)
{
	uint64_t now = vmferry_now();
	uint64_t ms = deadline > now ? (deadline - now + NS_PER_MS - 1) / NS_PER_MS : 0;

	return ms > 60000 ? 60000 : (int)ms;
}

#endif
