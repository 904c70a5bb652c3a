/* SPDX-License-Identifier: MIT */
#include "common/node.h"

#include <errno.h>
#include <numa.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "common/log.h"

/* libnuma caches the nodes' processors without a lock of its own. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Clears in @mine what is not in @others; whether anything is left. */
static bool keep_common(struct bitmask *mine, const struct bitmask *others)
{
	bool any = false;

	for (unsigned int i = 0; i < mine->size; i++) {
		if (!numa_bitmask_isbitset(others, i))
			numa_bitmask_clearbit(mine, i);
		any = any || numa_bitmask_isbitset(mine, i);
	}
	return any;
}

static int stay_near(int node, struct bitmask *allowed, struct bitmask *near)
{
	if (numa_sched_getaffinity(0, allowed) < 0 || numa_node_to_cpus(node, near) < 0)
		return -errno;
	if (!keep_common(allowed, near))
		return -ENODEV;
	return numa_sched_setaffinity(0, allowed) < 0 ? -errno : 0;
}

void thread_stay_near(int node)
{
	struct bitmask *allowed, *near;
	int ret;

	if (node < 0 || numa_available() < 0)
		return;
	allowed = numa_allocate_cpumask();
	near = numa_allocate_cpumask();
	pthread_mutex_lock(&lock);
	ret = stay_near(node, allowed, near);
	pthread_mutex_unlock(&lock);
	numa_free_cpumask(near);
	numa_free_cpumask(allowed);
	if (ret < 0)
		log_debug("node %d: a thread cannot stay near it: %s", node, strerror(-ret));
}
