/* SPDX-License-Identifier: MIT */
#include "ask.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "placement.h"
#include "qmp.h"

const char *ask_text(struct json_object *object, const char *name)
{
	struct json_object *value;

	if (!json_object_object_get_ex(object, name, &value) ||
	    !json_object_is_type(value, json_type_string))
		return "";
	return json_object_get_string(value);
}

uint64_t ask_number(struct json_object *object, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
}

int ask_status(struct qmp *qmp, uint64_t deadline, char status[ASK_STATUS_MAX])
{
	struct json_object *answer;
	const int ret = qmp_execute(qmp, "query-status", NULL, deadline, &answer);

	if (ret < 0)
		return ret;
	snprintf(status, ASK_STATUS_MAX, "%s", ask_text(answer, "status"));
	json_object_put(answer);
	return 0;
}

bool ask_capability(struct json_object *capabilities, const char *name)
{
	if (!json_object_is_type(capabilities, json_type_array))
		return false;
	for (size_t i = 0; i < json_object_array_length(capabilities); i++) {
		struct json_object *item = json_object_array_get_idx(capabilities, i);
		struct json_object *state;

		if (strcmp(ask_text(item, "capability"), name) == 0)
			return json_object_object_get_ex(item, "state", &state) &&
			       json_object_get_boolean(state);
	}
	return false;
}

const char *ask_blocker(struct json_object *migration)
{
	struct json_object *reasons;

	if (!json_object_object_get_ex(migration, "blocked-reasons", &reasons) ||
	    !json_object_is_type(reasons, json_type_array) ||
	    json_object_array_length(reasons) == 0)
		return NULL;
	return json_object_get_string(json_object_array_get_idx(reasons, 0));
}

bool ask_busy(struct json_object *migration)
{
	static const char *const idle[] = {"", "none", "completed", "failed", "cancelled"};
	const char *status = ask_text(migration, "status");

	for (unsigned int i = 0; i < sizeof(idle) / sizeof(*idle); i++)
		if (strcmp(status, idle[i]) == 0)
			return false;
	return true;
}

/* A line: name, page size with its unit, offset, used length, and more in newer versions. */
int ask_blocks(struct qmp *qmp, uint64_t deadline, struct placement_block *blocks, unsigned int max)
{
	unsigned int count = 0;
	char *text;
	char *rest;
	char *line;
	const int ret = qmp_hmp(qmp, "info ramblock", deadline, &text);

	if (ret < 0)
		return ret;
	rest = text;
	while ((line = strsep(&rest, "\n")) != NULL && count < max)
		if (sscanf(line, " %255s %*u %*s 0x%*x 0x%" SCNx64, blocks[count].name,
			   &blocks[count].bytes) == 2)
			count++;
	free(text);
	return (int)count;
}
