/* SPDX-License-Identifier: MIT */
/* Small help for the two reports: JSON objects that remember that something could not be added. */
#ifndef ENGINE_REPORT_H
#define ENGINE_REPORT_H

#include <stdbool.h>
#include <stdint.h>

struct json_object;

/*
 * An object under construction. After a failure everything is a no-op and report_text() says
 * -ENOMEM.
 */
struct report {
	struct json_object *object;
	bool failed;
};

void report_init(struct report *r);
void report_string(struct report *r, const char *name, const char *value); /* NULL: null */
void report_number(struct report *r, const char *name, uint64_t value);
void report_us(struct report *r, const char *name, uint64_t ns); /* rounded to microseconds */
void report_bool(struct report *r, const char *name, bool value);
void report_null(struct report *r, const char *name);

/* @child becomes a member; it is consumed. */
void report_object(struct report *r, const char *name, struct report *child);

/* Takes over a json-c value, also NULL after a failed allocation, as member @name. */
void report_value(struct report *r, const char *name, struct json_object *value);

/* The text, malloc'ed; the report is freed in any case. */
int report_text(struct report *r, char **json);

#endif
