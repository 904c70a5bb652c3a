/* SPDX-License-Identifier: MIT */
/* What the library logged. */
#ifndef TEST_KEPT_H
#define TEST_KEPT_H

#include <stdbool.h>

/* Keeps all lines from now on; whether one of them holds @text. */
void log_keep(void);
void log_forget(void);
bool log_has(const char *text);

/* The same, and waits for it, as a line of another thread's may still be to come. */
bool log_will_have(const char *text);

#endif
