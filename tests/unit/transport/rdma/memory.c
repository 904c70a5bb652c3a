/* SPDX-License-Identifier: MIT */
/*
 * Registered memory of both sides over fake devices: what is pinned and when, what the source is
 * told, and what happens if it fails.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/wire.h"
#include "fake/fake.h"
#include "half.h"
#include "limit.h"
#include "transport/rdma/chunk.h"

/*
 * Small, so that an ordinary user's memlock limit is enough; by what the device takes, see begin().
 */
#define CHUNK	(64 * 1024ull)
#define CHUNKS	16u
#define SIZE	(CHUNKS * CHUNK)
#define ADDRESS (1ull << 32)
#define WRITE	VMFERRY_ACCESS_REMOTE_WRITE

static struct half half;
static uint8_t *base;
static struct vmferry_memory *memory;

static void begin(bool is_source, unsigned int rails, uint64_t address)
{
	struct fake_limits limits;

	fake_limits_get(&limits);
	limits.max_mr_size = 100 * 1024;
	fake_limits_set(&limits);
	log_keep();
	half_open(&half, is_source, rails);
	base = untouched_new(SIZE);
	cr_assert_eq(vmferry_register(half.session, base, SIZE, address,
				      is_source ? VMFERRY_ACCESS_LOCAL : WRITE, &memory),
		     0);
}

static void end(void)
{
	vmferry_deregister(&memory);
	half_close(&half);
	munmap(base, SIZE);
}

static unsigned int regions(void)
{
	struct fake_counts counts;

	fake_counts(&counts);
	return counts.live.mrs;
}

static struct vmferry_registration_stats stats(void)
{
	struct vmferry_registration_stats s;

	vmferry_registration_stats(half.session, &s);
	return s;
}

static int want(uint64_t address)
{
	uint8_t data[8];

	wire_put_u64(data, address);
	return half_say(&half, RDMA_CONTROL_WANT, data, sizeof(data));
}

struct keys {
	uint64_t address;
	uint64_t length;
	uint32_t count;
	uint32_t keys[2];
};

static struct keys hear_keys(void)
{
	struct vmferry_message m;
	struct wire_reader in;
	struct keys k;

	cr_assert(half_hear(&half, &m, 10000), "nothing is announced");
	cr_assert_eq(m.type, RDMA_CONTROL_KEYS);
	wire_reader_init(&in, m.data, m.length);
	k.address = wire_read_u64(&in);
	k.length = wire_read_u64(&in);
	k.count = wire_read_u32(&in);
	cr_assert_leq(k.count, 2);
	for (uint32_t i = 0; i < k.count; i++)
		k.keys[i] = wire_read_u32(&in);
	cr_assert(wire_done(&in));
	vmferry_message_free(&m);
	return k;
}

TestSuite(rdma_memory, .timeout = 120);

/* ---- destination ----------------------------------------------------------------------------- */

Test(rdma_memory, registered__nothing_is_pinned)
{
	begin(false, 2, ADDRESS);
	cr_expect_eq(regions(), 0);
	cr_expect_eq(resident_bytes(base, SIZE), 0);
	end();
}

Test(rdma_memory, one_page_prepared__its_chunk_is_pinned_on_all_rails_and_announced)
{
	struct keys k;

	begin(false, 2, ADDRESS);
	cr_assert_eq(vmferry_prepare(memory, CHUNK + 5 * PAGE, PAGE), 0);
	k = hear_keys();
	cr_expect_eq(k.address, ADDRESS + CHUNK);
	cr_expect_eq(k.length, CHUNK);
	cr_expect_eq(k.count, 2);
	cr_expect_neq(k.keys[0], k.keys[1]);
	cr_expect_eq(regions(), 2);
	cr_expect_eq(resident_bytes(base + CHUNK, CHUNK), CHUNK);
	cr_expect_eq(resident_bytes(base, SIZE), CHUNK);
	cr_expect_eq(stats().bytes, CHUNK);
	cr_expect_eq(stats().regions, 2);
	cr_expect_gt(stats().ns, 0);
	end();
}

