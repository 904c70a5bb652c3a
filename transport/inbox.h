/* SPDX-License-Identifier: MIT */
/*
 * Messages that have come and wait for vmferry_recv(), when a thread of the transport's own reads
 * the connections.
 *
 * THREADS  Any number put, one takes. The bytes of a message are seen by the taker: both hold the
 *          lock.
 */
#ifndef TRANSPORT_INBOX_H
#define TRANSPORT_INBOX_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include <vmferry/transport.h>

/* More than a peer that keeps to any protocol leaves unread. */
#define INBOX_BYTES_MAX (64u << 20)
#define INBOX_COUNT_MAX 4096u

struct inbox_entry;

struct inbox {
	pthread_mutex_t lock;
	pthread_cond_t come;
	struct inbox_entry *first;
	struct inbox_entry **last;
	unsigned int count;
	size_t bytes;
	bool closed;
	bool woken; /* stays until a wait has seen it: who wakes may come before who waits */
};

void inbox_init(struct inbox *inbox);
void inbox_destroy(struct inbox *inbox);

/* Takes the message's data over on success; -ENOBUFS when nobody reads, -ENOMEM. */
int inbox_put(struct inbox *inbox, struct vmferry_message *message);

/* 0, or -EAGAIN if there is none. */
int inbox_take(struct inbox *inbox, struct vmferry_message *message);

/* Waits until there is one, or somebody wakes, or @deadline: says nothing of which. */
void inbox_wait(struct inbox *inbox, uint64_t deadline);
void inbox_wake(struct inbox *inbox);

/*
 * Nothing more will be put; wakes. Who sees that it is closed, and then finds nothing to take, has
 * had all.
 */
void inbox_close(struct inbox *inbox);
bool inbox_closed(struct inbox *inbox);

#endif
