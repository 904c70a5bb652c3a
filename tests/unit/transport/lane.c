/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <linux/sockios.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pair.h"
#include "support/fake_clock.h"
#include "transport/session.h"
#include "transport/tcp/tcp.h"

#define PAGE	4096ull
#define SIZE	(32ull << 20)
#define ADDRESS (1ull << 32)

static struct pair pair;
static uint8_t *from;
static uint8_t *to;
static uint8_t *expected;
static struct vmferry_memory *local;
static struct vmferry_memory *remote;

static void setup(unsigned int lanes, unsigned int access)
{
	pair_open(&pair, lanes);
	from = pages_new(SIZE, 0);
	to = pages_new(SIZE, 0xee);
	expected = pages_new(SIZE, 0xee);
	fill_random(from, SIZE, 42);
	cr_assert_eq(vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local), 0);
	cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS, access, &remote), 0);
}

static void teardown(void)
{
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	pair_close(&pair);
	pages_free(from, SIZE);
	pages_free(to, SIZE);
	pages_free(expected, SIZE);
}

static void fence_all(uint32_t epoch)
{
	for (unsigned int i = 0; i < vmferry_session_lanes(pair.source); i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, i, epoch, PATIENT), 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, epoch, PATIENT), 0);
	for (unsigned int i = 0; i < vmferry_session_lanes(pair.source); i++)
		cr_assert_eq(vmferry_lane_fence_wait(pair.source, i, epoch, PATIENT), 0);
}

TestSuite(lane, .fini = teardown, .timeout = 120);

struct writer {
	unsigned int lane;
	unsigned int lanes;
	pthread_t thread;
};

#define SLICE (64 * PAGE)

/*
 * Random extents, in slices of the destination that belong to one lane each; all that is written is
 * expected.
 */
static void *writer_thread(void *arg)
{
	const struct writer *w = arg;
	uint64_t seed = 1000 + w->lane;
	struct vmferry_write writes[100];

	for (unsigned int round = 0; round < 10; round++) {
		for (unsigned int i = 0; i < 100; i++) {
			uint64_t slice =
				next_random(&seed) % (SIZE / SLICE / w->lanes) * w->lanes + w->lane;
			uint64_t at = next_random(&seed) % SLICE;
			uint64_t length = next_random(&seed) % (SLICE - at) + 1;
			uint64_t offset = next_random(&seed) % (SIZE - length);

			writes[i] = (struct vmferry_write){local, offset,
							   ADDRESS + slice * SLICE + at, length};
			memcpy(expected + slice * SLICE + at, from + offset, length);
		}
		write_all(pair.source, w->lane, writes, 100);
	}
	return NULL;
}

static void random_extents(unsigned int lanes)
{
	struct vmferry_lane_stats stats[2];
	struct writer w[4];
	uint64_t total = 0;

	setup(lanes, VMFERRY_ACCESS_REMOTE_WRITE);
	for (unsigned int i = 0; i < lanes; i++) {
		w[i] = (struct writer){.lane = i, .lanes = lanes};
		pthread_create(&w[i].thread, NULL, writer_thread, &w[i]);
	}
	for (unsigned int i = 0; i < lanes; i++)
		pthread_join(w[i].thread, NULL);
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0, "with %u lanes", lanes);
	for (unsigned int i = 0; i < lanes; i++) {
		cr_assert_eq(vmferry_lane_stats(pair.source, i, &stats[0]), 0);
		cr_assert_eq(vmferry_lane_stats(pair.destination, i, &stats[1]), 0);
		cr_expect_eq(stats[0].bytes, stats[1].bytes);
		cr_expect_eq(stats[0].bytes, stats[0].placed_bytes);
		cr_expect_eq(stats[0].wire_bytes, stats[1].wire_bytes);
		cr_expect_gt(stats[0].wire_bytes, stats[0].bytes);
		cr_expect_eq(stats[0].writes, 1000);
		cr_expect_gt(stats[1].cpu_ns, 0);
		total += stats[0].bytes;
	}
	cr_expect_gt(total, SIZE);
}

Test(lane, random_extents_one_lane__all_placed_and_nothing_else)
{
	random_extents(1);
}

Test(lane, random_extents_two_lanes__all_placed_and_nothing_else)
{
	random_extents(2);
}

Test(lane, random_extents_four_lanes__all_placed_and_nothing_else)
{
	random_extents(4);
}

Test(lane, one_huge_write__placed)
{
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 1, ADDRESS + 3, SIZE - 10};
	cr_assert_eq(vmferry_lane_write(pair.source, 0, &w, 1, PATIENT), 1);
	fence_all(1);
	memcpy(expected + 3, from + 1, SIZE - 10);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(lane, same_address_again__last_wins)
{
	struct vmferry_write w[300];

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	for (unsigned int i = 0; i < 300; i++)
		w[i] = (struct vmferry_write){local, i * PAGE, ADDRESS, PAGE};
	for (uint32_t epoch = 1; epoch < 20; epoch++) {
		write_all(pair.source, 0, w, 300);
		fence_all(epoch);
		cr_assert_eq(memcmp(to, from + 299 * PAGE, PAGE), 0);
	}
}