/* All of it is announced, every address once, and chunks end where addresses are aligned. */
Test(rdma_memory, address_not_aligned__announced_without_gap_or_overlap)
{
	uint64_t address = ADDRESS + CHUNK - PAGE;
	bool there[CHUNKS + 1] = {false};
	uint64_t bytes = 0;

	begin(false, 1, address);
	cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
	while (bytes < SIZE) {
		struct keys k = hear_keys();
		uint64_t number = (k.address - ADDRESS) / CHUNK;

		cr_assert_leq(number, CHUNKS);
		cr_expect_not(there[number]);
		there[number] = true;
		cr_expect_eq(k.address, number == 0 ? address : ADDRESS + number * CHUNK);
		bytes += k.length;
	}
	cr_expect_eq(bytes, SIZE);
	cr_expect_eq(regions(), CHUNKS + 1);
	end();
}

Test(rdma_memory, end_of_all_addresses__announced)
{
	struct keys k;

	begin(false, 1, 0 - SIZE);
	cr_assert_eq(vmferry_prepare(memory, SIZE - PAGE, PAGE), 0);
	k = hear_keys();
	cr_expect_eq(k.address, 0 - CHUNK);
	cr_expect_eq(k.length, CHUNK);
	end();
}

Test(rdma_memory, prepared_twice__pinned_once)
{
	begin(false, 1, ADDRESS);
	for (unsigned int i = 0; i < 3; i++)
		cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
	for (unsigned int i = 0; i < CHUNKS; i++)
		hear_keys();
	cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
	cr_assert_eq(want(ADDRESS), 0);
	vmferry_deregister(&memory);
	cr_expect(half_hears(&half, RDMA_CONTROL_GONE), "something is announced twice");
	cr_expect_eq(stats().regions, CHUNKS);
	half_close(&half);
}

Test(rdma_memory, wanted__announced)
{
	begin(false, 1, ADDRESS);
	cr_assert_eq(want(ADDRESS + 2 * CHUNK + 12345), 0);
	cr_expect_eq(hear_keys().address, ADDRESS + 2 * CHUNK);
	end();
}

Test(rdma_memory, wanted__comes_before_what_is_prepared)
{
	struct rdma_memory *m;
	struct rdma_registrar *r;

	begin(false, 1, ADDRESS);
	m = memory->transport;
	r = half.rdma->registrar;
	pthread_mutex_lock(&r->lock);
	for (unsigned int i = 0; i < CHUNKS; i++)
		registrar_queue(r, &m->chunks[i], false);
	registrar_queue(r, &m->chunks[3], true);
	registrar_queue(r, &m->chunks[1], true);
	registrar_queue(r, &m->chunks[3], true);
	cr_expect_eq(TAILQ_FIRST(&r->wanted), &m->chunks[3]);
	cr_expect_eq(TAILQ_NEXT(&m->chunks[3], queued), &m->chunks[1]);
	cr_expect_null(TAILQ_NEXT(&m->chunks[1], queued));
	cr_expect_eq(TAILQ_FIRST(&r->prepared), &m->chunks[0]);
	cr_expect_eq(TAILQ_NEXT(&m->chunks[0], queued), &m->chunks[2]);
	pthread_mutex_unlock(&r->lock);
	for (unsigned int i = 0; i < CHUNKS; i++)
		hear_keys();
	end();
}

static void expect_none(uint64_t address)
{
	struct vmferry_message m;

	cr_assert_eq(want(address), 0);
	cr_assert(half_hear(&half, &m, 5000));
	cr_expect_eq(m.type, RDMA_CONTROL_NONE);
	cr_expect_eq(m.length, 8);
	cr_expect_eq(wire_get(m.data, 8), address);
	vmferry_message_free(&m);
}

Test(rdma_memory, wanted_where_nothing_is__none)
{
	struct vmferry_memory *private;
	uint8_t *more = untouched_new(CHUNK);

	begin(false, 1, ADDRESS);
	cr_assert_eq(vmferry_register(half.session, more, CHUNK, 0, VMFERRY_ACCESS_LOCAL, &private),
		     0);
	expect_none(ADDRESS - 1);
	expect_none(ADDRESS + SIZE);
	expect_none(UINT64_MAX);
	expect_none(0);
	cr_expect(log_has("nothing is registered there"));
	cr_expect_eq(regions(), 0);
	vmferry_deregister(&private);
	vmferry_deregister(&memory);
	cr_expect(half_hears(&half, RDMA_CONTROL_GONE));
	expect_none(ADDRESS);
	half_close(&half);
}

