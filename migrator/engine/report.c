/* SPDX-License-Identifier: MIT */
#include "report.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "common/clock.h"

void report_init(struct report *r)
{
	r->object = json_object_new_object();
	r->failed = r->object == NULL;
}

static void add(struct report *r, const char *name, struct json_object *value)
{
	if (!r->failed && json_object_object_add(r->object, name, value) == 0)
		return;
	json_object_put(value);
	r->failed = true;
}

void report_value(struct report *r, const char *name, struct json_object *value)
{
	if (value == NULL)
		r->failed = true;
	else
		add(r, name, value);
}

void report_string(struct report *r, const char *name, const char *value)
{
	if (value == NULL)
		report_null(r, name);
	else
		report_value(r, name, json_object_new_string(value));
}

void report_number(struct report *r, const char *name, uint64_t value)
{
	report_value(r, name, json_object_new_uint64(value));
}

void report_us(struct report *r, const char *name, uint64_t ns)
{
	report_number(r, name, (ns + NS_PER_US / 2) / NS_PER_US);
}

void report_bool(struct report *r, const char *name, bool value)
{
	report_value(r, name, json_object_new_boolean(value));
}

void report_null(struct report *r, const char *name)
{
	add(r, name, NULL);
}

void report_object(struct report *r, const char *name, struct report *child)
{
	if (child->failed) {
		json_object_put(child->object);
		r->failed = true;
		return;
	}
	report_value(r, name, child->object);
}

int report_text(struct report *r, char **json)
{
	const char *text = NULL;
	char *copy = NULL;

	if (!r->failed)
		text = json_object_to_json_string_ext(
			r->object, JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_NOSLASHESCAPE);
	if (text != NULL)
		copy = strdup(text);
	json_object_put(r->object);
	r->object = NULL;
	if (copy == NULL)
		return -ENOMEM;
	*json = copy;
	return 0;
}
