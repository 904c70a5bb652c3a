/* SPDX-License-Identifier: MIT */
#include "kept.h"

#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

static struct {
	pthread_mutex_t lock;
	char text[1 << 16];
	size_t used;
} kept = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void keep(void *ctx, enum vmferry_log_level level, const char *line)
{
	size_t length = strlen(line);

	(void)ctx;
	(void)level;
	pthread_mutex_lock(&kept.lock);
	if (kept.used + length + 2 < sizeof(kept.text)) {
		memcpy(kept.text + kept.used, line, length);
		kept.used += length;
		kept.text[kept.used++] = '\n';
	}
	pthread_mutex_unlock(&kept.lock);
}

void log_keep(void)
{
	vmferry_set_log(keep, NULL, VMFERRY_LOG_INFO);
}

void log_forget(void)
{
	pthread_mutex_lock(&kept.lock);
	memset(kept.text, 0, sizeof(kept.text));
	kept.used = 0;
	pthread_mutex_unlock(&kept.lock);
}

bool log_has(const char *text)
{
	bool found;

	pthread_mutex_lock(&kept.lock);
	found = strstr(kept.text, text) != NULL;
	pthread_mutex_unlock(&kept.lock);
	return found;
}

bool log_will_have(const char *text)
{
	for (int ms = 0; ms < 20000 && !log_has(text); ms++)
		usleep(1000);
	return log_has(text);
}
