/* SPDX-License-Identifier: MIT */
/* The source's table of the destination's keys: the test is the destination. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/wire.h"
#include "half.h"

#define MANY	64u
#define PATIENT (vmferry_now() + 60000 * MS)

static struct half half;

static void setup(void)
{
	log_keep();
	half_open(&half, true, 2);
}

static void teardown(void)
{
	half_close(&half);
}

TestSuite(rdma_keys, .init = setup, .fini = teardown, .timeout = 120);

struct says {
	uint8_t data[256];
	size_t length;
};

static void put_range(struct says *s, uint64_t address, uint64_t length)
{
	wire_put_u64(s->data + s->length, address);
	wire_put_u64(s->data + s->length + 8, length);
	s->length += 16;
}

static void put_keys(struct says *s, uint64_t address, uint64_t length, uint32_t count,
		     uint32_t key)
{
	put_range(s, address, length);
	wire_put_u32(s->data + s->length, count);
	s->length += 4;
	for (uint32_t i = 0; i < count; i++, s->length += 4)
		wire_put_u32(s->data + s->length, key + i);
}

/* Keys @key for rail 0 and @key + 1 for rail 1. */
static int say_keys(uint64_t address, uint64_t length, uint32_t key)
{
	struct says s = {.length = 0};

	put_keys(&s, address, length, 2, key);
	return half_say(&half, RDMA_CONTROL_KEYS, s.data, s.length);
}

static int say_gone(uint64_t address, uint64_t length)
{
	struct says s = {.length = 0};

	put_range(&s, address, length);
	return half_say(&half, RDMA_CONTROL_GONE, s.data, s.length);
}

static int say_none(uint64_t address)
{
	uint8_t data[8];

	wire_put_u64(data, address);
	return half_say(&half, RDMA_CONTROL_NONE, data, sizeof(data));
}

static uint64_t hear_want(void)
{
	struct vmferry_message m;
	uint64_t address;

	cr_assert(half_hear(&half, &m, 5000), "nothing is asked for");
	cr_assert_eq(m.type, RDMA_CONTROL_WANT);
	cr_assert_eq(m.length, 8);
	address = wire_get(m.data, 8);
	vmferry_message_free(&m);
	return address;
}

static bool is_silent(void)
{
	struct vmferry_message m;

	return !half_hear(&half, &m, 50);
}

/* A lane that needs a key. */
struct asking {
	uint64_t address;
	uint64_t deadline;
	int ret;
	uint32_t key;
	uint64_t end;
	pthread_t thread;
};

static void *ask(void *arg)
{
	struct asking *a = arg;

	a->ret = rdma_remote_key(half.rdma, 0, a->address, a->deadline, &a->key, &a->end);
	return NULL;
}

static void ask_begin(struct asking *a, uint64_t address)
{
	*a = (struct asking){.address = address, .deadline = PATIENT};
	cr_assert_eq(pthread_create(&a->thread, NULL, ask, a), 0);
}

static int ask_end(struct asking *a)
{
	pthread_join(a->thread, NULL);
	return a->ret;
}

static int ask_now(struct asking *a, uint64_t address)
{
	*a = (struct asking){.address = address};
	ask(a);
	return a->ret;
}

/* ---- keys that are there --------------------------------------------------------------------- */

Test(rdma_keys, announced__found_by_every_address_in_it)
{
	struct says s = {.length = 0};
	uint32_t key;
	uint64_t end;
	struct asking a;

	put_keys(&s, 8 * PAGE, 2 * PAGE, 2, 700);
	put_keys(&s, 2 * PAGE, PAGE, 2, 300);
	put_keys(&s, 3 * PAGE, 5 * PAGE, 2, 500);
	cr_assert_eq(half_say(&half, RDMA_CONTROL_KEYS, s.data, s.length), 0);
	cr_assert_eq(ask_now(&a, 2 * PAGE), 0);
	cr_expect(a.key == 300 && a.end == 3 * PAGE);
	cr_assert_eq(ask_now(&a, 3 * PAGE - 1), 0);
	cr_expect_eq(a.key, 300);
	cr_assert_eq(ask_now(&a, 3 * PAGE), 0);
	cr_expect(a.key == 500 && a.end == 8 * PAGE);
	cr_assert_eq(ask_now(&a, 10 * PAGE - 1), 0);
	cr_expect(a.key == 700 && a.end == 10 * PAGE);
	cr_assert_eq(rdma_remote_key(half.rdma, 1, 8 * PAGE, 0, &key, &end), 0);
	cr_expect_eq(key, 701);
	cr_expect(is_silent());
}

Test(rdma_keys, end_of_all_addresses__end_is_0)
{
	struct asking a;

	cr_assert_eq(say_keys(0 - PAGE, PAGE, 7), 0);
	cr_assert_eq(ask_now(&a, UINT64_MAX), 0);
	cr_expect_eq(a.end, 0);
	cr_expect_eq(say_gone(0 - PAGE, PAGE), 0);
	cr_expect_eq(ask_now(&a, UINT64_MAX), -ETIMEDOUT);
}

