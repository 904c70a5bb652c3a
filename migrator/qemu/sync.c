/* SPDX-License-Identifier: MIT */
#include "sync.h"

#include <errno.h>

#include "moment.h"

#define SLICE_NS NS_PER_MS
/*
 * QEMU sends the SYNC of all channels together; only its being descheduled, or stopped by a user,
 * is longer.
 */
#define BARRIER_NS (60 * NS_PER_S)

int sync_add_channel(struct sync *sync)
{
	int number = -ENOSPC;

	pthread_mutex_lock(&sync->relay->lock);
	if (sync->channel_count < PEER_CONNECTIONS_MAX)
		number = (int)sync->channel_count++;
	pthread_mutex_unlock(&sync->relay->lock);
	return number;
}

bool sync_has_channels(const struct sync *sync)
{
	bool has;

	pthread_mutex_lock(&sync->relay->lock);
	has = sync->channel_count > 0;
	pthread_mutex_unlock(&sync->relay->lock);
	return has;
}

static bool channels_at(const struct sync *sync, uint64_t syncs)
{
	for (unsigned int i = 0; i < sync->channel_count; i++)
		if (!sync->channels[i].ended && sync->channels[i].syncs < syncs)
			return false;
	return true;
}

static bool main_at(const struct sync *sync, uint64_t syncs)
{
	return sync->ending || sync->main_syncs >= syncs;
}

static int late(struct sync *sync, int error)
{
	return error == -ETIMEDOUT
		       ? relay_fail(sync->relay, -ETIMEDOUT,
				    "QEMU's multifd channels do not come to the same SYNC")
		       : error;
}

int sync_channel_arrives(struct sync *sync, unsigned int channel)
{
	uint64_t deadline = vmferry_now() + BARRIER_NS;
	uint64_t mine;
	int ret = 0;

	pthread_mutex_lock(&sync->relay->lock);
	mine = ++sync->channels[channel].syncs;
	sync->channels[channel].waits = true;
	pthread_cond_broadcast(&sync->relay->changed);
	while (ret == 0 && !(channels_at(sync, mine) && main_at(sync, mine)))
		ret = relay_await(sync->relay, deadline);
	sync->channels[channel].waits = false;
	pthread_mutex_unlock(&sync->relay->lock);
	return late(sync, ret);
}

int sync_main_arrives(struct sync *sync, bool wait)
{
	uint64_t deadline = vmferry_now() + BARRIER_NS;
	int ret = 0;

	pthread_mutex_lock(&sync->relay->lock);
	sync->main_syncs++;
	pthread_cond_broadcast(&sync->relay->changed);
	while (ret == 0 && wait && !channels_at(sync, sync->main_syncs))
		ret = relay_await(sync->relay, deadline);
	pthread_mutex_unlock(&sync->relay->lock);
	return late(sync, ret);
}

void sync_main_ended(struct sync *sync)
{
	pthread_mutex_lock(&sync->relay->lock);
	sync->ending = true;
	pthread_cond_broadcast(&sync->relay->changed);
	pthread_mutex_unlock(&sync->relay->lock);
}

void sync_channel_idle(struct sync *sync, unsigned int channel, bool idle)
{
	pthread_mutex_lock(&sync->relay->lock);
	sync->channels[channel].idle = idle;
	if (idle)
		pthread_cond_broadcast(&sync->relay->changed);
	pthread_mutex_unlock(&sync->relay->lock);
}

void sync_channel_forwards(struct sync *sync, unsigned int channel)
{
	pthread_mutex_lock(&sync->relay->lock);
	sync->channels[channel].forwards = true;
	pthread_cond_broadcast(&sync->relay->changed);
	pthread_mutex_unlock(&sync->relay->lock);
}

void sync_channel_ended(struct sync *sync, unsigned int channel)
{
	pthread_mutex_lock(&sync->relay->lock);
	sync->channels[channel].ended = true;
	pthread_cond_broadcast(&sync->relay->changed);
	pthread_mutex_unlock(&sync->relay->lock);
}

/*
 * A channel that is idle reads nothing before it says that it is not: what its socket holds is all
 * that there is.
 */
static bool drained(const struct sync *sync)
{
	for (unsigned int i = 0; i < sync->channel_count; i++) {
		const struct sync_channel *c = &sync->channels[i];

		if (!c->ended && (!c->idle || connection_readable(c->connection)))
			return false;
	}
	return true;
}

static bool stopped(const struct sync *sync)
{
	for (unsigned int i = 0; i < sync->channel_count; i++) {
		const struct sync_channel *c = &sync->channels[i];

		if (!c->ended && !c->idle && !c->waits && !c->forwards)
			return false;
	}
	return true;
}

static int end_when(struct sync *sync, bool (*is_true)(const struct sync *), uint64_t deadline)
{
	int ret = 0;

	pthread_mutex_lock(&sync->relay->lock);
	sync->ending = true;
	pthread_cond_broadcast(&sync->relay->changed);
	while (ret == 0 && !is_true(sync)) {
		ret = relay_await(sync->relay, vmferry_now() + SLICE_NS);
		if (ret == -ETIMEDOUT && vmferry_now() < deadline)
			ret = 0;
	}
	pthread_mutex_unlock(&sync->relay->lock);
	return late(sync, ret);
}

int sync_drain(struct sync *sync, uint64_t deadline)
{
	return end_when(sync, drained, deadline);
}

int sync_stop(struct sync *sync, uint64_t deadline)
{
	return end_when(sync, stopped, deadline);
}
