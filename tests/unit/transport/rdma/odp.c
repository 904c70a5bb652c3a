/* SPDX-License-Identifier: MIT */
/*
 * Memory that devices page in on demand: nothing is pinned, nothing made resident, and no limit of
 * locked memory counts.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "../pair.h"
#include "fake/fake.h"
#include "half.h"
#include "limit.h"
#include "transport/rdma/chunk.h"

#define CHUNK	(64 * 1024ull)
#define CHUNKS	16u
#define SIZE	(CHUNKS * CHUNK)
#define ADDRESS (1ull << 32)

static struct half half;
static uint8_t *base;
static struct vmferry_memory *memory;

/* Chunks are as small as the longest region that a device takes makes them. */
static void let_devices(bool page_on_demand, uint64_t region)
{
	struct fake_limits limits;

	fake_limits_get(&limits);
	limits.max_mr_size = region;
	limits.on_demand = page_on_demand;
	fake_limits_set(&limits);
}

static void begin(bool devices_can)
{
	log_keep();
	let_devices(devices_can, CHUNK);
	half_on_demand = true;
	half_open(&half, false, 2);
	base = untouched_new(SIZE);
	cr_assert_eq(vmferry_register(half.session, base, SIZE, ADDRESS,
				      VMFERRY_ACCESS_REMOTE_WRITE, &memory),
		     0);
}

static void end(void)
{
	vmferry_deregister(&memory);
	half_close(&half);
	munmap(base, SIZE);
}

static void prepare_and_hear(uint64_t offset, uint64_t length)
{
	cr_assert_eq(vmferry_prepare(memory, offset, length), 0);
	for (uint64_t i = 0; i < length / CHUNK; i++)
		cr_assert(half_hears(&half, RDMA_CONTROL_KEYS), "nothing is announced");
}

static struct fake_counts counts(void)
{
	struct fake_counts c;

	fake_counts(&c);
	return c;
}

TestSuite(odp, .timeout = 120);

Test(odp, device_can__registered_so_and_nothing_becomes_resident)
{
	begin(true);
	prepare_and_hear(0, SIZE);
	cr_expect_eq(counts().live.mrs, 2 * CHUNKS);
	cr_expect_eq(counts().on_demand, 2 * CHUNKS);
	cr_expect_eq(resident_bytes(base, SIZE), 0);
	end();
}

Test(odp, device_can__memory_may_be_discarded_and_comes_back)
{
	struct rdma_memory *m;

	begin(true);
	prepare_and_hear(0, SIZE);
	m = memory->transport;
	while (chunk_state(&m->chunks[0]) != CHUNK_READY)
		;
	base[0] = 7;
	cr_expect_eq(vmferry_discard(memory, 0, PAGE), 0);
	cr_expect_eq(base[0], 0);
	end();
}

Test(odp, more_than_the_memlock_limit__taken_without_a_word)
{
	limit_memlock(2 * CHUNK);
	begin(true);
	prepare_and_hear(0, SIZE);
	cr_expect_not(log_has("memlock"));
	cr_expect_eq(session_error(half.session), 0);
	end();
}

Test(odp, device_cannot__said_and_pinned)
{
	begin(false);
	cr_expect(log_has("rail fake0: the device has no on-demand paging: memory is pinned"));
	prepare_and_hear(0, SIZE);
	cr_expect_eq(counts().on_demand, 0);
	cr_expect_eq(counts().live.mrs, 2 * CHUNKS);
	cr_expect_eq(resident_bytes(base, SIZE), SIZE);
	end();
}

/* It says that it can and then does not: the rest is pinned, and whatever is pinned counts. */
Test(odp, device_refuses__pinned_from_then_on_and_the_limit_counts)
{
	limit_memlock(8 * CHUNK);
	begin(true);
	prepare_and_hear(0, CHUNK);
	fake_fail_at(FAKE_REG_MR, 1, EOPNOTSUPP);
	prepare_and_hear(CHUNK, CHUNK);
	cr_expect(log_has("refuses on-demand paging: Operation not supported: memory is pinned"));
	prepare_and_hear(2 * CHUNK, CHUNK);
	cr_expect_eq(counts().on_demand, 2);
	cr_expect_eq(counts().live.mrs, 2 * 3);
	cr_expect_eq(resident_bytes(base, CHUNK), 0);
	cr_expect_eq(resident_bytes(base + CHUNK, 2 * CHUNK), 2 * CHUNK);
	cr_expect_eq(vmferry_prepare(memory, 0, SIZE), -ENOMEM);
	cr_expect(log_has("passes the memlock limit of "));
	cr_expect_eq(counts().live.mrs, 2 * 3);
	cr_expect_eq(session_error(half.session), 0);
	end();
}

Test(odp, whole_session__bytes_arrive_where_they_are_written_to_alone)
{
	const struct vmferry_transport_options options = {
		.size = sizeof(options),
		.transport = VMFERRY_TRANSPORT_RDMA,
		.lanes = 2,
		.insecure = true,
		.odp = true,
		.rails = {"10.99.0.1"},
		.rail_count = 1,
	};
	uint8_t *from = untouched_new(SIZE), *to = untouched_new(SIZE);
	struct vmferry_memory *local, *remote;
	struct vmferry_write w;
	struct pair pair;

	let_devices(true, SIZE);
	pair_open_with(&pair, &options);
	fill_random(from, CHUNK, 5);
	cr_assert_eq(vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local), 0);
	cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS,
				      VMFERRY_ACCESS_REMOTE_WRITE, &remote),
		     0);
	cr_assert_eq(vmferry_prepare(local, 0, SIZE), 0);
	cr_assert_eq(vmferry_prepare(remote, 0, SIZE), 0);
	w = (struct vmferry_write){local, 0, ADDRESS, CHUNK};
	write_all(pair.source, 1, &w, 1);
	for (unsigned int i = 0; i < 2; i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, i, 1, PATIENT), 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	cr_expect_eq(memcmp(from, to, CHUNK), 0);
	cr_expect_eq(resident_bytes(from, SIZE), CHUNK);
	cr_expect_eq(resident_bytes(to, SIZE), CHUNK);
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	pair_close(&pair);
	cr_expect_not(fake_leaks());
}
