/* SPDX-License-Identifier: MIT */
/* An assertion for code that the unit tests share with the fuzzers, which know no Criterion. */
#ifndef TEST_QEMU_MUST_H
#define TEST_QEMU_MUST_H

#include <stdio.h>
#include <stdlib.h>

#define must(condition) ((condition) ? (void)0 : must_fail(__FILE__, __LINE__, #condition, ""))
/* Says in addition what it is about. */
#define must_for(condition, what) \
	((condition) ? (void)0 : must_fail(__FILE__, __LINE__, #condition, what))

static inline void must_fail(const char *file, int line, const char *condition, const char *what)
{
	fprintf(stderr, "%s:%d: not true: %s %s\n", file, line, condition, what);
	abort();
}

#endif
