/* SPDX-License-Identifier: MIT */
#include "transport/inbox.h"

#include <errno.h>
#include <stdlib.h>

#include "common/clock.h"

struct inbox_entry {
	struct inbox_entry *next;
	struct vmferry_message message;
};

void inbox_init(struct inbox *inbox)
{
	*inbox = (struct inbox){.last = &inbox->first};
	pthread_mutex_init(&inbox->lock, NULL);
	pthread_cond_init(&inbox->come, NULL);
}

void inbox_destroy(struct inbox *inbox)
{
	struct vmferry_message message;

	while (inbox_take(inbox, &message) == 0)
		vmferry_message_free(&message);
	pthread_cond_destroy(&inbox->come);
	pthread_mutex_destroy(&inbox->lock);
}

static bool has_room(const struct inbox *inbox, size_t length)
{
	return inbox->count < INBOX_COUNT_MAX && length <= INBOX_BYTES_MAX - inbox->bytes;
}

int inbox_put(struct inbox *inbox, struct vmferry_message *message)
{
	struct inbox_entry *entry = malloc(sizeof(*entry));
	int ret = 0;

	if (entry == NULL)
		return -ENOMEM;
	*entry = (struct inbox_entry){.message = *message};
	pthread_mutex_lock(&inbox->lock);
	if (has_room(inbox, message->length)) {
		*inbox->last = entry;
		inbox->last = &entry->next;
		inbox->count++;
		inbox->bytes += message->length;
		pthread_cond_broadcast(&inbox->come);
	} else {
		ret = -ENOBUFS;
	}
	pthread_mutex_unlock(&inbox->lock);
	if (ret < 0)
		free(entry);
	else
		*message = (struct vmferry_message){0};
	return ret;
}

int inbox_take(struct inbox *inbox, struct vmferry_message *message)
{
	struct inbox_entry *entry;

	pthread_mutex_lock(&inbox->lock);
	entry = inbox->first;
	if (entry != NULL) {
		inbox->first = entry->next;
		if (inbox->first == NULL)
			inbox->last = &inbox->first;
		inbox->count--;
		inbox->bytes -= entry->message.length;
	}
	pthread_mutex_unlock(&inbox->lock);
	if (entry == NULL)
		return -EAGAIN;
	*message = entry->message;
	free(entry);
	return 0;
}

void inbox_wait(struct inbox *inbox, uint64_t deadline)
{
	struct timespec until = deadline_timespec(deadline);
	int ret = 0;

	pthread_mutex_lock(&inbox->lock);
	while (ret == 0 && inbox->first == NULL && !inbox->woken)
		ret = pthread_cond_clockwait(&inbox->come, &inbox->lock, CLOCK_MONOTONIC, &until);
	inbox->woken = false;
	pthread_mutex_unlock(&inbox->lock);
}

void inbox_wake(struct inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	inbox->woken = true;
	pthread_cond_broadcast(&inbox->come);
	pthread_mutex_unlock(&inbox->lock);
}

void inbox_close(struct inbox *inbox)
{
	pthread_mutex_lock(&inbox->lock);
	inbox->closed = true;
	inbox->woken = true;
	pthread_cond_broadcast(&inbox->come);
	pthread_mutex_unlock(&inbox->lock);
}

bool inbox_closed(struct inbox *inbox)
{
	bool closed;

	pthread_mutex_lock(&inbox->lock);
	closed = inbox->closed;
	pthread_mutex_unlock(&inbox->lock);
	return closed;
}
