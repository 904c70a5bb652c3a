/* SPDX-License-Identifier: MIT */
/* Uses the program's own client for the control socket. */
#include "guests.h"

#include <criterion/criterion.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include <migrator/cli/client.h>
#include <vmferry/vmferry.h>

#define READY_SECONDS 60
#define SECOND_NS     1000000000ull

struct json_object *guest_status(const char *socket)
{
	struct json_object *status = NULL;
	struct client *client;

	if (client_connect(socket, &client) < 0)
		return NULL;
	client_ask(client, "status", -1, vmferry_now() + 20 * SECOND_NS, &status);
	client_free(&client);
	return status;
}

const char *text_of(struct json_object *object, const char *name)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, name, &value))
		return "";
	return json_object_get_string(value);
}

int64_t number_of(struct json_object *object, const char *name)
{
	struct json_object *value;

	cr_assert(json_object_object_get_ex(object, name, &value), "no %s", name);
	cr_assert(json_object_is_type(value, json_type_int) ||
			  json_object_is_type(value, json_type_double),
		  "%s is not a number", name);
	return json_object_get_int64(value);
}

static bool is_ready(const char *socket)
{
	struct json_object *status = guest_status(socket);
	bool ready = status != NULL && strcmp(text_of(status, "ready"), "true") == 0;

	json_object_put(status);
	return ready;
}

void guest_wait_ready(const char *socket)
{
	for (unsigned int i = 0; i < READY_SECONDS * 20; i++) {
		if (is_ready(socket))
			return;
		sleep_ms(50);
	}
	cr_assert_fail("the guest at %s did not get ready", socket);
}

/* The beats of the vCPU that has made the fewest. */
static int64_t least_beats(const char *socket)
{
	struct json_object *status = guest_status(socket);
	struct json_object *vcpus;
	int64_t least = INT64_MAX;

	cr_assert_not_null(status);
	cr_assert_str_eq(text_of(status, "state"), "running");
	cr_assert_eq(number_of(status, "faults"), 0);
	cr_assert(json_object_object_get_ex(status, "vcpus", &vcpus));
	for (size_t i = 0; i < json_object_array_length(vcpus); i++) {
		int64_t beats = number_of(json_object_array_get_idx(vcpus, i), "beats");

		least = beats < least ? beats : least;
	}
	json_object_put(status);
	return least;
}

void guest_assert_beats(const char *socket)
{
	int64_t before = least_beats(socket);

	for (unsigned int i = 0; i < 1200; i++) {
		sleep_ms(50);
		if (least_beats(socket) > before)
			return;
	}
	cr_assert_fail("a vCPU of the guest at %s does not beat", socket);
}

void receiver_uri(const char *socket, char uri[PATH_BYTES])
{
	for (unsigned int i = 0; i < 1200; i++) {
		struct json_object *status = guest_status(socket);

		snprintf(uri, PATH_BYTES, "%s", status == NULL ? "" : text_of(status, "uri"));
		json_object_put(status);
		if (*uri != '\0')
			return;
		sleep_ms(50);
	}
	cr_assert_fail("nobody waits at %s", socket);
}

int guest_quit(struct program *program, const char *socket)
{
	struct json_object *answer = NULL;
	struct client *client;

	cr_assert_eq(client_connect(socket, &client), 0);
	cr_assert_eq(client_ask(client, "quit", -1, vmferry_now() + 20 * SECOND_NS, &answer), 0);
	cr_assert_str_eq(text_of(answer, "event"), "quitting");
	json_object_put(answer);
	client_free(&client);
	return program_finish(program, 60);
}

struct json_object *json_from(const char *path)
{
	struct json_object *object = json_object_from_file(path);

	cr_assert_not_null(object, "%s: %s", path, json_util_get_last_err());
	cr_assert(json_object_is_type(object, json_type_object));
	return object;
}

static void assert_type(struct json_object *report, const char *name, enum json_type type)
{
	struct json_object *value;

	cr_assert(json_object_object_get_ex(report, name, &value), "no %s in the report", name);
	cr_assert_eq(json_object_get_type(value), type, "%s is a %s", name,
		     json_type_to_name(json_object_get_type(value)));
}

static void assert_present(struct json_object *report, const char *name)
{
	cr_assert(json_object_object_get_ex(report, name, NULL), "no %s in the report", name);
}

static void assert_completed(struct json_object *report)
{
	cr_assert_str_eq(text_of(report, "transport"), "tcp");
	cr_assert_geq(number_of(report, "lanes"), 1);
	cr_assert_gt(number_of(report, "total_us"), 0);
	cr_assert_gt(number_of(report, "blackout_us"), 0);
	cr_assert_leq(number_of(report, "blackout_us"), number_of(report, "total_us"));
	cr_assert_gt(number_of(report, "bytes_minimum"), 0);
	cr_assert_geq(number_of(report, "bytes_sent"), number_of(report, "bytes_minimum"));
	cr_assert_gt(number_of(report, "first_pass_bytes_per_second"), 0);
	cr_assert_geq(number_of(report, "rounds"), 1);
}

void report_assert_complete(struct json_object *report, const char *result)
{
	static const char *const texts[] = {"result", "tracker"};
	static const char *const others[] = {
		"transport",
		"verified",
		"observed_blackout_us",
		"predicted_blackout_us",
		"lanes",
		"total_us",
		"blackout_us",
		"bytes_sent",
		"bytes_minimum",
		"first_pass_bytes_per_second",
		"rounds",
	};

	for (unsigned int i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		assert_type(report, texts[i], json_type_string);
	for (unsigned int i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		assert_present(report, others[i]);
	assert_type(report, "blackout", json_type_object);
	assert_type(report, "guest", json_type_object);
	cr_assert_str_eq(text_of(report, "result"), result, "%s", text_of(report, "reason"));
	if (strcmp(result, "completed") == 0)
		assert_completed(report);
	else
		assert_type(report, "reason", json_type_string);
}

bool guest_reaches(const char *socket, const char *state)
{
	for (unsigned int i = 0; i < 3000; i++) {
		struct json_object *status = guest_status(socket);
		bool there = status != NULL && strcmp(text_of(status, "state"), state) == 0;

		json_object_put(status);
		if (there)
			return true;
		sleep_ms(20);
	}
	return false;
}