Test(rdma_keys, many__all_found)
{
	struct asking a;

	/* Not in their order. */
	for (uint64_t i = 0; i < 1000; i++)
		cr_assert_eq(say_keys(i * 7 % 1000 * PAGE, PAGE, (uint32_t)(i * 7 % 1000)), 0);
	for (uint32_t i = 0; i < 1000; i++) {
		cr_assert_eq(ask_now(&a, i * PAGE + 1), 0);
		cr_expect_eq(a.key, i);
	}
}

/* ---- keys that are missing ------------------------------------------------------------------- */

Test(rdma_keys, missing__asked_for_once_by_all_that_wait)
{
	struct asking a[4];

	for (unsigned int i = 0; i < 4; i++)
		ask_begin(&a[i], 5 * PAGE + i);
	cr_expect_eq(hear_want() / PAGE, 5);
	cr_expect(is_silent());
	cr_assert_eq(say_keys(0, 16 * PAGE, 9), 0);
	for (unsigned int i = 0; i < 4; i++) {
		cr_expect_eq(ask_end(&a[i]), 0);
		cr_expect_eq(a[i].key, 9);
	}
	cr_expect(is_silent());
}

Test(rdma_keys, answer_covers_one_wish_only__the_other_is_asked_for)
{
	struct asking a[2];
	uint64_t first;

	ask_begin(&a[0], PAGE);
	ask_begin(&a[1], 2 * PAGE);
	first = hear_want();
	cr_assert_eq(say_keys(first, PAGE, 1), 0);
	cr_expect_eq(first + hear_want(), 3 * PAGE);
	cr_assert_eq(say_keys(3 * PAGE - first, PAGE, 2), 0);
	cr_expect_eq(ask_end(&a[0]), 0);
	cr_expect_eq(ask_end(&a[1]), 0);
}

Test(rdma_keys, nothing_comes__etimedout_and_no_second_question)
{
	struct asking a = {.deadline = vmferry_now() + 30 * MS};

	ask(&a);
	cr_expect_eq(a.ret, -ETIMEDOUT);
	cr_expect_geq(vmferry_now(), a.deadline);
	for (unsigned int i = 0; i < 100; i++)
		cr_expect_eq(ask_now(&a, i), -ETIMEDOUT);
	cr_expect_eq(hear_want(), 0);
	cr_expect(is_silent());
	cr_assert_eq(say_keys(0, PAGE, 3), 0);
	cr_expect_eq(ask_now(&a, 0), 0);
	cr_expect_eq(session_error(half.session), 0);
}

Test(rdma_keys, more_wishes_than_lanes__wait_their_turn)
{
	struct asking a;

	for (uint64_t i = 0; i < MANY + 5; i++)
		cr_expect_eq(ask_now(&a, i << 30), -ETIMEDOUT);
	for (uint64_t i = 0; i < MANY; i++)
		cr_expect_eq(hear_want(), i << 30);
	cr_expect(is_silent());
	cr_assert_eq(say_keys(7ull << 30, 1ull << 30, 3), 0);
	cr_expect_eq(ask_now(&a, (uint64_t)MANY << 30), -ETIMEDOUT);
	cr_expect_eq(hear_want(), (uint64_t)MANY << 30);
}

Test(rdma_keys, refused__eacces)
{
	struct asking a;

	ask_begin(&a, 3 * PAGE);
	cr_expect_eq(hear_want(), 3 * PAGE);
	cr_expect_eq(say_none(3 * PAGE), -EACCES);
	cr_expect_eq(ask_end(&a), -EACCES);
	cr_expect_eq(session_error(half.session), -EACCES);
	cr_expect(log_has("the destination refuses access to the addresses"));
	cr_expect_eq(ask_now(&a, 3 * PAGE), -EACCES);
}

Test(rdma_keys, refused_what_nobody_wants__ignored)
{
	cr_expect_eq(say_none(3 * PAGE), 0);
	cr_expect_eq(session_error(half.session), 0);
}

Test(rdma_keys, session_ends__waiting_ends)
{
	uint64_t before = vmferry_now();
	struct asking a;

	ask_begin(&a, 0);
	hear_want();
	vmferry_session_shutdown(half.session);
	cr_expect_eq(ask_end(&a), -ECANCELED);
	cr_expect_lt(vmferry_now() - before, 5000 * MS);
	cr_expect_eq(ask_now(&a, PAGE), -ECANCELED);
}

Test(rdma_keys, peer_has_gone__session_error)
{
	struct asking a;

	channel_shutdown(&half.peer);
	cr_expect_eq(ask_now(&a, 0), -ECONNRESET);
	cr_expect_eq(session_error(half.session), -ECONNRESET);
}

/* ---- keys that are taken back ---------------------------------------------------------------- */

