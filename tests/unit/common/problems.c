/* SPDX-License-Identifier: MIT */
/* Lists of problems: text, order, copies, and the limit. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include <vmferry/vmferry.h>

static struct vmferry_problems *problems;

static void setup(void)
{
	cr_assert_eq(vmferry_problems_new(&problems), 0);
}

static void teardown(void)
{
	vmferry_problems_free(&problems);
}

TestSuite(problems, .init = setup, .fini = teardown, .timeout = 20);

Test(problems, new__empty)
{
	cr_assert_eq(vmferry_problems_count(problems), 0);
	cr_assert_null(vmferry_problems_get(problems, 0));
}

Test(problems, add__text_with_remedy_in_order)
{
	char what[] = "no dirty ring";

	vmferry_problems_add(problems, what, "use the log");
	vmferry_problems_add(problems, "too little memory", "free some");
	memset(what, 'x', sizeof(what) - 1);
	cr_assert_eq(vmferry_problems_count(problems), 2);
	cr_assert_str_eq(vmferry_problems_get(problems, 0), "no dirty ring (use the log)");
	cr_assert_str_eq(vmferry_problems_get(problems, 1), "too little memory (free some)");
	cr_assert_null(vmferry_problems_get(problems, 2));
}

Test(problems, add_beyond_limit__counted_not_kept)
{
	char what[16];

	for (unsigned int i = 0; i < VMFERRY_PROBLEMS_MAX + 5; i++) {
		snprintf(what, sizeof(what), "%u", i);
		vmferry_problems_add(problems, what, "r");
	}
	cr_assert_eq(vmferry_problems_count(problems), VMFERRY_PROBLEMS_MAX + 5);
	cr_assert_str_eq(vmferry_problems_get(problems, VMFERRY_PROBLEMS_MAX - 1), "255 (r)");
	cr_assert_null(vmferry_problems_get(problems, VMFERRY_PROBLEMS_MAX));
	cr_assert_null(vmferry_problems_get(problems, SIZE_MAX));
}

Test(problems, free__sets_null_and_accepts_it)
{
	vmferry_problems_free(&problems);
	cr_assert_null(problems);
	vmferry_problems_free(&problems);
	cr_assert_null(problems);
}
