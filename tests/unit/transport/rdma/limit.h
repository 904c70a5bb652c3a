/* SPDX-License-Identifier: MIT */
#ifndef TEST_LIMIT_H
#define TEST_LIMIT_H

#include <stdint.h>

/*
 * This process may pin so many bytes from now on, or fewer where its hard limit is lower; no matter
 * whether it is root.
 */
void limit_memlock(uint64_t bytes);

#endif