Test(rdma_keys, gone__asked_for_again_and_generation_changes)
{
	uint64_t generation = rdma_remote_generation(half.rdma);
	struct asking a;

	cr_assert_eq(say_keys(0, PAGE, 1), 0);
	cr_assert_eq(say_keys(PAGE, PAGE, 2), 0);
	cr_assert_eq(say_keys(2 * PAGE, PAGE, 3), 0);
	cr_assert_eq(say_keys(3 * PAGE, PAGE, 4), 0);
	cr_expect_eq(rdma_remote_generation(half.rdma), generation);
	cr_assert_eq(say_gone(PAGE, 2 * PAGE), 0);
	cr_expect_neq(rdma_remote_generation(half.rdma), generation);
	cr_expect_eq(ask_now(&a, 0), 0);
	cr_expect_eq(ask_now(&a, 3 * PAGE), 0);
	cr_expect_eq(a.key, 4);
	ask_begin(&a, 2 * PAGE);
	cr_expect_eq(hear_want(), 2 * PAGE);
	cr_assert_eq(say_keys(PAGE, 2 * PAGE, 5), 0);
	cr_expect_eq(ask_end(&a), 0);
	cr_expect_eq(a.key, 5);
}

/*
 * The destination may have taken the wish in before the memory went: it will not answer any more.
 */
Test(rdma_keys, gone_while_a_lane_waits__asks_again)
{
	struct asking a;

	ask_begin(&a, PAGE);
	cr_expect_eq(hear_want(), PAGE);
	cr_assert_eq(say_gone(0, 4 * PAGE), 0);
	cr_expect_eq(hear_want(), PAGE);
	cr_assert_eq(say_keys(0, 4 * PAGE, 5), 0);
	cr_expect_eq(ask_end(&a), 0);
}

/* ---- nonsense -------------------------------------------------------------------------------- */

static void expect_eproto(const char *what, uint32_t type, const struct says *s)
{
	half_close(&half);
	half_open(&half, true, 2);
	cr_assert_eq(say_keys(4 * PAGE, 4 * PAGE, 1), 0);
	cr_expect_eq(half_say(&half, type, s->data, s->length), -EPROTO, "%s", what);
	cr_expect_eq(session_error(half.session), -EPROTO, "%s", what);
}

static void expect_bad_keys(const char *what, uint64_t address, uint64_t length, uint32_t count)
{
	struct says s = {.length = 0};

	put_keys(&s, address, length, count, 1);
	expect_eproto(what, RDMA_CONTROL_KEYS, &s);
}

static void expect_bad_range(const char *what, uint64_t address, uint64_t length)
{
	struct says s = {.length = 0};

	expect_bad_keys(what, address, length, 2);
	put_range(&s, address, length);
	expect_eproto(what, RDMA_CONTROL_GONE, &s);
}

Test(rdma_keys, impossible_ranges__eproto)
{
	expect_bad_range("empty", PAGE, 0);
	expect_bad_range("address not of a page", 1, PAGE);
	expect_bad_range("length not of a page", 0, PAGE - 1);
	expect_bad_range("wraps", 0 - PAGE, 2 * PAGE);
	expect_bad_range("wraps to all", PAGE, 0 - PAGE + PAGE);
	expect_bad_range("partly there, from below", 3 * PAGE, 2 * PAGE);
	expect_bad_range("partly there, from above", 7 * PAGE, 2 * PAGE);
	expect_bad_range("inside", 5 * PAGE, PAGE);
}

Test(rdma_keys, impossible_keys__eproto)
{
	struct says s = {.length = 0};

	expect_bad_keys("there already", 4 * PAGE, 4 * PAGE, 2);
	expect_bad_keys("around what is there", 0, 16 * PAGE, 2);
	expect_bad_keys("too few", 0, PAGE, 1);
	expect_bad_keys("none", 0, PAGE, 0);
	expect_bad_keys("too many", 0, PAGE, 3);
	put_keys(&s, 0, PAGE, 2, 1);
	s.length--;
	expect_eproto("ends too early", RDMA_CONTROL_KEYS, &s);
	s.length = 0;
	put_keys(&s, 0, PAGE, 2, 1);
	put_keys(&s, 0, PAGE, 2, 1);
	expect_eproto("twice in one", RDMA_CONTROL_KEYS, &s);
	wire_put_u32(s.data + 16, UINT32_MAX);
	expect_eproto("very many", RDMA_CONTROL_KEYS, &s);
	s.length = 0;
	expect_eproto("nothing", RDMA_CONTROL_KEYS, &s);
}

Test(rdma_keys, impossible_lengths_and_types__eproto)
{
	struct says s = {.length = 0};

	expect_eproto("gone: nothing", RDMA_CONTROL_GONE, &s);
	expect_eproto("none: nothing", RDMA_CONTROL_NONE, &s);
	s.length = 9;
	expect_eproto("none: too long", RDMA_CONTROL_NONE, &s);
	s.length = 0;
	put_range(&s, 4 * PAGE, 4 * PAGE);
	s.length++;
	expect_eproto("gone: too long", RDMA_CONTROL_GONE, &s);
	s.length = 8;
	expect_eproto("a source's own word", RDMA_CONTROL_WANT, &s);
}
