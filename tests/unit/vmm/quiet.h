/* SPDX-License-Identifier: MIT */
/*
 * The VMM's last log line, so that a test sees the reason, and nothing on standard error where
 * refusals are wanted.
 */
#ifndef TEST_VMM_QUIET_H
#define TEST_VMM_QUIET_H

#include <stdbool.h>

void quiet(void);

/* The last line since quiet(), "" if there was none. */
const char *last_line(void);

/* Whether that line has @words in it. */
bool said(const char *words);

#endif
