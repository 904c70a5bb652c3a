/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "../pair.h"
#include "fake/fake.h"
#include "transport/rdma/lane.h"

#define PAGE	    4096ull
#define SIZE	    (8ull << 20)
#define ADDRESS	    (1ull << 32)
#define SMALLEST_WR 32 /* what the mailbox needs */

static struct pair pair;
static uint8_t *from;
static uint8_t *to;
static uint8_t *expected;
static struct vmferry_memory *local;
static struct vmferry_memory *remote;

static struct vmferry_transport_options options(unsigned int lanes)
{
	return (struct vmferry_transport_options){
		.size = sizeof(struct vmferry_transport_options),
		.transport = VMFERRY_TRANSPORT_RDMA,
		.lanes = lanes,
		.insecure = true,
		.rails = {"10.99.0.1", "10.99.1.1"},
		.rail_count = 2,
	};
}

static void setup_with(const struct vmferry_transport_options *o, unsigned int access)
{
	log_keep();
	pair_open_with(&pair, o);
	from = pages_new(SIZE, 0);
	to = pages_new(SIZE, 0xee);
	expected = pages_new(SIZE, 0xee);
	fill_random(from, SIZE, 42);
	cr_assert_eq(vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local), 0);
	cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS, access, &remote), 0);
}

static void setup(unsigned int lanes)
{
	struct vmferry_transport_options o = options(lanes);

	setup_with(&o, VMFERRY_ACCESS_REMOTE_WRITE);
}

static void teardown(void)
{
	struct fake_counts counts;

	fake_hold_wire(false);
	fake_hold_fences(false);
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	pair_close(&pair);
	pages_free(from, SIZE);
	pages_free(to, SIZE);
	pages_free(expected, SIZE);
	fake_counts(&counts);
	cr_expect_eq(counts.enomem, 0, "a queue was full");
	cr_expect_eq(counts.overruns, 0, "a completion queue was full");
	cr_expect_eq(counts.rnr, 0, "a receive was not there");
	cr_expect_not(fake_leaks());
}

TestSuite(rdma_lane, .fini = teardown, .timeout = 120);

static void fence_all(uint32_t epoch)
{
	for (unsigned int i = 0; i < vmferry_session_lanes(pair.source); i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, i, epoch, PATIENT), 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, epoch, PATIENT), 0);
	for (unsigned int i = 0; i < vmferry_session_lanes(pair.source); i++)
		cr_assert_eq(vmferry_lane_fence_wait(pair.source, i, epoch, PATIENT), 0);
}

static struct vmferry_lane_stats stats_of(unsigned int lane)
{
	struct vmferry_lane_stats stats;

	cr_assert_eq(vmferry_lane_stats(pair.source, lane, &stats), 0);
	return stats;
}

static int write_one(uint64_t at, uint64_t length, uint64_t deadline)
{
	struct vmferry_write w = {local, at, ADDRESS + at, length};

	return vmferry_lane_write(pair.source, 0, &w, 1, deadline);
}

/* ---- writing --------------------------------------------------------------------------------- */

#define SLICE (64 * PAGE)

struct writer {
	unsigned int lane;
	unsigned int lanes;
	unsigned int rounds;
	pthread_t thread;
};

/*
 * Random extents, in slices of the destination that belong to one lane each; all that is written is
 * expected.
 */
