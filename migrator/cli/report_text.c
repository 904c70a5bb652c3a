/* SPDX-License-Identifier: MIT */
/*
 * A report as text: scalars aligned, then each object under a heading, lists of objects as tables.
 */
#include "report.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>

#include "units.h"

#define CELL_MAX    64
#define HEADING_MAX 96
#define LABEL_WIDTH 26
#define INDENT	    2
#define ROWS_HEAD   6
#define ROWS_TAIL   6
#define COLUMNS_MAX 16

static bool ends_with(const char *text, const char *end)
{
	size_t length = strlen(text);
	size_t tail = strlen(end);

	return length >= tail && strcmp(text + length - tail, end) == 0;
}

/* "blackout_us" -> "blackout": the unit is in the value. What is nothing but a unit is a time. */
static void label(const char *name, char text[CELL_MAX])
{
	static const char *const endings[] = {"_us", "_bytes_per_second", "_bytes"};
	size_t length;

	if (strcmp(name, "us") == 0)
		name = "time";
	length = strlen(name);

	for (size_t i = 0; i < sizeof(endings) / sizeof(endings[0]); i++) {
		if (ends_with(name, endings[i])) {
			length -= strlen(endings[i]);
			break;
		}
	}
	if (length >= CELL_MAX)
		length = CELL_MAX - 1;
	memcpy(text, name, length);
	text[length] = '\0';
	for (char *c = text; *c != '\0'; c++)
		if (*c == '_')
			*c = ' ';
}

static void number_cell(const char *name, struct json_object *value, char text[CELL_MAX])
{
	double number = json_object_get_double(value);
	uint64_t whole = number < 0 ? 0 : (uint64_t)(number + 0.5);

	if (ends_with(name, "_us") || strcmp(name, "us") == 0)
		units_format_duration(text, (uint64_t)(number < 0 ? 0 : number * 1000));
	else if (ends_with(name, "bytes_per_second"))
		units_format_rate(text, whole);
	else if (strstr(name, "bytes") != NULL || strcmp(name, "memory") == 0)
		units_format_size(text, whole);
	else
		snprintf(text, CELL_MAX, "%s", json_object_to_json_string(value));
}

static void cell(const char *name, struct json_object *value, char text[CELL_MAX])
{
	switch (json_object_get_type(value)) {
	case json_type_null:
		snprintf(text, CELL_MAX, "-");
		break;
	case json_type_boolean:
		snprintf(text, CELL_MAX, json_object_get_boolean(value) ? "yes" : "no");
		break;
	case json_type_int:
	case json_type_double:
		number_cell(name, value, text);
		break;
	default:
		snprintf(text, CELL_MAX, "%s", json_object_get_string(value));
		break;
	}
}

static void print_scalar(FILE *file, int indent, const char *name, struct json_object *value)
{
	char left[CELL_MAX];
	char right[CELL_MAX];

	label(name, left);
	fprintf(file, "%*s%-*s ", indent, "", LABEL_WIDTH - indent, left);
	/* A reason may be longer than a cell. */
	if (json_object_is_type(value, json_type_string)) {
		fprintf(file, "%s\n", json_object_get_string(value));
		return;
	}
	cell(name, value, right);
	fprintf(file, "%s\n", right);
}

static struct json_object *row_value(struct json_object *row, const char *name)
{
	struct json_object *value = NULL;

	json_object_object_get_ex(row, name, &value);
	return value;
}

static int column_width(struct json_object *rows, const char *name)
{
	char text[CELL_MAX];
	size_t width;

	label(name, text);
	width = strlen(text);
	for (size_t i = 0; i < json_object_array_length(rows); i++) {
		cell(name, row_value(json_object_array_get_idx(rows, i), name), text);
		if (strlen(text) > width)
			width = strlen(text);
	}
	return (int)width;
}

static void print_row(FILE *file, int indent, struct json_object *row, struct json_object *columns,
		      const int *widths)
{
	char text[CELL_MAX] = "";
	int i = 0;

	fprintf(file, "%*s", indent, "");
	json_object_object_foreach(columns, name, unused)
	{
		(void)unused;
		if (i == COLUMNS_MAX)
			break;
		if (row == NULL)
			label(name, text);
		else
			cell(name, row_value(row, name), text);
		fprintf(file, "%s%*s", i == 0 ? "" : "  ", widths[i], text);
		i++;
	}
	fprintf(file, "\n");
}

/* The first row's keys are the columns. A long table loses its middle. */
static void print_table(FILE *file, int indent, struct json_object *rows)
{
	size_t count = json_object_array_length(rows);
	struct json_object *first = json_object_array_get_idx(rows, 0);
	int widths[COLUMNS_MAX] = {0};
	int columns = 0;

	json_object_object_foreach(first, name, unused)
	{
		(void)unused;
		if (columns == COLUMNS_MAX)
			break;
		widths[columns++] = column_width(rows, name);
	}
	print_row(file, indent, NULL, first, widths);
	for (size_t i = 0; i < count; i++) {
		if (i == ROWS_HEAD && count > ROWS_HEAD + ROWS_TAIL) {
			size_t left_out = count - ROWS_HEAD - ROWS_TAIL;

			fprintf(file, "%*s... %zu more ...\n", indent, "", left_out);
			i += left_out;
		}
		print_row(file, indent, json_object_array_get_idx(rows, i), first, widths);
	}
}

static bool is_table(struct json_object *value)
{
	return json_object_is_type(value, json_type_array) && json_object_array_length(value) > 0 &&
	       json_object_is_type(json_object_array_get_idx(value, 0), json_type_object);
}

/* Lists of scalars are one cell; an empty list or text says nothing. */
static bool is_scalar(struct json_object *value)
{
	if (json_object_is_type(value, json_type_array))
		return json_object_array_length(value) > 0 && !is_table(value);
	if (json_object_is_type(value, json_type_string))
		return json_object_get_string_len(value) > 0;
	return !json_object_is_type(value, json_type_object);
}

static bool has_scalars(struct json_object *object)
{
	json_object_object_foreach(object, name, value)
	{
		(void)name;
		if (is_scalar(value))
			return true;
	}
	return false;
}

static void print_object(FILE *file, struct json_object *object, const char *heading)
{
	char text[CELL_MAX];
	char path[HEADING_MAX];

	if (*heading != '\0' && has_scalars(object))
		fprintf(file, "\n%s\n", heading);
	json_object_object_foreach(object, name, value)
	{
		if (is_scalar(value))
			print_scalar(file, *heading == '\0' ? 0 : INDENT, name, value);
	}
	json_object_object_foreach(object, key, item)
	{
		label(key, text);
		snprintf(path, sizeof(path), "%s%s%s", heading, *heading == '\0' ? "" : ", ", text);
		if (is_table(item)) {
			fprintf(file, "\n%s\n", path);
			print_table(file, INDENT, item);
		} else if (json_object_is_type(item, json_type_object)) {
			print_object(file, item, path);
		}
	}
}

void report_print(FILE *file, struct json_object *report)
{
	print_object(file, report, "");
}
