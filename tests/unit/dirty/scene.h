/* SPDX-License-Identifier: MIT */
/*
 * What most tests here need: a machine, its dirty map, a tracker that fills it and a shadow that
 * empties it.
 */
#ifndef TEST_SCENE_H
#define TEST_SCENE_H

#include "machine.h"
#include "migrator/dirty/tracker.h"
#include "shadow.h"

struct scene {
	struct machine machine;
	struct dirty_map *map;
	struct tracker *tracker;
	struct shadow shadow;
};

/* Fails the test if anything goes wrong. With @entries of 0 the machine has no ring. */
void scene_make(struct scene *s, enum vmferry_tracker kind, unsigned int vcpus, uint32_t entries);
void scene_free(struct scene *s);

/* Another tracker of the same kind in the place of the one that was there. */
void scene_replace_tracker(struct scene *s, enum vmferry_tracker kind);

void scene_mark_all(struct scene *s);

#endif
