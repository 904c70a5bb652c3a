/* SPDX-License-Identifier: MIT */
/*
 * What the tests ask of a running guest, over its control socket, and the fields that a report must
 * have.
 */
#ifndef TEST_GUESTS_H
#define TEST_GUESTS_H

#include <stdbool.h>
#include <stdint.h>

#include "program.h"

struct json_object;

/*
 * A small guest that is soon ready, and what it takes to start one with its control socket at
 * @socket.
 */
#define SMALL_GUEST(socket)                                                                   \
	"run", "--memory", "32M", "--fill", "16M", "--ws", "4M", "--rate", "8M", "--control", \
		(socket), "--console", "none"

/* Asks once; NULL when nobody answers. The caller puts it. */
struct json_object *guest_status(const char *socket);

/* Waits until the guest says that it is ready. */
void guest_wait_ready(const char *socket);

/* Waits for at most 8 s until the process is in this state: "running", "migrating", "waiting". */
bool guest_reaches(const char *socket, const char *state);

/* Asserts that all vCPUs beat on, and that the guest has found no fault. */
void guest_assert_beats(const char *socket);

/* Waits until a receiver listens and stores its URI. */
void receiver_uri(const char *socket, char uri[PATH_BYTES]);

/* Asks the process to end and waits: its exit status. */
int guest_quit(struct program *program, const char *socket);

/* Reads a JSON object from a file; asserts that it is one. The caller puts it. */
struct json_object *json_from(const char *path);

/*
 * Asserts that a report has every top-level field, of the right type and with values that can be.
 */
void report_assert_complete(struct json_object *report, const char *result);

const char *text_of(struct json_object *object, const char *name);
int64_t number_of(struct json_object *object, const char *name);

#endif
