/* SPDX-License-Identifier: MIT */
/*
 * --verify: proves that the destination ran from exactly the memory at which the guest was paused,
 * at next to no cost in the blackout. The destination hashes all pages while pre-copy goes on, and
 * in the blackout only those that came since; after the commit the source, whose memory stands
 * still, hashes its own and compares every page.
 */
#ifndef ENGINE_VERIFY_H
#define ENGINE_VERIFY_H

#include <stdint.h>

#include "hash.h"
#include "messages.h"

/* Sends the bits of all regions as RESENT messages; runs of zero words are left out. */
int verify_send_resent(struct vmferry_session *session, enum vmferry_channel channel,
		       uint64_t *const *resent, const struct vmferry_region *regions,
		       unsigned int count, uint64_t deadline);

/* Sends the whole table as HASHES messages. */
int verify_send_hashes(struct vmferry_session *session, const struct hash_table *table,
		       uint64_t deadline);

/*
 * Copies a HASHES message into the table, raising @received by the number; -EPROTO if it does not
 * fit.
 */
int verify_take_hashes(const struct vmferry_message *message, struct hash_table *table,
		       uint64_t *received);

/* Pages that differ; the first few are logged with their addresses. */
uint64_t verify_compare(const struct hash_table *here, const struct hash_table *there);

#endif
