/* SPDX-License-Identifier: MIT */
#include "ledger.h"

#include <errno.h>
#include <string.h>

void ledger_init(struct commit_ledger *ledger)
{
	memset(ledger, 0, sizeof(*ledger));
	pthread_mutex_init(&ledger->lock, NULL);
}

void ledger_destroy(struct commit_ledger *ledger)
{
	pthread_mutex_destroy(&ledger->lock);
}

static struct ledger_record *find(struct commit_ledger *ledger, const uint8_t *id)
{
	for (unsigned int i = 0; i < LEDGER_RECORDS; i++) {
		struct ledger_record *r = &ledger->records[i];

		if (r->used && memcmp(r->id, id, sizeof(r->id)) == 0)
			return r;
	}
	return NULL;
}

/* The record to use next: never one of a guest that is owned here. */
static struct ledger_record *oldest(struct commit_ledger *ledger)
{
	for (;;) {
		struct ledger_record *r = &ledger->records[ledger->next++ % LEDGER_RECORDS];

		if (!r->used || r->owner != OWNER_HERE)
			return r;
	}
}

int ledger_begin(struct commit_ledger *ledger, const uint8_t *id)
{
	struct ledger_record *r;
	int e = 0;

	pthread_mutex_lock(&ledger->lock);
	if (find(ledger, id) != NULL) {
		e = -EEXIST;
	} else {
		r = oldest(ledger);
		memcpy(r->id, id, sizeof(r->id));
		r->owner = OWNER_UNKNOWN;
		r->used = true;
	}
	pthread_mutex_unlock(&ledger->lock);
	return e;
}

/* Decides an undecided record; returns what holds now. */
static enum owner decide(struct commit_ledger *ledger, const uint8_t *id, enum owner owner)
{
	struct ledger_record *r;
	enum owner now = OWNER_UNKNOWN;

	pthread_mutex_lock(&ledger->lock);
	r = find(ledger, id);
	if (r != NULL) {
		if (r->owner == OWNER_UNKNOWN)
			r->owner = owner;
		now = r->owner;
	}
	pthread_mutex_unlock(&ledger->lock);
	return now;
}

int ledger_take(struct commit_ledger *ledger, const uint8_t *id)
{
	return decide(ledger, id, OWNER_HERE) == OWNER_HERE ? 0 : -ECONNABORTED;
}

void ledger_abort(struct commit_ledger *ledger, const uint8_t *id)
{
	decide(ledger, id, OWNER_ABORTED);
}

enum owner ledger_query(struct commit_ledger *ledger, const uint8_t *id)
{
	return decide(ledger, id, OWNER_ABORTED);
}

bool ledger_is_undecided(struct commit_ledger *ledger, const uint8_t *id)
{
	const struct ledger_record *r;
	bool undecided;

	pthread_mutex_lock(&ledger->lock);
	r = find(ledger, id);
	undecided = r != NULL && r->owner == OWNER_UNKNOWN;
	pthread_mutex_unlock(&ledger->lock);
	return undecided;
}
