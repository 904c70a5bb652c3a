/* SPDX-License-Identifier: MIT */
/*
 * The destination's part of --verify: a table of hashes of all memory, kept up to date by a thread
 * while pre-copy goes on, so that in the blackout only what came last is left.
 *
 * THREADS  The attempt's control thread calls everything; the thread in here touches the table and
 *          what it was handed.
 */
#ifndef ENGINE_HASHER_H
#define ENGINE_HASHER_H

#include <vmferry/migration.h>

#include "hash.h"

struct hasher;

/* @session and @vm are borrowed. */
int hasher_new(struct vmferry_session *session, const struct vmferry_vm *vm,
	       struct hasher **hasher);

/*
 * Ends the thread, whatever it does; the session must have been shut down if it may wait for a
 * fence. Accepts NULL.
 */
void hasher_free(struct hasher **hasher);

/* RESENT: these pages are to be hashed again. -EPROTO if they are not in the VM's memory. */
int hasher_resent(struct hasher *hasher, const struct vmferry_message *message);

/*
 * HASH: hash what @fence has placed, everything the first time, later what hasher_resent() named;
 * HASHED is said when it is done. -EPROTO if the last one is not done yet.
 */
int hasher_start(struct hasher *hasher, uint64_t fence);

/*
 * In the blackout, all pages being in place: hash what is left. -EPROTO if hasher_start() was never
 * called.
 */
int hasher_finish(struct hasher *hasher);

/* Complete after hasher_finish(). */
const struct hash_table *hasher_table(const struct hasher *hasher);

#endif
