/* SPDX-License-Identifier: MIT */
/*
 * Dirty trackers: learn which pages a running guest has written and publish them in a dirty map.
 *
 * A tracker belongs to one thread at a time (the harvester, then whoever pauses the VM). harvest()
 * keeps the one order that loses nothing: collect -> make the page trackable again -> publish.
 * After start() every write to the regions is found by some later harvest(); what was written
 * before start() is the caller's business.
 */
#ifndef DIRTY_TRACKER_H
#define DIRTY_TRACKER_H

#include <vmferry/migration.h>

#include "map.h"

struct tracker;

struct tracker_ops {
	const char *name;
	int (*start)(struct tracker *t);
	int (*harvest)(struct tracker *t, uint64_t *pages);
	int (*stop)(struct tracker *t);
	void (*free)(struct tracker *t);
};

/* The head of every tracker; its maker fills it. */
struct tracker {
	const struct tracker_ops *ops;
	struct dirty_map *map; /* borrowed */
};

/*
 * Chooses by @kind and by what the VM can do (AUTO: ring if vm->ring_entries, else log if the
 * kernel has manual protect, else -ENOTSUP unless vm_fd is -1: then caller). -ENOTSUP, with the
 * reason logged, if @kind cannot be had.
 */
int tracker_new(enum vmferry_tracker kind, const struct vmferry_vm *vm, struct dirty_map *map,
		struct tracker **tracker);

/* Calls stop() if it was started and not stopped. */
void tracker_free(struct tracker **tracker);

/* "ring", "log", "caller": as the report has it. */
static inline const char *tracker_name(const struct tracker *t)
{
	return t->ops->name;
}

/* Enables logging on the regions' slots. */
static inline int tracker_start(struct tracker *t)
{
	return t->ops->start(t);
}

/*
 * Publishes what was written since the last harvest; @pages is raised by the number of entries
 * found (a page may count more than once). With all vCPUs out of KVM_RUN it finds everything that
 * they wrote.
 */
static inline int tracker_harvest(struct tracker *t, uint64_t *pages)
{
	return t->ops->harvest(t, pages);
}

/* Harvests what is left, then disables logging. The map keeps its bits. */
static inline int tracker_stop(struct tracker *t)
{
	return t->ops->stop(t);
}

#endif
