/* SPDX-License-Identifier: MIT */
/* The VMM's own log: lines read "object id: what happened: cause: remedy", as the library's do. */
#ifndef VMM_LOG_H
#define VMM_LOG_H

#include <vmferry/vmferry.h>

__attribute__((format(printf, 2, 3))) void vmm_log(enum vmferry_log_level level, const char *fmt,
						   ...);

#define vmm_error(...) vmm_log(VMFERRY_LOG_ERROR, __VA_ARGS__)
#define vmm_warn(...)  vmm_log(VMFERRY_LOG_WARN, __VA_ARGS__)
#define vmm_info(...)  vmm_log(VMFERRY_LOG_INFO, __VA_ARGS__)

#endif
