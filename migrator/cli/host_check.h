/* SPDX-License-Identifier: MIT */
/* What this host can do, as a list of items, each with the remedy for what is missing. */
#ifndef CLI_HOST_CHECK_H
#define CLI_HOST_CHECK_H

#include <stdbool.h>

struct json_object;

/*
 * {"can_migrate": ..., "checks": [{"name", "status": "ok" | "missing", "required", "value", "remedy"}, ...]}; remedy is
 * null where nothing is missing. The caller puts it.
 */
struct json_object *host_check(void);

/* The parts, each adding its items to @checks. */
void check_kvm(struct json_object *checks);
void check_memory(struct json_object *checks);
void check_network(struct json_object *checks);

struct check_item {
	const char *name;
	bool ok;
	bool required;
	const char *remedy;
};

__attribute__((format(printf, 3, 4))) void
check_add(struct json_object *checks, const struct check_item *item, const char *value, ...);

#endif
