/* SPDX-License-Identifier: MIT */
#ifndef COMMON_DISCARD_H
#define COMMON_DISCARD_H

#include <stdint.h>

/*
 * Gives whole pages back to the system, shared or anonymous ones: they read as zeroes then. A
 * negative errno of madvise(2).
 */
int discard_pages(void *base, uint64_t size);

#endif
