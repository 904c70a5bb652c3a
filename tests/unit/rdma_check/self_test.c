/* SPDX-License-Identifier: MIT */
/*
 * The self-test's own part, over TCP: that it passes where all is well, and would not where
 * something is not.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "transport/rdma/self_test.h"

TestSuite(self_test, .timeout = 60);

#define WORDS 1024

Test(self_test, over_tcp__passes_and_measures)
{
	const struct vmferry_transport_options options = {
		.size = sizeof(options), .transport = VMFERRY_TRANSPORT_TCP, .lanes = 3};
	struct vmferry_rdma_self_test result = {.size = sizeof(result)};

	cr_assert_eq(self_test_run(&options, vmferry_now() + 30 * NS_PER_S, &result), 0);
	cr_assert_eq(result.size, sizeof(result));
	cr_assert_eq(result.lanes, 3);
	cr_assert_geq(result.bytes, 16ull << 20);
	cr_assert_gt(result.bytes_per_second, 0);
	cr_assert_gt(result.fence_ns, 0);
	cr_assert_eq(result.register_ns, 0, "TCP pins nothing");
}

Test(self_test, deadline_passed__ends_at_once)
{
	const struct vmferry_transport_options options = {
		.size = sizeof(options), .transport = VMFERRY_TRANSPORT_TCP, .lanes = 1};
	struct vmferry_rdma_self_test result = {.size = sizeof(result)};
	uint64_t begin = vmferry_now();

	cr_assert_lt(self_test_run(&options, begin, &result), 0);
	cr_assert_lt(vmferry_now() - begin, 5 * NS_PER_S);
	cr_assert_eq(result.bytes, 0);
}

Test(self_test, bad_arguments__refused)
{
	struct vmferry_rdma_self_test result = {.size = sizeof(result) - 1};
	uint64_t deadline = vmferry_now() + NS_PER_S;

	cr_assert_eq(vmferry_rdma_self_test("127.0.0.1", deadline, &result), -EINVAL);
	result.size = sizeof(result);
	cr_assert_eq(vmferry_rdma_self_test("rxe0", deadline, &result), -EINVAL);
	cr_assert_eq(vmferry_rdma_self_test(NULL, deadline, &result), -EINVAL);
}

/* What a broken device does: a word lost, one of the round before, one at another's place. */
Test(self_test, any_wrong_word__found)
{
	uint64_t *words = malloc(WORDS * sizeof(*words));
	uint64_t *before = malloc(WORDS * sizeof(*words));
	const size_t places[] = {0, 1, 511, WORDS - 1};

	self_test_fill(words, WORDS, 2);
	self_test_fill(before, WORDS, 1);
	cr_assert_eq(self_test_compare(words, WORDS, 2), WORDS);
	cr_assert_eq(self_test_compare(words, WORDS, 1), 0);
	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		size_t at = places[i];
		const uint64_t wrong[] = {0, before[at], words[(at + 1) % WORDS], words[at] ^ 1};
		uint64_t right = words[at];

		for (size_t k = 0; k < 4; k++) {
			words[at] = wrong[k];
			cr_assert_eq(self_test_compare(words, WORDS, 2), at, "%zu at %zu", k, at);
		}
		words[at] = right;
	}
	free(before);
	free(words);
}
