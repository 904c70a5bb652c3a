/* SPDX-License-Identifier: MIT */
/*
 * Reports as text and what they mean for the exit status. The text is made from the JSON without
 * knowing its keys: their endings say what the numbers are, so that a new step of the blackout
 * appears by itself.
 */
#ifndef CLI_REPORT_H
#define CLI_REPORT_H

#include <stdio.h>

#include "exit.h"

struct json_object;

void report_print(FILE *file, struct json_object *report);

/* The exit status that a report of a source asks for. */
enum exit_code report_exit_code(struct json_object *report);

/* report[@name] as text, @otherwise when there is none. Owned by the report. */
const char *report_text(struct json_object *report, const char *name, const char *otherwise);

/*
 * Adds or replaces @name, placing a new one right behind @before; takes the reference. Gives the
 * report back.
 */
struct json_object *report_insert(struct json_object *report, const char *before, const char *name,
				  struct json_object *value);

/* Writes the report to the file @path; a negative errno is printed. */
int report_write(const char *path, struct json_object *report);

#endif
