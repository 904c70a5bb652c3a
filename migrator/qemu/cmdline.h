/* SPDX-License-Identifier: MIT */
/* What QEMU's command line says of how it treats an incoming guest. */
#ifndef QEMU_CMDLINE_H
#define QEMU_CMDLINE_H

#include <stdbool.h>
#include <stddef.h>

#define CMDLINE_NAME_MAX 256

struct cmdline {
	bool paused;   /* -S */
	bool incoming; /* -incoming */
	bool deferred; /* -incoming defer */
	char name[CMDLINE_NAME_MAX];
};

/*
 * @text: /proc/PID/cmdline, arguments that each end with a zero byte. In doubt @paused is false:
 * taking a guest that starts by itself for a paused one is how two guests come to run.
 */
void cmdline_parse(const char *text, size_t bytes, struct cmdline *cmdline);

#endif
