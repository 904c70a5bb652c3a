/* SPDX-License-Identifier: MIT */
/* Both ends of a migration of a VM without KVM in this process. */
#ifndef TEST_RIG_H
#define TEST_RIG_H

#include <vmferry/migration.h>

#include "fakevm.h"

#define SECOND 1000000000ull

struct json_object;

extern struct fakevm here, there;
extern struct vmferry_source *source;
extern struct vmferry_destination *destination;
extern struct vmferry_source_options options; /* of the next source */
extern vmferry_phase_fn phase_there;	      /* told of the destination's phases, by its thread */
extern const char *way; /* where it connects; NULL: to the destination itself */

/*
 * A destination that listens, with these options of its lanes, which are the source's too; and a
 * guest with content that is not started.
 */
void rig_open(const struct vmferry_transport_options *transport);
void rig_close(void);

/* Starts the guest and a source for it; migrating waits for its end, too. */
void rig_start(void);
int rig_migrate(void);

/* The source is over, another may come. The guest stands. */
void rig_end_source(void);

/* The source's report, the caller's; a member of it that must be there. */
struct json_object *rig_report(void);
struct json_object *rig_member(struct json_object *object, const char *name);

/* The guest has arrived, equal in every byte, and runs there and nowhere else. */
void assert_arrived(void);

/* The guest runs here, and never did there. */
void assert_stayed(int result, int expected);

/* A failed attempt ends at the destination somewhat later than at the source. */
void assert_abandoned(void);

#endif
