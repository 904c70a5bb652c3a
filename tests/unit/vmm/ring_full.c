/* SPDX-License-Identifier: MIT */
/* See ring_full.h. */
#include <unistd.h>

#include "ring_full.h"

void vmferry_source_ring_full(struct vmferry_source *source)
{
	struct ring_double *d = (void *)source;
	uint64_t pages = 0;

	atomic_fetch_add(&d->inside, 1);
	atomic_fetch_add(&d->calls, 1);
	if (d->delay_us)
		usleep(d->delay_us);
	pthread_mutex_lock(&d->lock);
	tracker_harvest(d->tracker, &pages);
	pthread_mutex_unlock(&d->lock);
	atomic_fetch_sub(&d->inside, 1);
}
