/* SPDX-License-Identifier: MIT */
/* A QMP connection that goes well: answers, refusals, events. */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "monitor.h"

static struct monitor monitor;
static struct json_object *result;

static void expect_event(const char *name)
{
	struct json_object *event;

	cr_assert_eq(qmp_event(monitor.qmp, far(), &event), 0);
	cr_expect_str_eq(json_object_get_string(json_object_object_get(event, "event")), name);
	json_object_put(event);
}

Test(qmp, open__greets_and_negotiates)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	cr_expect_eq(qmp_version(monitor.qmp), 70217);
	cr_expect_str_eq(monitor_heard(&monitor), "{\"execute\":\"qmp_capabilities\",\"id\":1}\n");
	monitor_free(&monitor);
}

Test(qmp, execute__sends_arguments_and_gives_the_result)
{
	struct json_object *arguments = json_object_new_object();

	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_heard(&monitor);
	json_object_object_add(arguments, "path", json_object_new_string("/machine"));
	monitor_say(&monitor, "{\"return\": [1, 2], \"id\": 2}\r\n");
	cr_assert_eq(qmp_execute(monitor.qmp, "qom-list", arguments, far(), &result), 0);
	cr_expect_eq(json_object_array_length(result), 2);
	json_object_put(result);
	cr_expect_str_eq(monitor_heard(&monitor),
			 "{\"execute\":\"qom-list\",\"arguments\":{\"path\":"
			 "\"\\/machine\"},\"id\":2}\n");
	monitor_free(&monitor);
}

Test(qmp, execute__a_refusal_is_told_and_the_connection_goes_on)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, "{\"id\": 2, \"error\": {\"class\": \"CommandNotFound\", \"desc\": "
			      "\"no such\"}}\r\n{\"return\": {}, \"id\": 3}");
	cr_expect_eq(qmp_execute(monitor.qmp, "x", NULL, far(), &result), -EREMOTEIO);
	cr_expect_str_eq(qmp_error(monitor.qmp), "CommandNotFound: no such");
	cr_expect_eq(qmp_execute(monitor.qmp, "stop", NULL, far(), NULL), 0);
	cr_expect_str_eq(qmp_error(monitor.qmp), "");
	monitor_free(&monitor);
}

Test(qmp, events__between_command_and_answer_are_kept_in_order)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor,
		    "{\"event\": \"A\"}{\"event\": \"B\"}\r\n{\"return\": {}, \"id\": 2}\n"
		    "{\"event\": \"C\"}");
	cr_assert_eq(qmp_execute(monitor.qmp, "x", NULL, far(), NULL), 0);
	expect_event("A");
	expect_event("B");
	expect_event("C");
	cr_expect_eq(qmp_event(monitor.qmp, near(), &result), -ETIMEDOUT);
	/* A timeout of events does not end it. */
	monitor_say(&monitor, "{\"event\": \"D\"}");
	expect_event("D");
	monitor_free(&monitor);
}

Test(qmp, events__half_of_one_is_waited_for_again)
{
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, "{\"event\": \"MIGR");
	cr_expect_eq(qmp_event(monitor.qmp, near(), &result), -ETIMEDOUT);
	monitor_say(&monitor, "ATION\", \"data\": {\"status\": \"completed\"}}\r\n");
	expect_event("MIGRATION");
	monitor_free(&monitor);
}

Test(qmp, events__the_newest_64_are_kept)
{
	char text[64];

	cr_assert_eq(monitor_open(&monitor, READY), 0);
	for (int i = 0; i < 70; i++) {
		snprintf(text, sizeof(text), "{\"event\": \"E%d\"}\r\n", i);
		monitor_say(&monitor, text);
	}
	monitor_say(&monitor, "{\"return\": {}, \"id\": 2}");
	cr_assert_eq(qmp_execute(monitor.qmp, "x", NULL, far(), NULL), 0);
	for (int i = 6; i < 70; i++) {
		snprintf(text, sizeof(text), "E%d", i);
		expect_event(text);
	}
	cr_expect_eq(qmp_event(monitor.qmp, near(), &result), -ETIMEDOUT);
	monitor_free(&monitor);
}

Test(qmp, hmp__gives_the_text)
{
	char *text;

	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_heard(&monitor);
	monitor_say(&monitor, "{\"return\": \"a\\r\\nb\\r\\n\", \"id\": 2}");
	cr_assert_eq(qmp_hmp(monitor.qmp, "info x", far(), &text), 0);
	cr_expect_str_eq(text, "a\r\nb\r\n");
	cr_expect(strstr(monitor_heard(&monitor), "{\"command-line\":\"info x\"}") != NULL);
	free(text);
	monitor_free(&monitor);
}

Test(qmp, fd__is_readable_when_something_came)
{
	struct pollfd fd;

	cr_assert_eq(monitor_open(&monitor, READY), 0);
	fd = (struct pollfd){.fd = qmp_fd(monitor.qmp), .events = POLLIN};
	cr_expect_eq(poll(&fd, 1, 0), 0);
	monitor_say(&monitor, "{\"event\": \"A\"}");
	cr_expect_eq(poll(&fd, 1, 0), 1);
	monitor_free(&monitor);
}

static void *say_byte_by_byte(void *text)
{
	for (const char *byte = text; *byte != '\0'; byte++)
		if (write(monitor.fd, byte, 1) != 1)
			break;
	return NULL;
}

Test(qmp, bytes_one_by_one__make_the_same)
{
	static char text[] = READY "{\"return\": {\"a\": \"\\u00e4\\\"}\"}, \"id\": 2}";
	pthread_t thread;

	monitor_new(&monitor);
	cr_assert_eq(pthread_create(&thread, NULL, say_byte_by_byte, text), 0);
	cr_assert_eq(qmp_open_fd(monitor.client, "test", far(), &monitor.qmp), 0);
	cr_assert_eq(qmp_execute(monitor.qmp, "x", NULL, far(), &result), 0);
	cr_expect_str_eq(json_object_get_string(json_object_object_get(result, "a")), "\u00e4\"}");
	json_object_put(result);
	pthread_join(thread, NULL);
	monitor_free(&monitor);
}
