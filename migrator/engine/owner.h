/* SPDX-License-Identifier: MIT */
/*
 * Who owns a migration's guest, as far as this destination decides it. One lock makes "take it on
 * GO" and "give it up" exclude each other, so that a source which is told that it was given up may
 * safely resume.
 *
 * THREADS  Any.
 */
#ifndef ENGINE_OWNER_H
#define ENGINE_OWNER_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "messages.h"

/*
 * Given-up migrations that are remembered; older ones are answered as unknown, which a source
 * treats as indeterminate.
 */
#define OWNER_MEMORY 64u

struct owner_record {
	uint8_t id[MIGRATION_ID_BYTES];
	enum owner owner; /* OWNER_UNKNOWN: not decided yet */
	bool used;
};

struct owner_book {
	pthread_mutex_t lock;
	struct owner_record records[OWNER_MEMORY]; /* @lock */
	unsigned int next;			   /* @lock */
};

void owner_init(struct owner_book *book);
void owner_destroy(struct owner_book *book);

/* An attempt begins: not decided. -EEXIST if the id was used before: ids are used once. */
int owner_begin(struct owner_book *book, const uint8_t *id);

/* On GO: the guest is ours. -ECONNABORTED if it was given up before. */
int owner_take(struct owner_book *book, const uint8_t *id);

/* Gives an undecided migration up for good; a GO that comes later is refused. */
void owner_abort(struct owner_book *book, const uint8_t *id);

/* Whether it is neither taken nor given up. */
bool owner_is_undecided(struct owner_book *book, const uint8_t *id);

/*
 * A source asks. It asks only when it has lost the connection over which GO went, so what is not
 * decided yet is given up here and now, and the answer holds for ever.
 */
enum owner owner_query(struct owner_book *book, const uint8_t *id);

#endif