static void *writer_thread(void *arg)
{
	const struct writer *w = arg;
	uint64_t seed = 1000 + w->lane;
	struct vmferry_write writes[100];

	for (unsigned int round = 0; round < w->rounds; round++) {
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

static void write_random(unsigned int lanes, unsigned int rounds)
{
	struct writer writers[8];
	uint64_t sum = 0;

	for (unsigned int i = 0; i < lanes; i++) {
		writers[i] = (struct writer){.lane = i, .lanes = lanes, .rounds = rounds};
		pthread_create(&writers[i].thread, NULL, writer_thread, &writers[i]);
	}
	for (unsigned int i = 0; i < lanes; i++)
		pthread_join(writers[i].thread, NULL);
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
	for (unsigned int i = 0; i < lanes; i++) {
		struct vmferry_lane_stats s = stats_of(i);

		cr_expect_eq(s.writes, 100ull * rounds);
		cr_expect_eq(s.placed_bytes, s.bytes);
		cr_expect_eq(s.wire_bytes, s.bytes);
		sum += s.bytes;
	}
	cr_expect_gt(sum, lanes * rounds * 100ull);
}

Test(rdma_lane, random_writes__on_two_rails__are_placed)
{
	setup(4);
	write_random(4, 10);
}

Test(rdma_lane, smallest_device__still_works)
{
	struct fake_limits limits;

	fake_limits_get(&limits);
	limits.max_qp_wr = SMALLEST_WR;
	limits.max_message = 4096;
	limits.max_mr_size = 1 << 20;
	fake_limits_set(&limits);
	setup(2);
	write_random(2, 4);
	cr_expect_geq(stats_of(0).requests, stats_of(0).bytes / 4096);
}

/* Fewer places than any device has: every wait is for the very last of them. */
Test(rdma_lane, three_places__still_work)
{
	struct lane_source *out;

	setup(1);
	out = &rdma_lane_of(pair.source->lanes[0])->out;
	out->depth = 3;
	out->signal_every = 1;
	write_random(1, 4);
	out->depth = 12;
	out->signal_every = 3;
	for (uint32_t i = 2; i < 100; i++) {
		cr_assert_eq(write_one(i * PAGE, 5 * PAGE, PATIENT), 1);
		fence_all(i);
	}
}

/*
 * One write fills the window: every request must ask for its completion, or the lane would wait for
 * ever.
 */
Test(rdma_lane, smallest_window__still_works)
{
	struct vmferry_transport_options o = options(1);

	o.write_bytes = 4096;
	o.window_bytes = 4096;
	setup_with(&o, VMFERRY_ACCESS_REMOTE_WRITE);
	write_random(1, 2);
	cr_expect_eq(stats_of(0).signals, stats_of(0).requests);
}

Test(rdma_lane, neighbours_in_one_call__are_one_request)
{
	struct vmferry_write writes[16];

	setup(1);
	for (unsigned int i = 0; i < 16; i++)
		writes[i] = (struct vmferry_write){local, i * PAGE, ADDRESS + i * PAGE, PAGE};
	write_all(pair.source, 0, writes, 16);
	fence_all(1);
	cr_expect_eq(memcmp(to, from, 16 * PAGE), 0);
	cr_expect_eq(to[16 * PAGE], 0xee);
	/* The first may have gone before the key was there; with the fence. */
	cr_expect_leq(stats_of(0).requests, 3);
}

Test(rdma_lane, neighbours_on_one_side_only__stay_apart)
{
	struct vmferry_write writes[4];

	setup(1);
	cr_assert_eq(write_one(0, 1, PATIENT), 1);
	fence_all(1);
	writes[0] = (struct vmferry_write){local, 0, ADDRESS, PAGE};
	writes[1] = (struct vmferry_write){local, PAGE, ADDRESS + 5 * PAGE, PAGE};
	writes[2] = (struct vmferry_write){local, 9 * PAGE, ADDRESS + 6 * PAGE, PAGE};
	writes[3] = (struct vmferry_write){local, 10 * PAGE, ADDRESS + 6 * PAGE, PAGE};
	for (unsigned int i = 0; i < 4; i++)
		memcpy(expected + (writes[i].address - ADDRESS), from + writes[i].offset, PAGE);
	write_all(pair.source, 0, writes, 4);
	fence_all(2);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
	cr_expect_eq(stats_of(0).requests, 7);
}

Test(rdma_lane, writes_across_chunks__of_either_side)
{
	struct fake_limits limits;
	struct vmferry_write w;

	fake_limits_get(&limits);
	limits.max_mr_size = 1 << 20;
	fake_limits_set(&limits);
	setup(1);
	w = (struct vmferry_write){local, 7, ADDRESS + (1 << 20) - 5, 3 << 20};
	memcpy(expected + (1 << 20) - 5, from + 7, 3 << 20);
	write_all(pair.source, 0, &w, 1);
	w = (struct vmferry_write){local, (1 << 20) - 9, ADDRESS + (5 << 20) + 1, 100};
	memcpy(expected + (5 << 20) + 1, from + (1 << 20) - 9, 100);
	write_all(pair.source, 0, &w, 1);
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(rdma_lane, scattered_pages__ring_and_signal_once_for_many)
{
	struct vmferry_write writes[448];
	struct vmferry_lane_stats before, s;
	struct fake_counts counts;

	setup(1);
	cr_assert_eq(write_one(0, 1, PATIENT), 1);
	fence_all(1);
	before = stats_of(0);
	for (unsigned int i = 0; i < 448; i++)
		writes[i] =
			(struct vmferry_write){local, 2 * i * PAGE, ADDRESS + 2 * i * PAGE, PAGE};
	write_all(pair.source, 0, writes, 448);
	fence_all(2);
	s = stats_of(0);
	cr_expect_eq(s.requests - before.requests, 449);
	cr_expect_leq(s.submissions - before.submissions, 448 / LANE_CHAIN + 1, "%llu doorbells",
		      (unsigned long long)(s.submissions - before.submissions));
	cr_expect_leq(s.signals - before.signals, 448 / LANE_SIGNAL + 1, "%llu signals",
		      (unsigned long long)(s.signals - before.signals));
	fake_counts(&counts);
	cr_expect_geq(counts.wrs, s.requests);
	cr_expect_geq(counts.doorbells, s.submissions);
}

Test(rdma_lane, more_scattered_pages_than_places__all_arrive)
{
	static struct vmferry_write writes[5000];
	uint64_t seed = 3;

	setup(1);
	for (unsigned int i = 0; i < 5000; i++) {
		uint64_t at = next_random(&seed) % (SIZE / PAGE) * PAGE;

		writes[i] = (struct vmferry_write){local, at, ADDRESS + at, PAGE};
		memcpy(expected + at, from + at, PAGE);
	}
	write_all(pair.source, 0, writes, 5000);
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(rdma_lane, full_lane__eagain_then_goes_on)
{
	struct vmferry_transport_options o = options(1);
	struct vmferry_lane_stats s;
	unsigned int taken = 0;
	int n;

	o.write_bytes = 64 << 10;
	o.window_bytes = 256 << 10;
	setup_with(&o, VMFERRY_ACCESS_REMOTE_WRITE);
	cr_assert_eq(write_one(0, 1, PATIENT), 1);
	fence_all(1);
	fake_hold_wire(true);
	do {
		n = write_one((uint64_t)taken << 20, 1 << 20, vmferry_now() + 50 * MS);
		taken += n == 1;
	} while (n == 1 && taken < SIZE >> 20);
	cr_expect_eq(n, -EAGAIN);
	cr_expect_eq(taken, 1, "one is kept, which the window has no room for");
	cr_expect_eq(write_one(0, PAGE, 0), -EAGAIN);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 2, 0), -ETIMEDOUT);
	s = stats_of(0);
	cr_expect_leq(s.bytes - s.placed_bytes, o.window_bytes);
	cr_expect_gt(s.stall_ns, 40 * MS);
	cr_expect_gt(s.sleeps, 0);
	fake_hold_wire(false);
	for (; taken < SIZE >> 20; taken++)
		cr_assert_eq(write_one((uint64_t)taken << 20, 1 << 20, PATIENT), 1);
	fence_all(2);
	cr_expect_eq(memcmp(to, from, SIZE), 0);
	cr_expect_eq(stats_of(0).placed_bytes, SIZE + 1);
}

static unsigned int write_until_full(void)
{
	unsigned int taken = 0;
	int n;

	do {
		n = write_one(2 * taken * PAGE, PAGE, vmferry_now() + 10 * MS);
		taken += n == 1;
	} while (n == 1 && taken < SIZE / PAGE / 2);
	cr_expect_eq(n, -EAGAIN);
	return taken;
}

Test(rdma_lane, queue_without_places__eagain_and_never_enomem)
{
	const struct lane_source *out;
	unsigned int taken;

	setup(1);
	out = &rdma_lane_of(pair.source->lanes[0])->out;
	cr_assert_eq(write_one(0, 1, PATIENT), 1);
	fence_all(1);
	fake_hold_wire(true);
	taken = write_until_full();
	cr_expect_eq(out->posted - out->done, out->depth);
	cr_expect_eq(taken, out->depth + 1);
	fake_hold_wire(false);
	fence_all(2);
	for (unsigned int i = 0; i < taken; i++)
		cr_expect_eq(memcmp(to + 2 * i * PAGE, from + 2 * i * PAGE, PAGE), 0);
	/* And to be closed while it is full. */
	fake_hold_wire(true);
	cr_expect_eq(write_until_full(), taken);
}

/* ---- keys ------------------------------------------------------------------------------------ */

Test(rdma_lane, other_memory_at_the_same_address__has_its_own_keys)
{
	setup(2);
	for (uint32_t round = 0; round < 4; round++) {
		for (unsigned int lane = 0; lane < 2; lane++) {
			struct vmferry_write w = {local, round * PAGE, ADDRESS + lane * PAGE, PAGE};

			write_all(pair.source, lane, &w, 1);
		}
		fence_all(round + 1);
		cr_expect_eq(memcmp(to, from + round * PAGE, PAGE), 0);
		cr_expect_eq(memcmp(to + PAGE, from + round * PAGE, PAGE), 0);
		vmferry_deregister(&remote);
		vmferry_deregister(&local);
		memset(to, 0xee, 2 * PAGE);
		cr_assert_eq(
			vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local),
			0);
		cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS,
					      VMFERRY_ACCESS_REMOTE_WRITE, &remote),
			     0);
		/* As the source would hear of it: behind what was said of the keys. */
		cr_assert_eq(vmferry_send(pair.destination, VMFERRY_CONTROL, 1, NULL, 0, PATIENT),
			     0);
		cr_assert_eq(vmferry_recv(pair.source, &(struct vmferry_message){0}, PATIENT), 0);
	}
}

