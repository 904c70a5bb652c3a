/* SPDX-License-Identifier: MIT */
#include "log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

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

void replace_control_characters(char *text, size_t length)
{
	unsigned char *c = (unsigned char *)text;

	for (size_t i = 0; i < length; i++) {
		if (c[i] < ' ' || c[i] == 0x7f)
			c[i] = '?';
		else if (c[i] == 0xc2 && i + 1 < length && c[i + 1] >= 0x80 && c[i + 1] < 0xa0)
			c[i] = c[i + 1] = '?';
	}
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
	replace_control_characters(line, strlen(line));
	sink.fn(sink.ctx, level, line);
}