Test(lane, one_page_to_many_addresses__placed)
{
	struct vmferry_write w[2000];

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	for (unsigned int i = 0; i < 2000; i++)
		w[i] = (struct vmferry_write){local, 0, ADDRESS + i * PAGE, PAGE};
	write_all(pair.source, 0, w, 2000);
	fence_all(1);
	for (unsigned int i = 0; i < 2000; i++)
		cr_assert_eq(memcmp(to + i * PAGE, from, PAGE), 0);
	cr_expect_eq(memcmp(to + 2000 * PAGE, expected, SIZE - 2000 * PAGE), 0);
}

/* The same, whatever this host gives a connection. */
static void set_buffers(int bytes)
{
	setsockopt(vmferry_lane_fd(pair.source, 0), SOL_SOCKET, SO_SNDBUF, &bytes, sizeof(bytes));
	setsockopt(vmferry_lane_fd(pair.destination, 0), SOL_SOCKET, SO_RCVBUF, &bytes,
		   sizeof(bytes));
}

static uint64_t wire_bytes_received(void)
{
	struct vmferry_lane_stats stats;

	cr_assert_eq(vmferry_lane_stats(pair.destination, 0, &stats), 0);
	return stats.wire_bytes;
}

/*
 * Takes the lock without which nothing is placed, and writes one page: when its head has been read,
 * the receiver has come to the lock and reads no more until it is released.
 */
static pthread_rwlock_t *block_receiver(void)
{
	const struct vmferry_write w = {local, 0, ADDRESS, PAGE};
	pthread_rwlock_t *placing = &pair.destination->memory.lock;
	uint64_t head = wire_bytes_received() + FRAME_HEAD + FRAME_EXTENT;

	pthread_rwlock_wrlock(placing);
	write_all(pair.source, 0, &w, 1);
	while (wire_bytes_received() < head)
		usleep(1000);
	return placing;
}

/*
 * Whether the socket holds only what the other side has no room for: nothing is on its way that
 * would make room.
 */
static bool is_brimful(int fd)
{
	int unsent = 0, unacknowledged = 0;

	cr_assert_eq(ioctl(fd, SIOCOUTQNSD, &unsent), 0);
	cr_assert_eq(ioctl(fd, SIOCOUTQ, &unacknowledged), 0);
	return unsent > 0 && unsent == unacknowledged;
}

/* The lane's number @i of its writes of 1 MiB, over and over all memory. */
static struct vmferry_write mebibyte(unsigned int i)
{
	uint64_t at = (uint64_t)(i % (SIZE >> 20)) << 20;

	return (struct vmferry_write){local, at, ADDRESS + at, 1 << 20};
}

/* Writes until neither the lane nor the socket takes any more; how many that were. */
static unsigned int fill_lane(void)
{
	unsigned int taken = 0;
	int n;

	do {
		struct vmferry_write w = mebibyte(taken);

		n = vmferry_lane_write(pair.source, 0, &w, 1, 0);
		cr_assert(n == 1 || n == -EAGAIN, "%d", n);
		taken += n == 1;
	} while (n == 1 || !is_brimful(vmferry_lane_fd(pair.source, 0)));
	return taken;
}

/* A write and a fence into a full lane, with and without time: they end at their deadlines. */
static void expect_full(void)
{
	struct vmferry_write w = mebibyte(0);
	struct vmferry_lane_stats before, after;
	uint64_t begun;

	cr_expect_eq(vmferry_lane_write(pair.source, 0, &w, 1, 0), -EAGAIN);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 2, 0), -ETIMEDOUT);
	cr_assert_eq(vmferry_lane_stats(pair.source, 0, &before), 0);
	fake_clock_rush(true);
	begun = vmferry_now();
	cr_expect_eq(vmferry_lane_write(pair.source, 0, &w, 1, begun + 50 * MS), -EAGAIN);
	cr_expect_eq(vmferry_now(), begun + 50 * MS);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 2, begun + 80 * MS), -ETIMEDOUT);
	cr_expect_eq(vmferry_now(), begun + 80 * MS);
	fake_clock_rush(false);
	cr_assert_eq(vmferry_lane_stats(pair.source, 0, &after), 0);
	cr_expect_eq(after.stall_ns - before.stall_ns, 80 * MS);
}

Test(lane, full__eagain_and_continues)
{
	pthread_rwlock_t *placing = NULL;
	struct vmferry_lane_stats stats;
	struct pollfd p = {.events = POLLOUT};
	uint64_t all;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	set_buffers(256 << 10);
	fence_all(1);
	fake_clock_stop();
	placing = block_receiver();
	all = PAGE + ((uint64_t)fill_lane() << 20);
	expect_full();
	pthread_rwlock_unlock(placing);
	p.fd = vmferry_lane_fd(pair.source, 0);
	cr_assert_eq(poll(&p, 1, 5000), 1);
	for (unsigned int i = 0; i < SIZE >> 20; i++) {
		struct vmferry_write w = mebibyte(i);

		write_all(pair.source, 0, &w, 1);
	}
	all += SIZE;
	fence_all(2);
	cr_expect_eq(memcmp(to, from, SIZE), 0);
	cr_assert_eq(vmferry_lane_stats(pair.source, 0, &stats), 0);
	cr_expect_eq(stats.bytes, all);
	cr_expect_eq(stats.placed_bytes, all);
}

