/* SPDX-License-Identifier: MIT */
#include "transport/inbox.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "pair.h"
#include "support/fake_clock.h"

static struct inbox inbox;

static void setup(void)
{
	inbox_init(&inbox);
}

static void teardown(void)
{
	inbox_destroy(&inbox);
}

TestSuite(inbox, .init = setup, .fini = teardown, .timeout = 120);

static int put(uint32_t type, size_t length)
{
	struct vmferry_message m = {.type = type, .length = length};
	int ret;

	if (length > 0)
		m.data = malloc(length);
	ret = inbox_put(&inbox, &m);
	/* What was not taken over is still ours. */
	if (ret == 0)
		cr_assert_null(m.data);
	else
		cr_assert_eq(m.length, length);
	vmferry_message_free(&m);
	return ret;
}

static void expect(uint32_t type)
{
	struct vmferry_message m;

	cr_assert_eq(inbox_take(&inbox, &m), 0);
	cr_expect_eq(m.type, type);
	vmferry_message_free(&m);
}

static void expect_none(void)
{
	struct vmferry_message m;

	cr_expect_eq(inbox_take(&inbox, &m), -EAGAIN);
}

Test(inbox, several__in_order)
{
	expect_none();
	for (unsigned int round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < 5; i++)
			cr_assert_eq(put(i, i), 0);
		for (uint32_t i = 0; i < 5; i++)
			expect(i);
		expect_none();
	}
}

Test(inbox, data__is_what_was_put)
{
	struct vmferry_message m = {.type = 4, .length = 5, .data = strdup("abcd")};
	const void *data = m.data;

	cr_assert_eq(inbox_put(&inbox, &m), 0);
	cr_assert_eq(inbox_take(&inbox, &m), 0);
	cr_expect_eq(m.data, data);
	cr_expect_eq(m.length, 5);
	vmferry_message_free(&m);
}

Test(inbox, too_many__enobufs_until_one_is_taken)
{
	for (uint32_t i = 0; i < INBOX_COUNT_MAX; i++)
		cr_assert_eq(put(i, 0), 0);
	cr_expect_eq(put(0, 0), -ENOBUFS);
	expect(0);
	cr_expect_eq(put(77, 0), 0);
	cr_expect_eq(put(0, 0), -ENOBUFS);
}

Test(inbox, too_many_bytes__enobufs_until_some_are_taken)
{
	for (uint32_t i = 0; i < INBOX_BYTES_MAX / VMFERRY_MESSAGE_MAX; i++)
		cr_assert_eq(put(i, VMFERRY_MESSAGE_MAX), 0);
	cr_expect_eq(put(1, 1), -ENOBUFS);
	cr_expect_eq(put(2, 0), 0);
	expect(0);
	cr_expect_eq(put(3, VMFERRY_MESSAGE_MAX), 0);
	cr_expect_eq(put(1, 1), -ENOBUFS);
}

/* Of a wait that only its deadline ends. */
static void expect_wait_of(uint64_t ns)
{
	uint64_t begun;

	fake_clock_stop();
	begun = vmferry_now();
	fake_clock_rush(true);
	inbox_wait(&inbox, begun + ns);
	fake_clock_rush(false);
	cr_expect_eq(vmferry_now(), begun + ns);
}

Test(inbox, nothing_comes__wait_ends_at_the_deadline)
{
	expect_wait_of(30 * MS);
	expect_none();
}

/* Of a wait that must not last: its deadline would be seen. */
static void expect_no_wait(void)
{
	uint64_t begun;

	fake_clock_stop();
	begun = vmferry_now();
	fake_clock_rush(true);
	inbox_wait(&inbox, begun + 10000 * MS);
	fake_clock_rush(false);
	cr_expect_eq(vmferry_now(), begun);
}

Test(inbox, woken_before__wait_ends_at_once_but_only_one)
{
	inbox_wake(&inbox);
	inbox_wake(&inbox);
	expect_no_wait();
	expect_wait_of(30 * MS);
}

Test(inbox, one_there__no_wait)
{
	cr_assert_eq(put(1, 0), 0);
	expect_no_wait();
	expect(1);
}

Test(inbox, closed__told_and_woken_and_the_rest_is_still_there)
{
	cr_expect_not(inbox_closed(&inbox));
	cr_assert_eq(put(8, 3), 0);
	inbox_close(&inbox);
	expect_no_wait();
	cr_expect(inbox_closed(&inbox));
	expect(8);
	expect_none();
}

static _Atomic unsigned int waits;

static void *wait_thread(void *arg)
{
	(void)arg;
	fake_clock_watch(&waits);
	inbox_wait(&inbox, PATIENT);
	return NULL;
}

Test(inbox, woken_while_waiting__ends)
{
	pthread_t thread;

	fake_clock_stop();
	cr_assert_eq(pthread_create(&thread, NULL, wait_thread, NULL), 0);
	cr_assert(fake_clock_waits(&waits));
	inbox_wake(&inbox);
	pthread_join(thread, NULL);
}

enum { PUTTERS = 3, EACH = 1000 };

static void *put_many(void *arg)
{
	uint32_t type = *(uint32_t *)arg;

	for (uint32_t i = 0; i < EACH; i++) {
		uint32_t *data = malloc(sizeof(*data));
		struct vmferry_message m = {.type = type, .length = sizeof(*data), .data = data};

		*data = i;
		if (inbox_put(&inbox, &m) != 0)
			abort();
	}
	return NULL;
}

Test(inbox, many_putters__each_in_its_order_and_none_missed)
{
	uint32_t types[PUTTERS], next[PUTTERS] = {0};
	pthread_t threads[PUTTERS];
	struct vmferry_message m;

	for (uint32_t i = 0; i < PUTTERS; i++) {
		types[i] = i;
		cr_assert_eq(pthread_create(&threads[i], NULL, put_many, &types[i]), 0);
	}
	for (unsigned int taken = 0; taken < PUTTERS * EACH;) {
		if (inbox_take(&inbox, &m) < 0) {
			inbox_wait(&inbox, PATIENT);
			continue;
		}
		cr_assert_lt(m.type, PUTTERS);
		cr_assert_eq(*(uint32_t *)m.data, next[m.type]++);
		vmferry_message_free(&m);
		taken++;
	}
	for (unsigned int i = 0; i < PUTTERS; i++)
		pthread_join(threads[i], NULL);
	expect_none();
}
