/* SPDX-License-Identifier: MIT */
/*
 * Dirty logging of the KVM memory slots behind the regions. Each region is one whole slot, whose
 * geometry KVM compares with the region's when logging is switched.
 */
#ifndef DIRTY_SLOTS_H
#define DIRTY_SLOTS_H

#include "map.h"

/* -EINVAL, logged, if two regions name one slot. */
int slots_check(const struct dirty_map *map);

/* Switches logging on for all regions, or for none if one fails. */
int slots_log_on(int vm_fd, const struct dirty_map *map);

/* Switches it off for all, also past a failure, and returns the first failure. */
int slots_log_off(int vm_fd, const struct dirty_map *map);

#endif
