/* SPDX-License-Identifier: MIT */
/* Everything that would stop or slow the migration of one guest, each with the remedy. */
#ifndef QEMU_CHECK_H
#define QEMU_CHECK_H

#include <stdbool.h>
#include <stdint.h>

struct json_object;
struct qmp;

/*
 * Adds to @checks, a JSON array, an object for each item: {"name", "status", "required", "value",
 * "remedy"}, with a status of "ok", "slow" or "stop" and a remedy of null where nothing is to be
 * done. Items of what vmferry qemu-migrate sets by itself are not among them. Negative errno when
 * QEMU does not answer.
 */
int qemu_check_source(struct qmp *qmp, uint64_t deadline, struct json_object *checks);

/* As above; also looks for the memory of the process behind the socket, as the receiver will. */
int qemu_check_destination(struct qmp *qmp, uint64_t deadline, struct json_object *checks);

/* Whether an item of @checks has the status "stop". */
bool qemu_check_stops(struct json_object *checks);

#endif