Test(rdma_lane, write_to_what_was_never_registered__eacces)
{
	struct vmferry_write w;
	int ret;

	setup(1);
	w = (struct vmferry_write){local, 0, ADDRESS + SIZE, PAGE};
	ret = vmferry_lane_write(pair.source, 0, &w, 1, PATIENT);
	if (ret == 1)
		ret = vmferry_lane_fence(pair.source, 0, 1, PATIENT);
	cr_expect_eq(ret, -EACCES, "%s", strerror(-ret));
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, PATIENT), -EACCES);
}

/* ---- fences ---------------------------------------------------------------------------------- */

Test(rdma_lane, fence_held_up__too_many_are_refused_and_then_go_on)
{
	setup(1);
	fake_hold_fences(true);
	for (uint32_t i = 1; i <= LANE_FENCES; i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, 0, i, PATIENT), 0);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 100, vmferry_now() + 20 * MS), -ETIMEDOUT);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, vmferry_now() + 20 * MS),
		     -ETIMEDOUT);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, vmferry_now() + 20 * MS), -ETIMEDOUT);
	fake_hold_fences(false);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 100, PATIENT), 0);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 100, PATIENT), -EINVAL);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 100, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 100, PATIENT), 0);
}

Test(rdma_lane, hundreds_of_fences__each_is_answered)
{
	setup(2);
	for (uint32_t i = 1; i <= 300; i++)
		fence_all(i);
	for (uint32_t i = 301; i <= 600; i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, 1, i, PATIENT), 0);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 1, 600, PATIENT), 0);
}

