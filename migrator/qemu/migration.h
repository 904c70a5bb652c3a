/* SPDX-License-Identifier: MIT */
/*
 * A migration as QEMU's two QMP sockets drive it: capabilities and limits on both sides, migrate at
 * the source, its end, and only then cont at the destination. How the stream gets from one to the
 * other is not seen here.
 */
#ifndef QEMU_MIGRATION_H
#define QEMU_MIGRATION_H

#include <stdbool.h>
#include <stdint.h>

struct json_object;
struct qmp;

enum qemu_migration_outcome {
	QEMU_MIGRATION_COMPLETED,     /* the guest is at the destination, and runs if it ran */
	QEMU_MIGRATION_FAILED,	      /* at the source */
	QEMU_MIGRATION_CANCELLED,     /* at the source */
	QEMU_MIGRATION_INDETERMINATE, /* one of the QEMUs did not tell */
};

struct qemu_migration_options {
	const char *socket;   /* path that the source connects to */
	const char *incoming; /* path for a destination that waits with -incoming defer */
	uint64_t downtime_ns;
	uint64_t bandwidth;    /* bytes a second; 0: unlimited */
	unsigned int channels; /* 0: 2 where the destination waits with -incoming defer, else 1 */
	bool allow_autostart;
	uint64_t deadline; /* gives up then, and the guest runs on at the source */
	int cancel_fd;	   /* readable: cancel. It is the caller's to read. */
	/* What query-migrate gave, several times a second; it stays the callee's. */
	void (*progress)(void *ctx, struct json_object *migration);
	void *ctx;
};

struct qemu_migration;

/*
 * Looks at both, refuses what cannot be with the reason logged, and sets both up. The connections
 * stay the caller's and have to outlive the migration. -EINVAL, -EBUSY, -EPERM: refused, nothing
 * was changed.
 */
int qemu_migration_new(const struct qemu_migration_options *options, struct qmp *source,
		       struct qmp *destination, struct qemu_migration **migration);

/* Accepts a pointer to NULL. */
void qemu_migration_free(struct qemu_migration **migration);

/*
 * Migrates. After anything but COMPLETED the source's settings are what they were. The reason of
 * anything but COMPLETED and CANCELLED is logged.
 */
enum qemu_migration_outcome qemu_migration_run(struct qemu_migration *migration);

/* How many streams there will be: 1, or more with multifd. */
unsigned int qemu_migration_channels(const struct qemu_migration *migration);

/* The last answer of query-migrate, or NULL; the migration's. */
struct json_object *qemu_migration_info(const struct qemu_migration *migration);

/*
 * From the source's word that it has completed to the destination's that its guest runs, in ns; 0:
 * it was paused.
 */
uint64_t qemu_migration_cont_ns(const struct qemu_migration *migration);

#endif
