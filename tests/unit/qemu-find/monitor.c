/* SPDX-License-Identifier: MIT */
#include "monitor.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

uint64_t far(void)
{
	return vmferry_now() + UINT64_C(60000000000);
}

uint64_t near(void)
{
	return vmferry_now() + 20000000;
}

void monitor_new(struct monitor *monitor)
{
	int ends[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
	*monitor = (struct monitor){.fd = ends[0], .client = ends[1]};
}

void monitor_free(struct monitor *monitor)
{
	qmp_close(&monitor->qmp);
	if (monitor->fd >= 0)
		close(monitor->fd);
}

void monitor_say(struct monitor *monitor, const char *text)
{
	cr_assert_eq(send(monitor->fd, text, strlen(text), MSG_NOSIGNAL), (ssize_t)strlen(text));
}

int monitor_open(struct monitor *monitor, const char *said)
{
	monitor_new(monitor);
	monitor_say(monitor, said);
	return qmp_open_fd(monitor->client, "test", far(), &monitor->qmp);
}

const char *monitor_heard(struct monitor *monitor)
{
	static char text[4096];
	const ssize_t length = recv(monitor->fd, text, sizeof(text) - 1, MSG_DONTWAIT);

	text[length > 0 ? length : 0] = '\0';
	return text;
}

void monitor_answer(struct monitor *monitor, unsigned int id, const char *result)
{
	char line[512];

	if (strcmp(result, "error") == 0)
		snprintf(line, sizeof(line),
			 "{\"error\": {\"class\": \"GenericError\", \"desc\": \"no\"}, \"id\": "
			 "%u}\r\n",
			 id);
	else
		snprintf(line, sizeof(line), "{\"return\": %s, \"id\": %u}\r\n", result, id);
	monitor_say(monitor, line);
}

/* A command is a line. */
static bool hear_line(struct monitor_script *script)
{
	while (script->length < sizeof(script->heard) - 1) {
		char *byte = script->heard + script->length;

		if (recv(script->monitor->fd, byte, 1, 0) != 1)
			return false;
		script->length++;
		if (*byte == '\n')
			return true;
	}
	return false;
}

static void *follow(void *argument)
{
	struct monitor_script *script = argument;

	for (unsigned int i = 0; script->results[i] != NULL && hear_line(script); i++)
		monitor_answer(script->monitor, script->id + i, script->results[i]);
	return NULL;
}

void monitor_script(struct monitor_script *script, struct monitor *monitor, unsigned int id,
		    const char *const *results)
{
	memset(script, 0, sizeof(*script));
	script->monitor = monitor;
	script->id = id;
	script->results = results;
	/* What was sent before has its answers. */
	monitor_heard(monitor);
	cr_assert_eq(pthread_create(&script->thread, NULL, follow, script), 0);
}

const char *monitor_script_end(struct monitor_script *script)
{
	pthread_join(script->thread, NULL);
	return script->heard;
}