static void set_answers(uint32_t depth, uint32_t signal_every)
{
	struct rdma_lane *l = rdma_lane_of(pair.destination->lanes[0]);

	pthread_mutex_lock(&l->rdma->poll_lock);
	l->in.depth = depth;
	l->in.signal_every = signal_every;
	pthread_mutex_unlock(&l->rdma->poll_lock);
}

/*
 * Answers that find the queue full go out when an earlier one has completed, one for several
 * fences.
 */
Test(rdma_lane, hundreds_of_fences_and_few_places__all_are_answered)
{
	setup(1);
	set_answers(2, 2);
	for (uint32_t i = 1; i <= 300; i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, 0, i, PATIENT), 0);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 300, PATIENT), 0);
}

Test(rdma_lane, answer_that_finds_no_place__comes_later_and_for_all)
{
	setup(1);
	set_answers(0, 1);
	for (uint32_t i = 1; i <= 5; i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, 0, i, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 5, PATIENT), 0);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, vmferry_now() + 50 * MS),
		     -ETIMEDOUT);
	set_answers(LANE_ANSWER_DEPTH, 1);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 5, PATIENT), 0);
	fake_hold_fences(true);
	for (uint32_t i = 6; i < 6 + LANE_FENCES; i++)
		cr_expect_eq(vmferry_lane_fence(pair.source, 0, i, vmferry_now() + 20 * MS), 0);
}

