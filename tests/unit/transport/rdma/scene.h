/* SPDX-License-Identifier: MIT */
/* A whole session with all that it can be used for, to be run with something going wrong in it. */
#ifndef TEST_SCENE_H
#define TEST_SCENE_H

#include <stdbool.h>

/* Moments at which scene_moment() is called, from 0. */
#define SCENE_MOMENTS 16

/* What the test does at each of them; NULL: nothing. */
extern void (*scene_moment)(unsigned int moment);

/* How long each step may take. */
#define SCENE_STEP_MS 3000

/* Text that must be said of any failure; NULL: whatever is said is enough. */
extern const char *scene_cause;

struct scene_result {
	int error;	    /* the first one, 0: all of it worked */
	bool reached;	    /* what was ordered to fail has come to it */
	unsigned int calls; /* as fake_calls() */
};

/*
 * From listening to closing, and then another session at the same listener, where nothing is
 * ordered to fail any more: it must work if the devices are @left. Asserts what must be true either
 * way: bytes that were said to be placed are right, an error was logged, nothing is left in the
 * devices, and all ends in time.
 */
struct scene_result scene_run(const char *what, unsigned int number, bool left);

/* Orders the @nth of something to fail. */
typedef void (*scene_order)(void *ctx, unsigned int nth);

/*
 * How often it comes to it is a matter of time: runs the scene for the first, the second, ..., and
 * of later ones for one in so many, until a run in which it did not come to it. Asserts that
 * nothing else fails, and that what fails is noticed. Returns how many runs failed.
 */
unsigned int scene_sweep(const char *what, scene_order order, void *ctx);

/*
 * Waits until something was complained about in this run, for 20 s at the most: from
 * scene_moment().
 */
void scene_await_complaint(void);

/* Memory that scene_run() uses, once for each test. */
void scene_begin(void);
void scene_end(void);

#endif
