/* SPDX-License-Identifier: MIT */
/*
 * The tracker for a VM whose writes the caller reports: its marks go straight into the map, so that
 * there is nothing to enable and nothing to harvest.
 */
#include <errno.h>
#include <stdlib.h>

#include "trackers.h"

static int nothing(struct tracker *t)
{
	(void)t;
	return 0;
}

static int harvest(struct tracker *t, uint64_t *pages)
{
	(void)t;
	(void)pages;
	return 0;
}

static void caller_free(struct tracker *t)
{
	free(t);
}

static const struct tracker_ops ops = {
	.name = "caller",
	.start = nothing,
	.harvest = harvest,
	.stop = nothing,
	.free = caller_free,
};

int caller_tracker_new(struct dirty_map *map, struct tracker **tracker)
{
	struct tracker *t = calloc(1, sizeof(*t));

	if (t == NULL)
		return -ENOMEM;
	t->ops = &ops;
	t->map = map;
	*tracker = t;
	return 0;
}
