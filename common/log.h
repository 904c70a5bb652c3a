/* SPDX-License-Identifier: MIT */
/* The library's one way to say something. Lines read "object id: what happened: cause: remedy". */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <stddef.h>

#include <vmferry/vmferry.h>

/*
 * Puts '?' in place of C0, DEL and C1 (in UTF-8): text from a peer must not end a line and forge
 * the next, nor send escape sequences to a terminal. log_line() does so with every line.
 */
void replace_control_characters(char *text, size_t length);

__attribute__((format(printf, 2, 3))) void log_line(enum vmferry_log_level level, const char *fmt,
						    ...);

#define log_error(...) log_line(VMFERRY_LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(VMFERRY_LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(VMFERRY_LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(VMFERRY_LOG_DEBUG, __VA_ARGS__)

#endif