Test(rdma_memory, source_says_nonsense__eproto)
{
	static const struct {
		uint32_t type;
		size_t length;
	} nonsense[] = {{RDMA_CONTROL_WANT, 7},	 {RDMA_CONTROL_WANT, 9}, {RDMA_CONTROL_WANT, 0},
			{RDMA_CONTROL_KEYS, 24}, {RDMA_CONTROL_NONE, 8}, {RDMA_CONTROL_GONE, 16}};
	uint8_t data[24] = {0};

	for (unsigned int i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		begin(false, 1, 0);
		cr_expect_eq(half_say(&half, nonsense[i].type, data, nonsense[i].length), -EPROTO,
			     "%u", i);
		cr_expect_eq(session_error(half.session), -EPROTO, "%u", i);
		end();
	}
}

static void expect_gone_last(void)
{
	struct vmferry_message m;
	bool gone = false;

	while (!gone) {
		cr_assert(half_hear(&half, &m, 5000));
		gone = m.type == RDMA_CONTROL_GONE;
		if (gone) {
			cr_expect_eq(m.length, 16);
			cr_expect_eq(wire_get(m.data, 8), ADDRESS);
			cr_expect_eq(wire_get((uint8_t *)m.data + 8, 8), SIZE);
		}
		vmferry_message_free(&m);
	}
	cr_expect_not(half_hear(&half, &m, 10));
}

Test(rdma_memory, deregistered_while_it_is_pinned__gone_comes_last)
{
	for (unsigned int i = 0; i < 20; i++) {
		begin(false, 2, ADDRESS);
		cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
		usleep(100 * i);
		vmferry_deregister(&memory);
		cr_expect_eq(regions(), 0);
		expect_gone_last();
		end();
	}
}

Test(rdma_memory, deregistered_and_registered_again__announced_again)
{
	uint32_t key;

	begin(false, 1, ADDRESS);
	cr_assert_eq(want(ADDRESS), 0);
	key = hear_keys().keys[0];
	vmferry_deregister(&memory);
	cr_expect(half_hears(&half, RDMA_CONTROL_GONE));
	cr_assert_eq(vmferry_register(half.session, base, SIZE, ADDRESS, WRITE, &memory), 0);
	cr_assert_eq(want(ADDRESS), 0);
	cr_expect_neq(hear_keys().keys[0], key);
	end();
}

Test(rdma_memory, deregistered_after_the_session_failed_or_was_revoked__says_nothing)
{
	struct vmferry_message m;

	begin(false, 1, ADDRESS);
	cr_assert_eq(want(ADDRESS), 0);
	hear_keys();
	atomic_store(&half.session->revoked, true);
	vmferry_deregister(&memory);
	cr_expect_not(half_hear(&half, &m, 50));
	cr_expect_eq(session_error(half.session), 0);

	atomic_store(&half.session->revoked, false);
	cr_assert_eq(vmferry_register(half.session, base, SIZE, ADDRESS, WRITE, &memory), 0);
	cr_assert_eq(want(ADDRESS), 0);
	hear_keys();
	vmferry_session_shutdown(half.session);
	cr_expect_eq(vmferry_prepare(memory, 0, SIZE), -ECANCELED);
	vmferry_deregister(&memory);
	cr_expect_eq(regions(), 0);
	cr_expect_not(half_hear(&half, &m, 50));
	half_close(&half);
}

/* ---- discarding ------------------------------------------------------------------------------ */

