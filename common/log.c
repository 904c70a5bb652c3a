/* SPDX-License-Identifier: MIT */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>

#define LINE_MAX_BYTES 1024

/* Written before other threads use the library, only read afterwards (see vmferry_set_log). */
static struct {
	vmferry_log_fn fn;
	void *ctx;
	enum vmferry_log_level level;
} sink;

void vmferry_set_log(vmferry_log_fn fn, void *ctx, enum vmferry_log_level level)
{
	sink.fn = fn;
	sink.ctx = ctx;
	sink.level = level;
}

void log_line(enum vmferry_log_level level, const char *fmt, ...)
{
	char line[LINE_MAX_BYTES];
	va_list args;

	if (sink.fn == NULL || level > sink.level)
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	sink.fn(sink.ctx, level, line);
}
