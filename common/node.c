/* SPDX-License-Identifier: MIT */
#include "common/node.h"

#include <errno.h>
#include <numa.h>
#include <numaif.h>
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

static void go_near(int node)
{
	struct bitmask *allowed = numa_allocate_cpumask();
	struct bitmask *near = numa_allocate_cpumask();
	int ret;

	pthread_mutex_lock(&lock);
	ret = stay_near(node, allowed, near);
	pthread_mutex_unlock(&lock);
	numa_free_cpumask(near);
	numa_free_cpumask(allowed);
	if (ret < 0)
		log_debug("node %d: a thread cannot stay near it: %s", node, strerror(-ret));
}

void thread_stay_near(int node)
{
	if (node >= 0 && numa_available() >= 0)
		go_near(node);
}

void thread_home_init(struct thread_home *home)
{
	*home = (struct thread_home){.node = -1};
	if (numa_available() < 0)
		return;
	home->allowed = numa_allocate_cpumask();
	if (numa_sched_getaffinity(0, home->allowed) < 0)
		thread_home_free(home);
}

void thread_home_free(struct thread_home *home)
{
	if (home->allowed != NULL)
		numa_free_cpumask(home->allowed);
	home->allowed = NULL;
}

void thread_go_near(struct thread_home *home, int node)
{
	if (home->allowed == NULL || node == home->node)
		return;
	/* From one node nothing leads to another. */
	if (home->node >= 0 && numa_sched_setaffinity(0, home->allowed) < 0)
		return;
	home->node = node;
	if (node >= 0)
		go_near(node);
}

int memory_node(const void *address)
{
	struct bitmask *nodes;
	int mode, node = -1;

	if (numa_available() < 0)
		return -1;
	nodes = numa_allocate_nodemask();
	/* The address is only looked up. */
	if (get_mempolicy(&mode, nodes->maskp, nodes->size + 1, (void *)address, MPOL_F_ADDR) ==
		    0 &&
	    numa_bitmask_weight(nodes) == 1)
		for (node = 0; !numa_bitmask_isbitset(nodes, (unsigned int)node);)
			node++;
	numa_free_nodemask(nodes);
	return node;
}