Test(rdma_memory, discard__not_where_the_device_has_pages)
{
	begin(false, 1, ADDRESS);
	memset(base, 7, SIZE);
	cr_assert_eq(vmferry_prepare(memory, CHUNK, PAGE), 0);
	/* Queued or pinned already, it makes no difference. */
	cr_expect_eq(vmferry_discard(memory, CHUNK, PAGE), -EBUSY);
	hear_keys();
	cr_expect_eq(vmferry_discard(memory, 2 * CHUNK - PAGE, PAGE), -EBUSY);
	cr_expect_eq(vmferry_discard(memory, 0, SIZE), -EBUSY);
	cr_expect_eq(base[0], 7);
	cr_expect_eq(base[CHUNK], 7);
	cr_expect_eq(base[2 * CHUNK - 1], 7);
	cr_expect_eq(vmferry_discard(memory, CHUNK - PAGE, PAGE), 0);
	cr_expect_eq(base[CHUNK - PAGE], 0);
	cr_expect_eq(vmferry_discard(memory, 2 * CHUNK, PAGE), 0);
	cr_expect_eq(base[2 * CHUNK], 0);
	end();
}

/*
 * The fake device refuses to page on demand, so the test says what one that does not would leave
 * behind.
 */
Test(rdma_memory, discard_on_demand__not_where_it_was_pinned_after_all)
{
	struct rdma_memory *m;

	begin(false, 1, ADDRESS);
	half.rdma->rails[0]->limits.odp = true;
	cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
	for (unsigned int i = 0; i < CHUNKS; i++)
		hear_keys();
	cr_expect_eq(vmferry_discard(memory, 0, PAGE), -EBUSY);
	m = memory->transport;
	while (chunk_state(&m->chunks[0]) != CHUNK_READY)
		;
	m->chunks[0].pinned = false;
	base[0] = 7;
	cr_expect_eq(vmferry_discard(memory, 0, PAGE), 0);
	cr_expect_eq(base[0], 0);
	end();
}

/* ---- failures -------------------------------------------------------------------------------- */

Test(rdma_memory, device_refuses_for_want_of_memory__session_ends_with_the_remedy)
{
	begin(false, 2, ADDRESS);
	/* The second rail's: what the first one has must be given back. */
	fake_fail_at(FAKE_REG_MR, 2, ENOMEM);
	cr_assert_eq(want(ADDRESS), 0);
	cr_expect_eq(half_error(&half), -ENOMEM);
	cr_expect(log_has("the memlock limit is "));
	cr_expect(log_has("LimitMEMLOCK=infinity"));
	end();
}

/*
 * A file that is shorter than its mapping, such as huge pages that have run out: touching it would
 * be SIGBUS.
 */
Test(rdma_memory, memory_cannot_be_populated__session_ends)
{
	int fd = memfd_create("empty", MFD_CLOEXEC);

	begin(false, 1, ADDRESS);
	cr_assert_eq(
		mmap(base + CHUNK, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0),
		base + CHUNK);
	cr_assert_eq(vmferry_prepare(memory, CHUNK, PAGE), 0);
	cr_expect_eq(half_error(&half), -EFAULT);
	cr_expect(log_has("cannot be populated: Bad address"));
	cr_expect_eq(regions(), 0);
	end();
	close(fd);
}

Test(rdma_memory, device_cannot_write_to_it__session_ends_with_the_remedy)
{
	begin(false, 1, ADDRESS);
	fake_fail_at(FAKE_REG_MR, 1, EFAULT);
	cr_assert_eq(vmferry_prepare(memory, CHUNK, PAGE), 0);
	cr_expect_eq(half_error(&half), -EFAULT);
	cr_expect(log_has("it must be writable, and no userfaultfd may watch it"));
	end();
}

Test(rdma_memory, on_demand_paging_refused__pinned)
{
	begin(false, 1, ADDRESS);
	half.rdma->rails[0]->limits.odp = true;
	cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
	for (unsigned int i = 0; i < CHUNKS; i++)
		hear_keys();
	cr_expect(log_has("refuses on-demand paging"));
	cr_expect_eq(regions(), CHUNKS);
	end();
}

/* All of the memory passes the limit, and one chunk does not. */
Test(rdma_memory, more_than_the_memlock_limit__warned_of_and_not_prepared)
{
	limit_memlock(2 * CHUNK);
	begin(false, 2, ADDRESS);
	cr_expect(log_has("is more than the memlock limit of "));
	cr_expect_eq(vmferry_prepare(memory, 0, CHUNK + PAGE), -ENOMEM);
	cr_expect(log_has("passes the memlock limit of "));
	cr_expect_eq(regions(), 0);
	cr_expect_eq(session_error(half.session), 0);
	end();
}

