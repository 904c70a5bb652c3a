/* SPDX-License-Identifier: MIT */
/*
 * The library's log lines: to standard error, and the last error kept, to be told to whoever asked
 * for what failed.
 */
#ifndef CLI_LOG_H
#define CLI_LOG_H

#include <pthread.h>
#include <stdbool.h>

#include <vmferry/vmferry.h>

#define LOG_LINE_MAX 512

struct log {
	pthread_mutex_t lock; /* of last_error */
	char last_error[LOG_LINE_MAX];
	bool terminal; /* a progress line may stand on it */
};

void log_init(struct log *log);

/*
 * Sends the lines of library and VMM, of @level and more severe, to @log, which must outlive their
 * use.
 */
void log_open(struct log *log, enum vmferry_log_level level);

/* Copies the last error and forgets it; @otherwise when there was none. */
void log_take_error(struct log *log, char text[LOG_LINE_MAX], const char *otherwise);

#endif
