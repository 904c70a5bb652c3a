/* SPDX-License-Identifier: MIT */
/* Lines come from any thread; stdio keeps each of them whole. */
#include "log.h"

#include <stdio.h>
#include <unistd.h>

#include "../qemu/log.h"
#include "../vmm/vmm.h"

static void take_line(void *ctx, enum vmferry_log_level level, const char *line)
{
	static const char *const names[] = {"error: ", "warning: ", "", "debug: "};
	struct log *log = ctx;

	if (level == VMFERRY_LOG_ERROR) {
		pthread_mutex_lock(&log->lock);
		snprintf(log->last_error, sizeof(log->last_error), "%s", line);
		pthread_mutex_unlock(&log->lock);
	}
	fprintf(stderr, "%svmferry: %s%s\n", log->terminal ? "\r\033[K" : "", names[level], line);
}

void log_init(struct log *log)
{
	pthread_mutex_init(&log->lock, NULL);
	log->last_error[0] = '\0';
	log->terminal = isatty(STDERR_FILENO) == 1;
}

void log_open(struct log *log, enum vmferry_log_level level)
{
	vmferry_set_log(take_line, log, level);
	vmm_set_log(take_line, log, level);
	qemu_set_log(take_line, log, level);
}

void log_take_error(struct log *log, char text[LOG_LINE_MAX], const char *otherwise)
{
	pthread_mutex_lock(&log->lock);
	snprintf(text, LOG_LINE_MAX, "%s",
		 log->last_error[0] != '\0' ? log->last_error : otherwise);
	log->last_error[0] = '\0';
	pthread_mutex_unlock(&log->lock);
}
