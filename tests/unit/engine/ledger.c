/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>

#include "migrator/engine/ledger.h"

static const uint8_t first[MIGRATION_ID_BYTES] = {1}, second[MIGRATION_ID_BYTES] = {2};
static struct commit_ledger ledger;

static void setup(void)
{
	ledger_init(&ledger);
}

static void teardown(void)
{
	ledger_destroy(&ledger);
}

TestSuite(ledger, .init = setup, .fini = teardown, .timeout = 30);

Test(ledger, never_heard_of__is_unknown_and_cannot_be_taken)
{
	cr_assert_eq(ledger_query(&ledger, first), OWNER_UNKNOWN);
	cr_assert_eq(ledger_take(&ledger, first), -ECONNABORTED);
}

Test(ledger, taken__is_here_for_ever)
{
	cr_assert_eq(ledger_begin(&ledger, first), 0);
	cr_assert_eq(ledger_take(&ledger, first), 0);
	ledger_abort(&ledger, first);
	cr_assert_eq(ledger_query(&ledger, first), OWNER_HERE);
}

Test(ledger, asked_before_go__is_given_up_and_a_late_go_is_refused)
{
	cr_assert_eq(ledger_begin(&ledger, first), 0);
	cr_assert_eq(ledger_query(&ledger, first), OWNER_ABORTED);
	cr_assert_eq(ledger_take(&ledger, first), -ECONNABORTED);
}

Test(ledger, id_used_twice__is_refused)
{
	cr_assert_eq(ledger_begin(&ledger, first), 0);
	cr_assert_eq(ledger_begin(&ledger, first), -EEXIST);
	cr_assert_eq(ledger_begin(&ledger, second), 0);
}

Test(ledger, many_failed_attempts__never_forget_the_guest_that_is_here)
{
	cr_assert_eq(ledger_begin(&ledger, first), 0);
	cr_assert_eq(ledger_take(&ledger, first), 0);
	for (unsigned int i = 0; i < 3 * LEDGER_RECORDS; i++) {
		uint8_t id[MIGRATION_ID_BYTES] = {9, (uint8_t)i, (uint8_t)(i >> 8)};

		cr_assert_eq(ledger_begin(&ledger, id), 0);
		ledger_abort(&ledger, id);
	}
	cr_assert_eq(ledger_query(&ledger, first), OWNER_HERE);
}

#define ROUNDS_MAX 100000

static struct {
	pthread_barrier_t barrier; /* before each round and behind it */
	bool over;		   /* set between rounds */
	enum owner answer;
} race;

static void *ask_in_each_round(void *arg)
{
	for (;;) {
		pthread_barrier_wait(&race.barrier);
		if (race.over)
			return arg;
		race.answer = ledger_query(&ledger, first);
		pthread_barrier_wait(&race.barrier);
	}
}

/*
 * Never both: the source resumes on ABORTED, the destination runs on a taken GO. Which comes first
 * is left to chance, and both must have.
 */
Test(ledger, go_and_question_at_once__agree)
{
	unsigned int here = 0, aborted = 0;
	pthread_t thread;

	pthread_barrier_init(&race.barrier, NULL, 2);
	cr_assert_eq(pthread_create(&thread, NULL, ask_in_each_round, NULL), 0);
	for (int i = 0; i < ROUNDS_MAX && (i < 500 || here == 0 || aborted == 0); i++) {
		int taken;

		ledger_destroy(&ledger);
		ledger_init(&ledger);
		cr_assert_eq(ledger_begin(&ledger, first), 0);
		pthread_barrier_wait(&race.barrier);
		/* Later and later, so that the question comes first at times. */
		for (volatile int spin = 0; spin < i % 1000; spin++)
			;
		taken = ledger_take(&ledger, first);
		pthread_barrier_wait(&race.barrier);
		cr_assert_eq(race.answer, taken == 0 ? OWNER_HERE : OWNER_ABORTED);
		if (taken == 0)
			here++;
		else
			aborted++;
	}
	race.over = true;
	pthread_barrier_wait(&race.barrier);
	pthread_join(thread, NULL);
	pthread_barrier_destroy(&race.barrier);
	cr_expect(here > 0 && aborted > 0, "%u times taken, %u times given up", here, aborted);
}
