/* SPDX-License-Identifier: MIT */
/*
 * Sleeping on a 32-bit word: one system call wakes all vCPU threads, which is what a resume costs.
 */
#ifndef VMM_FUTEX_H
#define VMM_FUTEX_H

#include <limits.h>
#include <linux/futex.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/*
 * Returns when woken, when *@word is not @value, at the absolute CLOCK_MONOTONIC @deadline, or for
 * no reason.
 */
static inline void futex_wait(_Atomic uint32_t *word, uint32_t value, uint64_t deadline)
{
	struct timespec at = {
		.tv_sec = (time_t)(deadline / NS_PER_S),
		.tv_nsec = (long)(deadline % NS_PER_S),
	};

	/* BITSET, because its time is absolute. */
	syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, &at, NULL,
		FUTEX_BITSET_MATCH_ANY);
}

static inline void futex_wake_all(_Atomic uint32_t *word)
{
	syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

#endif
