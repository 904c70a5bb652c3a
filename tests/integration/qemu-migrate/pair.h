/* SPDX-License-Identifier: MIT */
/*
 * A QEMU with a guest and one that waits for it, and qemu-migrate between them. The program is the
 * host's QEMU, or what QEMU names.
 */
#ifndef TESTS_QEMU_MIGRATE_PAIR_H
#define TESTS_QEMU_MIGRATE_PAIR_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "../cli/program.h"

#define MIB	   (UINT64_C(1) << 20)
#define MEMORY_MIB 128
#define FILLED	   (64 * MIB) /* from 32 MiB on, no page of it zero */
#define FILLED_AT  (32 * MIB)
#define SECONDS	   120
#define COMPLETED  0
#define FAILED	   1
#define USAGE	   2
#define CANCELLED  3
#define UNABLE	   6

struct json_object;
struct qmp;

struct machine {
	pid_t pid; /* 0: it has ended, and was waited for */
	struct qmp *qmp;
	char name[16];
};

struct pair {
	struct machine source;
	struct machine destination;
	struct program program;
	char incoming[PATH_BYTES];
	char source_qmp[PATH_BYTES];
	char destination_qmp[PATH_BYTES];
	char json[PATH_BYTES];
};

struct setting {
	/* of the destination: "defer", NULL: listens at once, "": it runs a guest of its own */
	const char *incoming;
	bool starts; /* without -S */
	bool shared; /* memfd, share=on, on both sides */
};

/* Starts both and fills the source's memory. Skips the test where there is no QEMU. */
void pair_new(struct pair *pair, const struct setting *setting);
void pair_free(struct pair *pair);

/* A new destination, in place of one that has ended. */
void pair_renew_destination(struct pair *pair, const struct setting *setting);

/*
 * Starts qemu-migrate with the words that NULL ends, and the sockets; pair_migrate() waits for its
 * exit status.
 */
void pair_start(struct pair *pair, const char *const *words);
int pair_migrate(struct pair *pair, const char *const *words);
#define START(pair, ...)   pair_start(pair, (const char *const[]){__VA_ARGS__, NULL})
#define MIGRATE(pair, ...) pair_migrate(pair, (const char *const[]){__VA_ARGS__, NULL})
#define NOTHING		   "--log", "error"

/* Waits until the source migrates; qemu-migrate has to have --log debug. */
void pair_await_traffic(struct pair *pair);

/* query-status; static. "gone" when it does not answer. */
const char *machine_status(struct machine *machine);
bool machine_becomes(struct machine *machine, const char *status);

/* Whether it ends, in time. */
bool machine_ends(struct machine *machine);

/* Runs a command whose result is the caller's to put. */
struct json_object *machine_ask(struct machine *machine, const char *command);
void machine_tell(struct machine *machine, const char *command, const char *arguments);

/* Whether the destination has what the source was filled with. */
void pair_expect_memory(struct pair *pair);

/* The report in the file of --json; the caller puts it. */
struct json_object *pair_report(const struct pair *pair);

#endif
