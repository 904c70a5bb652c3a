/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>

#include "migrator/engine/owner.h"

static const uint8_t first[MIGRATION_ID_BYTES] = {1}, second[MIGRATION_ID_BYTES] = {2};
static struct owner_book book;

static void setup(void)
{
	owner_init(&book);
}

static void teardown(void)
{
	owner_destroy(&book);
}

TestSuite(owner, .init = setup, .fini = teardown, .timeout = 30);

Test(owner, never_heard_of__is_unknown_and_cannot_be_taken)
{
	cr_assert_eq(owner_query(&book, first), OWNER_UNKNOWN);
	cr_assert_eq(owner_take(&book, first), -ECONNABORTED);
}

Test(owner, taken__is_here_for_ever)
{
	cr_assert_eq(owner_begin(&book, first), 0);
	cr_assert_eq(owner_take(&book, first), 0);
	owner_abort(&book, first);
	cr_assert_eq(owner_query(&book, first), OWNER_HERE);
}

Test(owner, asked_before_go__is_given_up_and_a_late_go_is_refused)
{
	cr_assert_eq(owner_begin(&book, first), 0);
	cr_assert_eq(owner_query(&book, first), OWNER_ABORTED);
	cr_assert_eq(owner_take(&book, first), -ECONNABORTED);
}

Test(owner, id_used_twice__is_refused)
{
	cr_assert_eq(owner_begin(&book, first), 0);
	cr_assert_eq(owner_begin(&book, first), -EEXIST);
	cr_assert_eq(owner_begin(&book, second), 0);
}

Test(owner, many_failed_attempts__never_forget_the_guest_that_is_here)
{
	cr_assert_eq(owner_begin(&book, first), 0);
	cr_assert_eq(owner_take(&book, first), 0);
	for (unsigned int i = 0; i < 3 * OWNER_MEMORY; i++) {
		uint8_t id[MIGRATION_ID_BYTES] = {9, (uint8_t)i, (uint8_t)(i >> 8)};

		cr_assert_eq(owner_begin(&book, id), 0);
		owner_abort(&book, id);
	}
	cr_assert_eq(owner_query(&book, first), OWNER_HERE);
}

static void *ask(void *arg)
{
	*(enum owner *)arg = owner_query(&book, first);
	return NULL;
}

Test(owner, go_and_question_at_once__agree)
{
	for (int i = 0; i < 500; i++) {
		enum owner answer;
		pthread_t thread;
		int taken;

		owner_destroy(&book);
		owner_init(&book);
		cr_assert_eq(owner_begin(&book, first), 0);
		cr_assert_eq(pthread_create(&thread, NULL, ask, &answer), 0);
		taken = owner_take(&book, first);
		pthread_join(thread, NULL);
		/* Never both: the source resumes on ABORTED, the destination runs on a taken GO. */
		cr_assert_eq(answer, taken == 0 ? OWNER_HERE : OWNER_ABORTED);
	}
}
