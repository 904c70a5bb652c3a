/* SPDX-License-Identifier: MIT */
/* Keeps the last line of the VMM's and of the library's log. */
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "migrator/vmm/vmm.h"
#include "quiet.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char last[512];

static void keep(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	pthread_mutex_lock(&lock);
	snprintf(last, sizeof(last), "%s", line);
	pthread_mutex_unlock(&lock);
}

void quiet(void)
{
	last[0] = '\0';
	vmm_set_log(keep, NULL, VMFERRY_LOG_WARN);
	vmferry_set_log(keep, NULL, VMFERRY_LOG_WARN);
}

const char *last_line(void)
{
	return last;
}

bool said(const char *words)
{
	return strstr(last, words) != NULL;
}
