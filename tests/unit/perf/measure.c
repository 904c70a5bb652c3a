/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>

#include "../../../perf/measure.h"

TestSuite(measure, .timeout = 20);

Test(measure, cpu_used__without_the_vcpus)
{
	struct cpu_time from = {.all_ns = 100, .vcpus_ns = 30};
	struct cpu_time to = {.all_ns = 180, .vcpus_ns = 60};

	cr_assert_eq(cpu_used(from, to), 50);
}

Test(measure, cpu_used_of_an_ended_vcpu__asks_to_measure_again, .exit_code = MEASURE_AGAIN)
{
	struct cpu_time from = {.all_ns = 100, .vcpus_ns = 30};
	struct cpu_time to = {.all_ns = 180, .vcpus_ns = 0};

	cpu_used(from, to);
	cr_assert_fail();
}
