/* SPDX-License-Identifier: MIT */
/* What this host can do, as a list of items, each with the remedy for what is missing. */
#ifndef CLI_HOST_CHECK_H
#define CLI_HOST_CHECK_H

#include <stdbool.h>

struct json_object;

/*
 * {"can_migrate": ...,
 *  "checks": [{"name", "status": "ok" | "missing", "required", "value", "remedy"}, ...],
 *  "rdma": {"ports": [...], "self_test": {...}}}; remedy is null where nothing is missing. The
 * caller puts it. @rail: the address of the RDMA port to test, NULL for none; @tested is then 0 or
 * why the test failed.
 */
struct json_object *host_check(const char *rail, int *tested);

/* The parts, each adding its items to @checks. */
void check_kvm(struct json_object *checks);
void check_memory(struct json_object *checks);
void check_network(struct json_object *checks);

/* Also adds an object for each port to @ports; whether there is any that can be used. */
bool check_rdma(struct json_object *checks, struct json_object *ports);
int check_rdma_test(struct json_object *checks, const char *rail, struct json_object **result);

/* @rdma: whether there is anything that pins memory. */
void check_memlock(struct json_object *checks, bool rdma);

struct check_item {
	const char *name;
	bool ok;
	bool required;
	const char *remedy;
};

__attribute__((format(printf, 3, 4))) void
check_add(struct json_object *checks, const struct check_item *item, const char *value, ...);

#endif