Test(lane, read__what_is_there)
{
	setup(1, VMFERRY_ACCESS_REMOTE_READ | VMFERRY_ACCESS_REMOTE_WRITE);
	fill_random(to, SIZE, 7);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 5, ADDRESS + 9, 11 << 20, PATIENT),
		     0);
	cr_expect_eq(memcmp(from + 5, to + 9, 11 << 20), 0);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, 1, PATIENT), 0);
	cr_expect_eq(from[0], to[0]);
}

Test(lane, read_behind_writes__sees_them)
{
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_READ | VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, 16 << 20};
	write_all(pair.source, 0, &w, 1);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 16 << 20, ADDRESS, 16 << 20, PATIENT),
		     0);
	cr_expect_eq(memcmp(from, from + (16 << 20), 16 << 20), 0);
	fence_all(1);
}

Test(lane, wrong_arguments__einval_and_session_lives)
{
	struct vmferry_write w[2];

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	w[0] = (struct vmferry_write){local, 0, ADDRESS, PAGE};
	w[1] = (struct vmferry_write){local, SIZE, ADDRESS, 1};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	w[1] = (struct vmferry_write){local, 1, ADDRESS, SIZE};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	w[1] = (struct vmferry_write){local, UINT64_MAX, ADDRESS, 2};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	w[1] = (struct vmferry_write){local, 0, ADDRESS, 0};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	w[1] = (struct vmferry_write){local, 0, UINT64_MAX, 2};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	w[1] = (struct vmferry_write){remote, 0, ADDRESS, 2};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	w[1] = (struct vmferry_write){NULL, 0, ADDRESS, 2};
	cr_expect_eq(vmferry_lane_write(pair.source, 0, w, 2, PATIENT), -EINVAL);
	cr_expect_eq(vmferry_lane_write(pair.source, 1, w, 1, PATIENT), -ENOENT);
	cr_expect_eq(vmferry_lane_write(pair.destination, 0, w, 1, PATIENT), -EINVAL);
	cr_expect_eq(vmferry_lane_fence(pair.source, 9, 1, PATIENT), -ENOENT);
	cr_expect_eq(vmferry_lane_read(pair.source, 0, local, 1, ADDRESS, SIZE, PATIENT), -EINVAL);
	fence_all(5);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 5, PATIENT), -EINVAL);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 4, PATIENT), -EINVAL);
	fence_all(6);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(lane, fence_not_given__waits_end_at_deadline)
{
	uint64_t begun;

	setup(2, VMFERRY_ACCESS_REMOTE_WRITE);
	cr_assert_eq(vmferry_lane_fence(pair.source, 0, 1, PATIENT), 0);
	fake_clock_stop();
	fake_clock_rush(true);
	begun = vmferry_now();
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, begun + 50 * MS), -ETIMEDOUT);
	cr_expect_eq(vmferry_now(), begun + 50 * MS);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 1, 1, begun + 90 * MS), -ETIMEDOUT);
	cr_expect_eq(vmferry_now(), begun + 90 * MS);
	fake_clock_rush(false);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, PATIENT), 0);
	cr_assert_eq(vmferry_lane_fence(pair.source, 1, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, 0), 0);
}

Test(lane, source_closes_after_fence__fence_still_seen)
{
	struct vmferry_write w;

	setup(2, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, 1 << 20};
	write_all(pair.source, 0, &w, 1);
	fence_all(1);
	vmferry_deregister(&local);
	vmferry_session_close(&pair.source);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 2, PATIENT), -ECONNRESET);
}

struct fencing {
	_Atomic unsigned int waits;
	uint32_t epoch;
	unsigned int left;
};

/* Sets fences until one of them has found the socket full. */
static void *fence_thread(void *arg)
{
	struct fencing *f = arg;

	fake_clock_watch(&f->waits);
	while (atomic_load(&f->waits) == 0 && f->epoch < 2000000) {
		cr_assert_eq(vmferry_lane_fence(pair.source, 0, ++f->epoch, PATIENT), 0);
		f->left += tcp_lane_of(pair.source->lanes[0])->out.left > 0;
	}
	return NULL;
}

/*
 * A fence that was set must not need another call of this lane to get out: there may never be one.
 */
Test(lane, fence_into_a_full_socket__is_out_when_the_call_returns)
{
	struct fencing f = {0};
	pthread_rwlock_t *placing;
	pthread_t thread;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	set_buffers(4096);
	fake_clock_stop();
	placing = block_receiver();
	cr_assert_eq(pthread_create(&thread, NULL, fence_thread, &f), 0);
	cr_assert(fake_clock_waits(&f.waits), "the socket never gets full");
	pthread_rwlock_unlock(placing);
	pthread_join(thread, NULL);
	cr_assert_eq(f.left, 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, f.epoch, PATIENT), 0);
}
