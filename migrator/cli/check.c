/* SPDX-License-Identifier: MIT */
/* vmferry check: what this host can do, and the remedy for what it cannot. */
#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>

#include "command.h"
#include "exit.h"
#include "host_check.h"
#include "report.h"
#include "settings.h"

#define VALUE_MAX 256

struct check_settings {
	const char *rail;
	const char *json;
};

static const struct option_spec check_specs[] = {
	OPTION("rdma-test", "ADDR", NULL,
	       "Test the RDMA port with this address: write to memory of this process over it, "
	       "fence, compare.",
	       OPTION_TEXT, offsetof(struct check_settings, rail)),
	OPTION("json", "FILE", NULL, "Also write what was found to this file, as JSON.",
	       OPTION_TEXT, offsetof(struct check_settings, json)),
	{.name = NULL},
};

static const struct option_group check_group = {"Options of vmferry check", check_specs};

static const struct option_group *const groups[] = {&check_group, &common_group, NULL};

void check_add(struct json_object *checks, const struct check_item *item, const char *value, ...)
{
	struct json_object *object = json_object_new_object();
	char text[VALUE_MAX];
	va_list args;

	va_start(args, value);
	vsnprintf(text, sizeof(text), value, args);
	va_end(args);
	json_object_object_add(object, "name", json_object_new_string(item->name));
	json_object_object_add(object, "status",
			       json_object_new_string(item->ok ? "ok" : "missing"));
	json_object_object_add(object, "required", json_object_new_boolean(item->required));
	json_object_object_add(object, "value", json_object_new_string(text));
	json_object_object_add(object, "remedy",
			       item->ok ? NULL : json_object_new_string(item->remedy));
	json_object_array_add(checks, object);
}

static bool is_obstacle(struct json_object *check)
{
	struct json_object *required;

	json_object_object_get_ex(check, "required", &required);
	return json_object_get_boolean(required) && *report_text(check, "status", "") == 'm';
}

static bool has_obstacle(struct json_object *checks)
{
	for (size_t i = 0; i < json_object_array_length(checks); i++)
		if (is_obstacle(json_object_array_get_idx(checks, i)))
			return true;
	return false;
}

struct json_object *host_check(const char *rail, int *tested)
{
	struct json_object *found = json_object_new_object();
	struct json_object *checks = json_object_new_array();
	struct json_object *ports = json_object_new_array();
	struct json_object *rdma = json_object_new_object();
	struct json_object *test = NULL;

	check_kvm(checks);
	check_memory(checks);
	check_network(checks);
	check_memlock(checks, check_rdma(checks, ports));
	*tested = rail == NULL ? 0 : check_rdma_test(checks, rail, &test);
	json_object_object_add(rdma, "ports", ports);
	json_object_object_add(rdma, "self_test", test);
	json_object_object_add(found, "can_migrate",
			       json_object_new_boolean(!has_obstacle(checks)));
	json_object_object_add(found, "checks", checks);
	json_object_object_add(found, "rdma", rdma);
	return found;
}

static void print_checks(struct json_object *checks)
{
	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *check = json_object_array_get_idx(checks, i);
		const char *remedy = report_text(check, "remedy", NULL);

		printf("%-8s %-26s %s\n", report_text(check, "status", ""),
		       report_text(check, "name", ""), report_text(check, "value", ""));
		if (remedy != NULL)
			printf("%-8s %-26s -> %s\n", "", "", remedy);
	}
}

static int check_main(struct cli *cli, int argc, char **argv)
{
	struct check_settings check = {0};
	struct common_settings common = {0};
	void *const targets[] = {&check, &common};
	struct option_result result;
	struct json_object *found;
	struct json_object *value;
	int tested;
	int code;

	if (!option_parse(&command_check, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	found = host_check(check.rail, &tested);
	json_object_object_get_ex(found, "checks", &value);
	print_checks(value);
	json_object_object_get_ex(found, "can_migrate", &value);
	code = json_object_get_boolean(value) ? EXIT_COMPLETED : EXIT_UNABLE;
	printf("\nmigration %s on this host\n", code == EXIT_COMPLETED ? "works" : "does not work");
	if (tested < 0 && code == EXIT_COMPLETED)
		code = tested == -EINVAL ? EXIT_USAGE : EXIT_FAILED;
	if (check.json != NULL && report_write(check.json, found) < 0 && code == EXIT_COMPLETED)
		code = EXIT_FAILED;
	json_object_put(found);
	return code;
}

const struct command command_check = {
	.name = "check",
	.arguments = "",
	.summary = "Tell what this host can do, with the remedy for what is missing.",
	.groups = groups,
	.main = check_main,
};
