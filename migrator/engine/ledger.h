/* SPDX-License-Identifier: MIT */
/*
 * Who owns a migration's guest, as far as this destination decides it. One lock makes "take it on
 * GO" and "give it up" exclude each other, so that a source which is told that it was given up may
 * safely resume.
 *
 * THREADS  Any.
 */
#ifndef ENGINE_LEDGER_H
#define ENGINE_LEDGER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "messages.h"

/*
 * Given-up migrations that are remembered; older ones are answered as unknown, which a source
 * treats as indeterminate.
 */
#define LEDGER_RECORDS 64u

struct ledger_record {
	uint8_t id[MIGRATION_ID_BYTES];
	enum owner owner; /* OWNER_UNKNOWN: not decided yet */
	bool used;
};

struct commit_ledger {
	pthread_mutex_t lock;
	struct ledger_record records[LEDGER_RECORDS]; /* @lock */
	unsigned int next;			      /* @lock */
};

void ledger_init(struct commit_ledger *ledger);
void ledger_destroy(struct commit_ledger *ledger);

/* An attempt begins: not decided. -EEXIST if the id was used before: ids are used once. */
int ledger_begin(struct commit_ledger *ledger, const uint8_t *id);

/* On GO: the guest is ours. -ECONNABORTED if it was given up before. */
int ledger_take(struct commit_ledger *ledger, const uint8_t *id);

/* Gives an undecided migration up for good; a GO that comes later is refused. */
void ledger_abort(struct commit_ledger *ledger, const uint8_t *id);

/* Whether it is neither taken nor given up. */
bool ledger_is_undecided(struct commit_ledger *ledger, const uint8_t *id);

/*
 * A source asks. It asks only when it has lost the connection over which GO went, so what is not
 * decided yet is given up here and now, and the answer holds for ever.
 */
enum owner ledger_query(struct commit_ledger *ledger, const uint8_t *id);

#endif
