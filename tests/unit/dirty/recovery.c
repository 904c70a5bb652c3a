/* SPDX-License-Identifier: MIT */
/*
 * Rings that overflow, on a model of KVM's rings: thousands of orders of events. Whatever happens,
 * KVM's reset never comes beyond its last entry (from where it never comes back), every vCPU gets
 * on while there is a tracker and after it, and no write is lost.
 */
#include <criterion/criterion.h>

#include "migrator/dirty/tracker.h"
#include "model.h"

#define SEEDS	     1500
#define ROUNDS	     24
#define HARVESTS_MAX 4000 /* until every vCPU has written again */
#define STEPS_MAX    4000

TestSuite(recovery, .timeout = 300);

struct course {
	struct model model;
	struct tracker *tracker;
	uint32_t seed;
	uint64_t before[MODEL_VCPUS];
};

static void new_tracker(struct course *c)
{
	struct vmferry_vm vm = model_vm(&c->model);

	cr_assert_eq(tracker_new(VMFERRY_TRACKER_RING, &vm, c->model.map, &c->tracker), 0);
}

static void start(struct course *c)
{
	cr_assert_eq(tracker_start(c->tracker), 0, "seed %u: start", c->seed);
	dirty_region_mark(&c->model.map->regions[0], 0, MODEL_PAGES);
}

static void harvest(struct course *c)
{
	uint64_t pages = 0;

	cr_assert_eq(tracker_harvest(c->tracker, &pages), 0, "seed %u: harvest", c->seed);
	cr_assert(!c->model.overran, "seed %u: the reset came beyond the last entry", c->seed);
}

static void remember_writes(struct course *c)
{
	for (unsigned int i = 0; i < c->model.vcpus; i++)
		c->before[i] = c->model.vcpu[i].writes;
}

static bool all_have_written(const struct course *c)
{
	for (unsigned int i = 0; i < c->model.vcpus; i++)
		if (c->model.vcpu[i].writes == c->before[i])
			return false;
	return true;
}

/*
 * Those in KVM_RUN may have some writes to go before they are held: so what counts are those after
 * a while.
 */
static void check_that_all_get_on(struct course *c, bool tracked)
{
	for (unsigned int i = 0; i < 3; i++) {
		unsigned int turns = 0;

		remember_writes(c);
		while (!all_have_written(c)) {
			cr_assert_lt(turns++, HARVESTS_MAX, "seed %u: a vcpu is stuck %s", c->seed,
				     tracked ? "with a tracker" : "without one");
			model_run(&c->model, STEPS_MAX);
			if (tracked)
				harvest(c);
		}
	}
}

static void stop(struct course *c)
{
	cr_assert_eq(tracker_stop(c->tracker), 0, "seed %u: stop", c->seed);
	cr_assert(!c->model.overran, "seed %u: the reset came beyond the last entry", c->seed);
	check_that_all_get_on(c, false);
}

/* As after a migration that was given up, by the same tracker or by another. */
static void start_again(struct course *c)
{
	stop(c);
	if (model_random(&c->model, 2) == 0) {
		tracker_free(&c->tracker);
		new_tracker(c);
	}
	start(c);
}

/* The guest runs while it is harvested: now often, now seldom. */
static void run(struct course *c)
{
	for (unsigned int i = 0; i < ROUNDS; i++) {
		unsigned int harvests = model_random(&c->model, 20);
		uint32_t steps = 1u << model_random(&c->model, 14);

		for (unsigned int j = 0; j < harvests; j++) {
			model_run(&c->model, steps);
			harvest(c);
		}
		if (model_random(&c->model, 8) == 0)
			start_again(c);
		if (model_random(&c->model, 4) == 0)
			check_that_all_get_on(c, true);
	}
}

static uint64_t check(uint32_t seed)
{
	static struct course c;

	c.seed = seed;
	model_make(&c.model, seed);
	new_tracker(&c);
	start(&c);
	run(&c);
	model_pause(&c.model);
	harvest(&c);
	model_sweep(&c.model);
	for (unsigned int i = 0; i < MODEL_PAGES; i++)
		cr_assert_eq(c.model.copy[i], c.model.content[i], "seed %u: page %u is lost", seed,
			     i);
	c.model.paused = false;
	stop(&c);
	tracker_free(&c.tracker);
	model_free(&c.model);
	return c.model.overflows;
}

Test(recovery, thousands_of_orders_of_events__no_write_is_lost_and_no_vcpu_stuck)
{
	uint64_t overflows = 0;

	for (uint32_t seed = 1; seed <= SEEDS; seed++)
		overflows += check(seed);
	cr_assert_gt(overflows, 100000);
}
