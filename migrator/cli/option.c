/* SPDX-License-Identifier: MIT */
/* Values of options: from text with every limit checked, and back to text. */
#include "option.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "units.h"

static void *field(const struct option_spec *spec, void *target)
{
	return (char *)target + spec->offset;
}

static uint64_t number(const struct option_spec *spec, const void *target)
{
	uint64_t value;

	memcpy(&value, (const char *)target + spec->offset, sizeof(value));
	return value;
}

static const struct option_spec *find(const struct option_group *group, const char *name)
{
	for (const struct option_spec *spec = group->specs; spec->name != NULL; spec++)
		if (strcmp(spec->name, name) == 0)
			return spec;
	return NULL;
}

static const char *exact(const struct option_spec *spec, uint64_t value, char *text)
{
	if (spec->kind == OPTION_SIZE)
		return units_exact_size(text, value);
	if (spec->kind == OPTION_DURATION)
		return units_exact_duration(text, value);
	snprintf(text, UNITS_TEXT_MAX, "%" PRIu64, value);
	return text;
}

static int parse_number(const struct option_spec *spec, const char *text, uint64_t *value)
{
	if (spec->kind == OPTION_SIZE)
		return units_parse_size(text, value);
	if (spec->kind == OPTION_DURATION)
		return units_parse_duration(text, value);
	return units_parse_count(text, value);
}

static const char *form(enum option_kind kind)
{
	switch (kind) {
	case OPTION_SIZE:
		return "not a size: write a whole number with K, M or G, like 256M";
	case OPTION_DURATION:
		return "not a duration: write a whole number with us, ms or s, like 5ms";
	default:
		return "not a number: write a whole number, like 4";
	}
}

static int set_number(const struct option_spec *spec, uint64_t *value, const char *text, char *why)
{
	char limit[UNITS_TEXT_MAX];
	uint64_t parsed;
	int rc;

	if (spec->word != NULL && strcmp(text, spec->word) == 0) {
		*value = spec->word_value;
		return 0;
	}
	rc = parse_number(spec, text, &parsed);
	if (rc == -EINVAL) {
		snprintf(why, OPTION_WHY_MAX, "%s%s%s", form(spec->kind),
			 spec->word == NULL ? "" : ", or ", spec->word == NULL ? "" : spec->word);
		return -EINVAL;
	}
	if (rc == 0 && parsed < spec->min) {
		snprintf(why, OPTION_WHY_MAX, "too small: it must be at least %s",
			 exact(spec, spec->min, limit));
		return -EINVAL;
	}
	if (rc < 0 || (spec->max != 0 && parsed > spec->max)) {
		snprintf(why, OPTION_WHY_MAX, "too large: it can be at most %s",
			 exact(spec, spec->max != 0 ? spec->max : UINT64_MAX, limit));
		return -EINVAL;
	}
	*value = parsed;
	return 0;
}

static int set_choice(const struct option_spec *spec, uint64_t *value, const char *text, char *why)
{
	size_t used;

	for (uint64_t i = 0; spec->choices[i] != NULL; i++) {
		if (strcmp(spec->choices[i], text) == 0) {
			*value = i;
			return 0;
		}
	}
	used = (size_t)snprintf(why, OPTION_WHY_MAX, "no such choice: it is one of");
	for (uint64_t i = 0; spec->choices[i] != NULL && used < OPTION_WHY_MAX; i++)
		used += (size_t)snprintf(why + used, OPTION_WHY_MAX - used, "%s %s",
					 i == 0 ? "" : ",", spec->choices[i]);
	return -EINVAL;
}

static int set_switch(bool *value, const char *text, char *why)
{
	if (strcmp(text, "yes") != 0 && strcmp(text, "no") != 0) {
		snprintf(why, OPTION_WHY_MAX, "not a switch: it is yes or no");
		return -EINVAL;
	}
	*value = strcmp(text, "yes") == 0;
	return 0;
}

static int set_text(const char **value, const char *text, char *why)
{
	if (*text == '\0') {
		snprintf(why, OPTION_WHY_MAX, "empty: give it a value or leave the option out");
		return -EINVAL;
	}
	*value = text;
	return 0;
}

static int set_item(const struct option_spec *spec, struct option_list *list, const char *text,
		    char *why)
{
	unsigned int max = spec->max == 0 ? OPTION_LIST_MAX : (unsigned int)spec->max;

	if (list->count >= max) {
		snprintf(why, OPTION_WHY_MAX, "given too often: %u times at most", max);
		return -EINVAL;
	}
	list->items[list->count++] = text;
	return 0;
}

int option_set(const struct option_group *group, void *target, const char *name, const char *text,
	       char why[OPTION_WHY_MAX])
{
	const struct option_spec *spec = find(group, name);

	if (spec == NULL)
		return -ENOENT;
	switch (spec->kind) {
	case OPTION_SWITCH:
		return set_switch(field(spec, target), text, why);
	case OPTION_CHOICE:
		return set_choice(spec, field(spec, target), text, why);
	case OPTION_TEXT:
		return set_text(field(spec, target), text, why);
	case OPTION_LIST:
		return set_item(spec, field(spec, target), text, why);
	default:
		return set_number(spec, field(spec, target), text, why);
	}
}

void option_defaults(const struct option_group *group, void *target)
{
	char why[OPTION_WHY_MAX];

	for (const struct option_spec *spec = group->specs; spec->name != NULL; spec++)
		if (spec->fallback != NULL)
			option_set(group, target, spec->name, spec->fallback, why);
}

static const char *to_text(const struct option_spec *spec, const void *target, char *text)
{
	const char *pointer;
	bool on;

	switch (spec->kind) {
	case OPTION_SWITCH:
		memcpy(&on, (const char *)target + spec->offset, sizeof(on));
		return on ? "yes" : "no";
	case OPTION_CHOICE:
		return spec->choices[number(spec, target)];
	case OPTION_TEXT:
		memcpy(&pointer, (const char *)target + spec->offset, sizeof(pointer));
		return pointer;
	case OPTION_LIST:
		return NULL;
	default:
		if (spec->word != NULL && number(spec, target) == spec->word_value)
			return spec->word;
		return exact(spec, number(spec, target), text);
	}
}

static struct json_object *list_to_json(const struct option_spec *spec, const void *target)
{
	struct json_object *array = json_object_new_array();
	struct option_list list;

	memcpy(&list, (const char *)target + spec->offset, sizeof(list));
	for (unsigned int i = 0; i < list.count; i++)
		json_object_array_add(array, json_object_new_string(list.items[i]));
	return array;
}

void option_to_json(const struct option_group *group, const void *target,
		    struct json_object *object)
{
	char text[UNITS_TEXT_MAX];

	for (const struct option_spec *spec = group->specs; spec->name != NULL; spec++) {
		const char *value = to_text(spec, target, text);

		if (spec->kind == OPTION_LIST)
			json_object_object_add(object, spec->name, list_to_json(spec, target));
		else if (value != NULL)
			json_object_object_add(object, spec->name, json_object_new_string(value));
	}
}
