/* SPDX-License-Identifier: MIT */
/*
 * The makers of the trackers, for tracker.c alone: each has checked that the VM can do what it
 * needs.
 */
#ifndef DIRTY_TRACKERS_H
#define DIRTY_TRACKERS_H

#include "tracker.h"

int ring_tracker_new(const struct vmferry_vm *vm, struct dirty_map *map, struct tracker **tracker);
int log_tracker_new(const struct vmferry_vm *vm, struct dirty_map *map, struct tracker **tracker);
int caller_tracker_new(struct dirty_map *map, struct tracker **tracker);

#endif
