/* SPDX-License-Identifier: MIT */
/* A copy of a machine's memory that follows it by the dirty map alone, see shadow.h. */
#include "shadow.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void shadow_make(struct shadow *s, const struct machine *m, struct dirty_map *map)
{
	*s = (struct shadow){.map = map};
	for (unsigned int i = 0; i < MACHINE_REGIONS; i++) {
		s->copy[i] = calloc(1, m->regions[i].size);
		cr_assert_not_null(s->copy[i]);
	}
}

void shadow_free(struct shadow *s)
{
	for (unsigned int i = 0; i < MACHINE_REGIONS; i++)
		free(s->copy[i]);
}

static void copy_word(struct shadow *s, unsigned int region, uint64_t word)
{
	struct dirty_region *r = &s->map->regions[region];
	uint64_t bits = dirty_map_take(r, word, ~0ull);

	for (; bits != 0; bits &= bits - 1) {
		uint64_t page = word * MAP_WORD_PAGES + (uint64_t)__builtin_ctzll(bits);
		uint64_t at = page * VMFERRY_PAGE_SIZE;

		memcpy(s->copy[region] + at, (const char *)r->region.base + at, VMFERRY_PAGE_SIZE);
		s->copied++;
	}
}

void shadow_sweep(struct shadow *s)
{
	for (unsigned int i = 0; i < MACHINE_REGIONS; i++)
		for (uint64_t w = 0; w < s->map->regions[i].words; w++)
			copy_word(s, i, w);
}

static void *follow(void *arg)
{
	struct shadow *s = arg;

	while (!atomic_load(&s->done)) {
		shadow_sweep(s);
		usleep(100);
	}
	return NULL;
}

void shadow_follow(struct shadow *s)
{
	atomic_store(&s->done, false);
	cr_assert_eq(pthread_create(&s->thread, NULL, follow, s), 0);
}

void shadow_finish(struct shadow *s)
{
	atomic_store(&s->done, true);
	pthread_join(s->thread, NULL);
	shadow_sweep(s);
}

unsigned int shadow_differs(const struct shadow *s, const struct machine *m)
{
	unsigned int differs = 0;

	for (unsigned int i = 0; i < MACHINE_REGIONS; i++)
		for (uint64_t at = 0; at < m->regions[i].size; at += VMFERRY_PAGE_SIZE)
			differs += memcmp(s->copy[i] + at, (const char *)m->regions[i].base + at,
					  VMFERRY_PAGE_SIZE) != 0;
	return differs;
}