/* ---- source ---------------------------------------------------------------------------------- */

Test(rdma_memory, lane_needs_a_key__pinned_at_once_and_only_that)
{
	uint32_t key[2];
	uint32_t again;
	uint64_t last;

	begin(true, 2, ADDRESS + PAGE);
	cr_assert_eq(rdma_local_key(memory, half.rdma->rails[0], 3 * PAGE, &key[0], &last), 0);
	cr_expect_eq(last, CHUNK - PAGE);
	cr_assert_eq(rdma_local_key(memory, half.rdma->rails[1], 0, &key[1], &last), 0);
	cr_expect_neq(key[0], key[1]);
	cr_assert_eq(rdma_local_key(memory, half.rdma->rails[0], last - 1, &again, &last), 0);
	cr_expect_eq(again, key[0]);
	cr_expect_eq(regions(), 2);
	cr_assert_eq(rdma_local_key(memory, half.rdma->rails[0], SIZE - 1, &again, &last), 0);
	cr_expect_eq(last, SIZE);
	cr_expect_eq(regions(), 4);
	end();
}

/* Of a source, because it looks at no limit before it pins, and the fake device has none. */
Test(rdma_memory, device_takes_large_regions__chunks_are_a_256th_within_limits)
{
	static const struct {
		uint64_t size;
		uint64_t chunk;
	} cases[] = {{PAGE, PAGE}, {40 * MIB, 16 * MIB}, {4097 * MIB, 32 * MIB}};
	struct vmferry_memory *m;
	uint64_t last;
	uint32_t key;

	half_open(&half, true, 1);
	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		uint8_t *memory_there = untouched_new(cases[i].size);

		cr_assert_eq(vmferry_register(half.session, memory_there, cases[i].size, ADDRESS,
					      VMFERRY_ACCESS_LOCAL, &m),
			     0);
		cr_assert_eq(rdma_local_key(m, half.rdma->rails[0], 0, &key, &last), 0);
		cr_expect_eq(last, cases[i].chunk);
		vmferry_deregister(&m);
		munmap(memory_there, cases[i].size);
	}
	half_close(&half);
}

static void *take_all_keys(void *arg)
{
	const struct rdma_rail *rail = arg;
	uint64_t at = 0;
	uint32_t key;

	while (at < SIZE)
		if (rdma_local_key(memory, rail, at, &key, &at) < 0)
			return NULL;
	return arg;
}

Test(rdma_memory, lanes_and_registrar_at_once__each_chunk_is_pinned_once)
{
	pthread_t lanes[4];
	void *ok;

	begin(true, 2, ADDRESS);
	for (unsigned int i = 0; i < 4; i++)
		cr_assert_eq(
			pthread_create(&lanes[i], NULL, take_all_keys, half.rdma->rails[i % 2]), 0);
	cr_assert_eq(vmferry_prepare(memory, 0, SIZE), 0);
	for (unsigned int i = 0; i < 4; i++) {
		pthread_join(lanes[i], &ok);
		cr_expect_not_null(ok);
	}
	cr_expect_eq(stats().regions, 2 * CHUNKS);
	cr_expect_eq(stats().bytes, SIZE);
	end();
}

Test(rdma_memory, lane_cannot_pin__session_ends)
{
	uint32_t key;
	uint64_t last;

	begin(true, 1, ADDRESS);
	fake_fail_at(FAKE_REG_MR, 1, EIO);
	cr_expect_eq(rdma_local_key(memory, half.rdma->rails[0], 0, &key, &last), -EIO);
	cr_expect_eq(session_error(half.session), -EIO);
	cr_expect_eq(rdma_local_key(memory, half.rdma->rails[0], 0, &key, &last), -EIO);
	cr_expect_eq(rdma_local_key(memory, half.rdma->rails[0], CHUNK, &key, &last), -EIO);
	end();
}
