/* SPDX-License-Identifier: MIT */
/* What the commands of the adaptor for QEMU have in common. */
#ifndef CLI_QEMU_SETTINGS_H
#define CLI_QEMU_SETTINGS_H

#include <stdbool.h>

#include "exit.h"
#include "settings.h"

struct json_object;

/* Of --place, in the order of enum placement_wish. */
extern const char *const qemu_place_choices[];

/* Log and reports of a service of migrations, of which several may end at once. */
struct qemu_output {
	const char *json; /* path, NULL: none. Each report replaces the one before. */
	const char *command;
};

/* The report callback of sender and receiver, with a struct qemu_output as its context. */
void qemu_output_report(void *ctx, bool completed, struct json_object *report);

/* The exit status for what their run function returned. */
enum exit_code qemu_exit_code(int ret);

/* The path of "unix:PATH"; NULL, and the reason is printed, for anything else. */
const char *qemu_unix_path(const char *command, const char *address);

#endif
