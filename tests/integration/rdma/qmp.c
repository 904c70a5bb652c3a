/* SPDX-License-Identifier: MIT */
/*
 * rdma-qmp SOCKET COMMAND [ARGUMENTS [POINTER...]] gives the QEMU at a monitor's socket a command,
 * with arguments as a JSON object. Prints the members of the result that the JSON pointers name,
 * one a line, and an empty line for one that is not there; without a pointer the whole result. Exit
 * status 1 if QEMU refused, did not answer or is not there.
 *
 * rdma-qmp SOCKET prints QEMU's events as they come, one a line, until QEMU ends: its time in ms
 * since 1970 by QEMU's own count, its name, and the status that it tells, if it does.
 */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>

#include <migrator/qemu/qmp.h>
#include <vmferry/vmferry.h>

/*
 * QEMU answers between two passes of its main loop, which an emulated processor may take seconds
 * for.
 */
#define ANSWER_NS 20000000000ull

static void print(struct json_object *result, int pointers, char **pointer)
{
	struct json_object *member;

	if (pointers == 0)
		puts(json_object_to_json_string_ext(result, JSON_C_TO_STRING_PLAIN));
	for (int i = 0; i < pointers; i++) {
		if (json_pointer_get(result, pointer[i], &member) < 0 || member == NULL)
			puts("");
		else
			puts(json_object_get_string(member));
	}
}

static const char *text_at(struct json_object *object, const char *pointer)
{
	struct json_object *member;

	if (json_pointer_get(object, pointer, &member) < 0 || member == NULL)
		return "";
	return json_object_get_string(member);
}

/* Milliseconds by the moment that QEMU gives each event. */
static unsigned long long time_of(struct json_object *event)
{
	struct json_object *seconds, *microseconds;

	if (json_pointer_get(event, "/timestamp/seconds", &seconds) < 0 ||
	    json_pointer_get(event, "/timestamp/microseconds", &microseconds) < 0)
		return 0;
	return (unsigned long long)json_object_get_int64(seconds) * 1000 +
	       (unsigned long long)json_object_get_int64(microseconds) / 1000;
}

static int watch(const char *path)
{
	struct json_object *event;
	struct qmp *qmp = NULL;
	int err = qmp_open(path, vmferry_now() + ANSWER_NS, &qmp);

	while (err == 0 || err == -ETIMEDOUT) {
		err = qmp_event(qmp, vmferry_now() + ANSWER_NS, &event);
		if (err < 0)
			continue;
		printf("%llu %s %s\n", time_of(event), text_at(event, "/event"),
		       text_at(event, "/data/status"));
		fflush(stdout);
		json_object_put(event);
	}
	qmp_close(&qmp);
	return err == -EPIPE ? 0 : err;
}

static int command(int argc, char **argv)
{
	uint64_t deadline = vmferry_now() + ANSWER_NS;
	struct json_object *arguments = NULL, *result;
	struct qmp *qmp = NULL;
	int err;

	if (argc > 3 && (arguments = json_tokener_parse(argv[3])) == NULL) {
		fprintf(stderr, "rdma-qmp: %s: not JSON\n", argv[3]);
		return -EINVAL;
	}
	err = qmp_open(argv[1], deadline, &qmp);
	if (err == 0)
		err = qmp_execute(qmp, argv[2], arguments, deadline, &result);
	else
		json_object_put(arguments);
	if (err == 0) {
		print(result, argc > 4 ? argc - 4 : 0, argv + 4);
		json_object_put(result);
	}
	qmp_close(&qmp);
	return err;
}

int main(int argc, char **argv)
{
	int err;

	if (argc < 2) {
		fputs("usage: rdma-qmp SOCKET [COMMAND [ARGUMENTS [POINTER...]]]\n", stderr);
		return EXIT_FAILURE;
	}
	err = argc == 2 ? watch(argv[1]) : command(argc, argv);
	return err == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
