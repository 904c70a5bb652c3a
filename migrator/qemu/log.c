/* SPDX-License-Identifier: MIT */
/* The library's log functions are private to it, and the adaptor sees public headers only. */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>

#define LINE_MAX_BYTES 512

static void print_line(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	fprintf(stderr, "%s\n", line);
}

static vmferry_log_fn sink = print_line;
static void *sink_ctx;
static enum vmferry_log_level sink_level = VMFERRY_LOG_WARN;

void qemu_set_log(vmferry_log_fn fn, void *ctx, enum vmferry_log_level level)
{
	sink = fn;
	sink_ctx = ctx;
	sink_level = level;
}

void qemu_log(enum vmferry_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	va_list ap;

	if (!sink || level > sink_level)
		return;
	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	sink(sink_ctx, level, line);
}
