/* SPDX-License-Identifier: MIT */
/* What the library logged. */
#ifndef TEST_KEPT_H
#define TEST_KEPT_H

#include <stdbool.h>

/* Keeps all lines from now on; whether one of them holds @text. */
void log_keep(void);
void log_forget(void);
bool log_has(const char *text);

#endif
