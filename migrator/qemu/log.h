/* SPDX-License-Identifier: MIT */
/*
 * The adaptor's own log: lines read "object: operation failed: cause; remedy", as the library's do.
 */
#ifndef QEMU_LOG_H
#define QEMU_LOG_H

#include <vmferry/vmferry.h>

/* As vmferry_set_log(), for the adaptor's lines. Until it is called they go to standard error. */
void qemu_set_log(vmferry_log_fn fn, void *ctx, enum vmferry_log_level level);

__attribute__((format(printf, 2, 3))) void qemu_log(enum vmferry_log_level level, const char *fmt,
						    ...);

#define qemu_error(...) qemu_log(VMFERRY_LOG_ERROR, __VA_ARGS__)
#define qemu_warn(...)	qemu_log(VMFERRY_LOG_WARN, __VA_ARGS__)
#define qemu_info(...)	qemu_log(VMFERRY_LOG_INFO, __VA_ARGS__)
#define qemu_debug(...) qemu_log(VMFERRY_LOG_DEBUG, __VA_ARGS__)

#endif