Test(rdma_lane, fence_that_comes_twice__ends_the_session)
{
	setup(1);
	fake_double_fences(1);
	cr_assert_eq(vmferry_lane_fence(pair.source, 0, 7, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 7, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 8, PATIENT), -EPROTO);
	cr_expect(log_has("a fence's epoch does not grow"));
}

static void *shut_down(void *session)
{
	vmferry_session_shutdown(session);
	return NULL;
}

Test(rdma_lane, waiting_for_a_fence__sleeps_and_shutdown_ends_it)
{
	struct timespec before, after;
	pthread_t thread;
	uint64_t begun;

	setup(1);
	fake_hold_fences(true);
	cr_assert_eq(vmferry_lane_fence(pair.source, 0, 1, PATIENT), 0);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &before);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, vmferry_now() + 300 * MS),
		     -ETIMEDOUT);
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &after);
	cr_expect_lt((after.tv_sec - before.tv_sec) * 1000000000ll + after.tv_nsec - before.tv_nsec,
		     (long long)(100 * MS));
	cr_expect_geq(stats_of(0).sleeps, 2);
	cr_expect_leq(stats_of(0).sleeps, 20);
	begun = vmferry_now();
	pthread_create(&thread, NULL, shut_down, pair.source);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, PATIENT), -ECANCELED);
	pthread_join(thread, NULL);
	cr_expect_lt(vmferry_now() - begun, 2000 * MS);
}

Test(rdma_lane, revoked__nothing_is_placed_and_the_session_lives)
{
	struct vmferry_message m;

	setup(2);
	cr_assert_eq(write_one(0, PAGE, PATIENT), 1);
	fence_all(1);
	vmferry_session_revoke(pair.destination);
	memset(to, 0xee, PAGE);
	(void)write_one(0, PAGE, PATIENT);
	cr_assert_eq(vmferry_send(pair.source, VMFERRY_MAILBOX, 5, "x", 1, PATIENT), 0);
	cr_assert_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
	cr_expect_eq(m.type, 5);
	vmferry_message_free(&m);
	/* Longer than a lane that breaks off unexplained is borne with. */
	usleep(600000);
	cr_expect_eq(session_error(pair.destination), 0);
	cr_expect_eq(memcmp(to, expected, PAGE), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 2, PATIENT), -ECONNRESET);
}

/* ---- failures -------------------------------------------------------------------------------- */

static void expect_failure(enum ibv_wc_status status, int error, const char *text)
{
	const struct fake_match match = {.opcodes = FAKE_OPCODE(IBV_WR_RDMA_WRITE)};
	int ret;

	setup(1);
	cr_assert_eq(write_one(0, PAGE, PATIENT), 1);
	fence_all(1);
	fake_fail_wr(&match, 1, status);
	/* Whichever call is the first to see it. */
	ret = write_one(0, PAGE, PATIENT);
	if (ret == 1)
		ret = vmferry_lane_fence(pair.source, 0, 2, PATIENT);
	if (ret == 0)
		ret = vmferry_lane_fence_wait(pair.source, 0, 2, PATIENT);
	cr_expect_eq(ret, error, "%s", strerror(-ret));
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 2, PATIENT), error);
	cr_expect_eq(write_one(0, PAGE, PATIENT), error);
	cr_expect(log_has(text), "the log does not say: %s", text);
}

Test(rdma_lane, peer_gone__econnreset)
{
	expect_failure(IBV_WC_RETRY_EXC_ERR, -ECONNRESET, "the peer does not answer");
}

Test(rdma_lane, device_error__eio_and_says_which)
{
	expect_failure(IBV_WC_LOC_QP_OP_ERR, -EIO, "lane 0: local");
}

