/* SPDX-License-Identifier: MIT */
#include "owner.h"

#include <errno.h>
#include <string.h>

void owner_init(struct owner_book *book)
{
	memset(book, 0, sizeof(*book));
	pthread_mutex_init(&book->lock, NULL);
}

void owner_destroy(struct owner_book *book)
{
	pthread_mutex_destroy(&book->lock);
}

static struct owner_record *find(struct owner_book *book, const uint8_t *id)
{
	for (unsigned int i = 0; i < OWNER_MEMORY; i++) {
		struct owner_record *r = &book->records[i];

		if (r->used && memcmp(r->id, id, sizeof(r->id)) == 0)
			return r;
	}
	return NULL;
}

/* The record to use next: never one of a guest that is owned here. */
static struct owner_record *oldest(struct owner_book *book)
{
	for (;;) {
		struct owner_record *r = &book->records[book->next++ % OWNER_MEMORY];

		if (!r->used || r->owner != OWNER_HERE)
			return r;
	}
}

int owner_begin(struct owner_book *book, const uint8_t *id)
{
	struct owner_record *r;
	int e = 0;

	pthread_mutex_lock(&book->lock);
	if (find(book, id) != NULL) {
		e = -EEXIST;
	} else {
		r = oldest(book);
		memcpy(r->id, id, sizeof(r->id));
		r->owner = OWNER_UNKNOWN;
		r->used = true;
	}
	pthread_mutex_unlock(&book->lock);
	return e;
}

/* Decides an undecided record; returns what holds now. */
static enum owner decide(struct owner_book *book, const uint8_t *id, enum owner owner)
{
	struct owner_record *r;
	enum owner now = OWNER_UNKNOWN;

	pthread_mutex_lock(&book->lock);
	r = find(book, id);
	if (r != NULL) {
		if (r->owner == OWNER_UNKNOWN)
			r->owner = owner;
		now = r->owner;
	}
	pthread_mutex_unlock(&book->lock);
	return now;
}

int owner_take(struct owner_book *book, const uint8_t *id)
{
	return decide(book, id, OWNER_HERE) == OWNER_HERE ? 0 : -ECONNABORTED;
}

void owner_abort(struct owner_book *book, const uint8_t *id)
{
	decide(book, id, OWNER_ABORTED);
}

enum owner owner_query(struct owner_book *book, const uint8_t *id)
{
	return decide(book, id, OWNER_ABORTED);
}

bool owner_is_undecided(struct owner_book *book, const uint8_t *id)
{
	const struct owner_record *r;
	bool undecided;

	pthread_mutex_lock(&book->lock);
	r = find(book, id);
	undecided = r != NULL && r->owner == OWNER_UNKNOWN;
	pthread_mutex_unlock(&book->lock);
	return undecided;
}
