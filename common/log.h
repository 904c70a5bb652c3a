/* SPDX-License-Identifier: MIT */
/* The library's one way to say something. Lines read "object id: what happened: cause: remedy". */
#ifndef COMMON_LOG_H
#define COMMON_LOG_H

#include <vmferry/vmferry.h>

__attribute__((format(printf, 2, 3))) void log_line(enum vmferry_log_level level, const char *fmt,
						    ...);

#define log_error(...) log_line(VMFERRY_LOG_ERROR, __VA_ARGS__)
#define log_warn(...)  log_line(VMFERRY_LOG_WARN, __VA_ARGS__)
#define log_info(...)  log_line(VMFERRY_LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_line(VMFERRY_LOG_DEBUG, __VA_ARGS__)

#endif