Test(rdma_lane, posting_fails__eio)
{
	int ret;

	setup(1);
	cr_assert_eq(write_one(0, PAGE, PATIENT), 1);
	fence_all(1);
	fake_fail_at(FAKE_POST_SEND, 1, EIO);
	/* The mailbox may hit it first, or the destination's answer. */
	ret = write_one(0, PAGE, PATIENT);
	if (ret == 1)
		ret = vmferry_lane_fence(pair.source, 0, 2, PATIENT);
	cr_expect_eq(ret, -EIO, "%s", strerror(-ret));
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 3, PATIENT), -EIO);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void setup_reading(unsigned int lanes)
{
	struct vmferry_transport_options o = options(lanes);

	setup_with(&o, VMFERRY_ACCESS_REMOTE_WRITE | VMFERRY_ACCESS_REMOTE_READ);
	fill_random(to, SIZE, 7);
}

Test(rdma_lane, read__what_is_there)
{
	setup_reading(2);
	cr_assert_eq(vmferry_lane_read(pair.source, 1, local, 5, ADDRESS + 9, 5 << 20, PATIENT), 0);
	cr_expect_eq(memcmp(from + 5, to + 9, 5 << 20), 0);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, 1, PATIENT), 0);
	cr_expect_eq(from[0], to[0]);
	fence_all(1);
}

Test(rdma_lane, read_behind_writes__sees_them)
{
	setup_reading(1);
	write_all(pair.source, 0, &(struct vmferry_write){local, 0, ADDRESS, 4 << 20}, 1);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 4 << 20, ADDRESS, 4 << 20, PATIENT),
		     0);
	cr_expect_eq(memcmp(from, from + (4 << 20), 4 << 20), 0);
	fence_all(1);
}

Test(rdma_lane, read_with_smallest_device__what_is_there)
{
	struct fake_limits limits;

	fake_limits_get(&limits);
	limits.max_qp_wr = SMALLEST_WR;
	limits.max_message = 4096;
	limits.max_mr_size = 1 << 20;
	limits.max_reads_in = limits.max_reads_out = 1;
	fake_limits_set(&limits);
	setup_reading(1);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 5, ADDRESS + 9, 3 << 20, PATIENT), 0);
	cr_expect_eq(memcmp(from + 5, to + 9, 3 << 20), 0);
}

Test(rdma_lane, device_that_cannot_read__eopnotsupp_and_the_session_lives)
{
	struct fake_limits limits;

	fake_limits_get(&limits);
	limits.max_reads_in = limits.max_reads_out = 0;
	fake_limits_set(&limits);
	setup_reading(1);
	cr_expect_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, PAGE, PATIENT),
		     -EOPNOTSUPP);
	fence_all(1);
}

Test(rdma_lane, read_without_permission__eacces)
{
	setup(1);
	cr_expect_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, PAGE, PATIENT), -EACCES);
}

/* A flush is seen before its cause, and must not pass for a read that was carried out. */
Test(rdma_lane, read_flushed__econnreset_and_never_success)
{
	setup_reading(1);
	rdma_connection_break(rdma_lane_connection(pair.source->lanes[0]));
	cr_expect_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, 4 << 20, PATIENT),
		     -ECONNRESET);
}

Test(rdma_lane, read_unanswered_at_the_deadline__the_session_is_over)
{
	struct fake_limits limits;
	struct vmferry_message m;
	uint8_t before[PAGE];
	uint64_t requests;

	fake_limits_get(&limits);
	limits.max_reads_in = limits.max_reads_out = 3;
	fake_limits_set(&limits);
	setup_reading(1);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, PAGE, ADDRESS, PAGE, PATIENT), 0);
	memcpy(before, from, PAGE);
	requests = stats_of(0).requests;
	fake_hold_wire(true);
	cr_expect_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, 4 << 20,
				       vmferry_now() + 50 * MS),
		     -ETIMEDOUT);
	cr_expect_eq(stats_of(0).requests - requests, 3, "more under way than the device can");
	fake_hold_wire(false);
	fake_quiet(1000);
	cr_expect_eq(memcmp(from, before, PAGE), 0, "bytes came when nobody expected them");
	cr_expect_eq(vmferry_recv(pair.source, &m, PATIENT), -ECONNRESET);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 1, PATIENT), -ECONNRESET);
}
