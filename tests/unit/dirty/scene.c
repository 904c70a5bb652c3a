/* SPDX-License-Identifier: MIT */
/* What most tests here need, see scene.h. */
#include "scene.h"

#include <criterion/criterion.h>

void scene_make(struct scene *s, enum vmferry_tracker kind, unsigned int vcpus, uint32_t entries)
{
	struct vmferry_vm vm;

	machine_make(&s->machine, vcpus, entries);
	vm = machine_vm(&s->machine);
	cr_assert_eq(dirty_map_new(&vm, &s->map), 0);
	cr_assert_eq(tracker_new(kind, &vm, s->map, &s->tracker), 0);
	shadow_make(&s->shadow, &s->machine, s->map);
}

void scene_free(struct scene *s)
{
	shadow_free(&s->shadow);
	tracker_free(&s->tracker);
	machine_free(&s->machine);
	dirty_map_free(&s->map);
}

void scene_replace_tracker(struct scene *s, enum vmferry_tracker kind)
{
	struct vmferry_vm vm = machine_vm(&s->machine);

	tracker_free(&s->tracker);
	cr_assert_eq(tracker_new(kind, &vm, s->map, &s->tracker), 0);
}

void scene_mark_all(struct scene *s)
{
	for (unsigned int i = 0; i < s->map->region_count; i++)
		dirty_region_mark(&s->map->regions[i], 0, UINT64_MAX);
}
