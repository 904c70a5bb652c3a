/* SPDX-License-Identifier: MIT */
/*
 * A QMP connection that goes wrong: it ends, and nothing that comes later is taken for an answer.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "migrator/qemu/log.h"
#include "monitor.h"

static struct monitor monitor;
static struct json_object *result;

static void ignore(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)level;
	(void)line;
	++*(unsigned int *)ctx;
}

static unsigned int lines;

static void quiet(void)
{
	qemu_set_log(ignore, &lines, VMFERRY_LOG_WARN);
}

TestSuite(qmp_wrong, .init = quiet);

/* The open fails with @error, and says why once. */
static void expect_refused(const char *said, int error)
{
	lines = 0;
	cr_expect_eq(monitor_open(&monitor, said), error, "%s", said);
	cr_expect_null(monitor.qmp);
	cr_expect_eq(lines, 1);
	monitor_free(&monitor);
}

Test(qmp_wrong, greeting__that_is_none)
{
	expect_refused("QEMU 7.2.17 monitor - type 'help'", -EPROTO);
	expect_refused("{\"hello\": 1}", -EPROTO);
	expect_refused("[]", -EPROTO);
	expect_refused("42 ", -EPROTO);
	expect_refused(GREETING "{\"error\": {\"class\": \"a\", \"desc\": \"b\"}, \"id\": 1}",
		       -EREMOTEIO);
}

Test(qmp_wrong, greeting__that_does_not_come)
{
	monitor_new(&monitor);
	cr_expect_eq(qmp_open_fd(monitor.client, "test", near(), &monitor.qmp), -ETIMEDOUT);
	cr_expect_null(monitor.qmp);
	monitor_free(&monitor);
}

Test(qmp_wrong, closed__at_once_and_later)
{
	monitor_new(&monitor);
	close(monitor.fd);
	monitor.fd = -1;
	cr_expect_eq(qmp_open_fd(monitor.client, "test", far(), &monitor.qmp), -EPIPE);
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	close(monitor.fd);
	monitor.fd = -1;
	cr_expect_eq(qmp_execute(monitor.qmp, "x", NULL, far(), NULL), -EPIPE);
	cr_expect_eq(qmp_event(monitor.qmp, far(), &result), -EPIPE);
	monitor_free(&monitor);
}

/* The command fails with @error, and so does all that follows, though an answer is there. */
static void expect_broken(const char *said, int error)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, said);
	cr_expect_eq(qmp_execute(monitor.qmp, "x", NULL, far(), &result), error, "%s", said);
	monitor_say(&monitor, "{\"return\": {}, \"id\": 3}");
	cr_expect_eq(qmp_execute(monitor.qmp, "y", json_object_new_object(), far(), &result),
		     -EPIPE);
	cr_expect_eq(qmp_event(monitor.qmp, far(), &result), -EPIPE);
	monitor_free(&monitor);
}

Test(qmp_wrong, answers__that_are_none)
{
	expect_broken("{\"return\": {}, \"id\": 1}", -EPROTO);
	expect_broken("{\"return\": {}, \"id\": \"2\"}", -EPROTO);
	expect_broken("{\"return\": {}}", -EPROTO);
	expect_broken("{\"id\": 2}", -EPROTO);
	expect_broken("{\"id\": 2, \"error\": \"text\"}", -EPROTO);
	expect_broken("{]", -EPROTO);
	expect_broken("\"text\"", -EPROTO);
	expect_broken("null\r\n", -EPROTO);
}

Test(qmp_wrong, hmp__whose_result_is_no_text)
{
	char *text;

	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, "{\"return\": {}, \"id\": 2}");
	cr_expect_eq(qmp_hmp(monitor.qmp, "info x", far(), &text), -EPROTO);
	monitor_free(&monitor);
}

Test(qmp_wrong, zero_byte)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	cr_assert_eq(write(monitor.fd, "{\"ret\0urn\": {}, \"id\": 2}", 24), 24);
	cr_expect_eq(qmp_execute(monitor.qmp, "x", NULL, far(), NULL), -EPROTO);
	monitor_free(&monitor);
}

Test(qmp_wrong, deep__nesting)
{
	char text[256] = "{\"id\": 2, \"return\": ";

	memset(text + strlen(text), '[', 100);
	expect_broken(text, -EPROTO);
}

Test(qmp_wrong, silence__until_the_deadline_breaks_it)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	cr_expect_eq(qmp_execute(monitor.qmp, "x", NULL, near(), NULL), -ETIMEDOUT);
	monitor_say(&monitor, "{\"return\": {}, \"id\": 2}");
	cr_expect_eq(qmp_execute(monitor.qmp, "y", NULL, far(), NULL), -EPIPE);
	monitor_free(&monitor);
}

Test(qmp_wrong, deadline_in_the_past__tries_once)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, "{\"event\": \"A\"}");
	cr_expect_eq(qmp_event(monitor.qmp, 0, &result), 0);
	json_object_put(result);
	cr_expect_eq(qmp_event(monitor.qmp, 0, &result), -ETIMEDOUT);
	monitor_free(&monitor);
}

/* An answer that does not end: 8 MiB of it are read, and no more. */
static void *say_endlessly(void *argument)
{
	static char text[65536];

	(void)argument;
	memset(text, 'x', sizeof(text));
	if (send(monitor.fd, "{\"a\": \"", 7, MSG_NOSIGNAL) != 7)
		return NULL;
	while (send(monitor.fd, text, sizeof(text), MSG_NOSIGNAL) > 0)
		;
	return NULL;
}

Test(qmp_wrong, message_without_end)
{
	pthread_t thread;

	cr_assert_eq(monitor_open(&monitor, READY), 0);
	cr_assert_eq(pthread_create(&thread, NULL, say_endlessly, NULL), 0);
	cr_expect_eq(qmp_execute(monitor.qmp, "x", NULL, far(), NULL), -EPROTO);
	qmp_close(&monitor.qmp);
	pthread_join(thread, NULL);
	monitor_free(&monitor);
}

/* QEMU that does not read: the command does not fit into the socket. */
Test(qmp_wrong, command_that_is_not_read)
{
	char *text = calloc(1, 4 << 20);

	cr_assert(text);
	memset(text, 'x', (4 << 20) - 1);
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	cr_expect_eq(qmp_execute(monitor.qmp, text, NULL, near(), NULL), -ETIMEDOUT);
	free(text);
	monitor_free(&monitor);
}

Test(qmp_wrong, socket__that_nobody_listens_at)
{
	char path[200];

	cr_expect_eq(qmp_open("/nonexistent/qmp", near(), &monitor.qmp), -ENOENT);
	memset(path, 'x', sizeof(path) - 1);
	path[sizeof(path) - 1] = '\0';
	cr_expect_eq(qmp_open(path, near(), &monitor.qmp), -ENAMETOOLONG);
}
