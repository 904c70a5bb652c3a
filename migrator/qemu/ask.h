/* SPDX-License-Identifier: MIT */
/* Questions to a QEMU about its migration, and members of the JSON objects that answer them. */
#ifndef QEMU_ASK_H
#define QEMU_ASK_H

#include <stdbool.h>
#include <stdint.h>

struct json_object;
struct placement_block;
struct qmp;

/* object[@name]; "" and 0 when there is none. Texts are the object's. */
const char *ask_text(struct json_object *object, const char *name);
uint64_t ask_number(struct json_object *object, const char *name);

/* The "status" of query-status: "running", "paused", "inmigrate"; -errno. */
#define ASK_STATUS_MAX 32
int ask_status(struct qmp *qmp, uint64_t deadline, char status[ASK_STATUS_MAX]);

/* Whether a capability is on, of what query-migrate-capabilities gives. */
bool ask_capability(struct json_object *capabilities, const char *name);

/*
 * The text of why QEMU cannot migrate now, of what query-migrate gives: the first of them; NULL: it
 * can.
 */
const char *ask_blocker(struct json_object *migration);

/* Whether a migration is under way, of what query-migrate gives. */
bool ask_busy(struct json_object *migration);

/* The blocks of "info ramblock"; returns how many, at most @max, or a negative errno. */
int ask_blocks(struct qmp *qmp, uint64_t deadline, struct placement_block *blocks,
	       unsigned int max);

#endif
