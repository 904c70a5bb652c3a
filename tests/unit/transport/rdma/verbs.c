/* SPDX-License-Identifier: MIT */
/*
 * Both ends of a session over RDMA in one process, seen through the public functions alone. The
 * same tests run over the fake device, which is strict and out of order, and over soft-RoCE, which
 * is real: VMFERRY_RAILS names the addresses of two RDMA ports.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../pair.h"
#include "rails.h"

#define PAGE	4096ull
#define SIZE	(8ull << 20)
#define ADDRESS (1ull << 32)
#define SLICE	(64 * PAGE)

static struct pair pair;
static uint8_t *from;
static uint8_t *to;
static uint8_t *expected;
static struct vmferry_memory *local;
static struct vmferry_memory *remote;

static void setup_with(const struct vmferry_transport_options *options, unsigned int access)
{
	pair_open_with(&pair, options);
	cr_assert_str_eq(vmferry_session_transport(pair.source), "rdma");
	cr_assert_str_eq(vmferry_session_transport(pair.destination), "rdma");
	from = pages_new(SIZE, 0);
	to = pages_new(SIZE, 0xee);
	expected = pages_new(SIZE, 0xee);
	fill_random(from, SIZE, 42);
	cr_assert_eq(vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local), 0);
	cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS, access, &remote), 0);
}

static void setup(unsigned int lanes, unsigned int access)
{
	struct vmferry_transport_options o = rails_options(1);

	o.lanes = lanes;
	setup_with(&o, access);
}

static void teardown(void)
{
	vmferry_deregister(&local);
	vmferry_deregister(&remote);
	pair_close(&pair);
	if (from != NULL) {
		pages_free(from, SIZE);
		pages_free(to, SIZE);
		pages_free(expected, SIZE);
	}
}

static void fence_all(uint32_t epoch)
{
	for (unsigned int i = 0; i < vmferry_session_lanes(pair.source); i++)
		cr_assert_eq(vmferry_lane_fence(pair.source, i, epoch, PATIENT), 0);
	cr_assert_eq(vmferry_fence_wait(pair.destination, epoch, PATIENT), 0);
	for (unsigned int i = 0; i < vmferry_session_lanes(pair.source); i++)
		cr_assert_eq(vmferry_lane_fence_wait(pair.source, i, epoch, PATIENT), 0);
}

TestSuite(verbs, .fini = teardown, .timeout = 120);

struct writer {
	unsigned int lane;
	unsigned int lanes;
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
	struct vmferry_write writes[50];

	for (unsigned int round = 0; round < 4; round++) {
		for (unsigned int i = 0; i < 50; i++) {
			uint64_t slice =
				next_random(&seed) % (SIZE / SLICE / w->lanes) * w->lanes + w->lane;
			uint64_t at = next_random(&seed) % SLICE;
			uint64_t length = next_random(&seed) % (SLICE - at) + 1;
			uint64_t offset = next_random(&seed) % (SIZE - length);

			writes[i] = (struct vmferry_write){local, offset,
							   ADDRESS + slice * SLICE + at, length};
			memcpy(expected + slice * SLICE + at, from + offset, length);
		}
		write_all(pair.source, w->lane, writes, 50);
	}
	return NULL;
}

static void write_random(void)
{
	unsigned int lanes = vmferry_session_lanes(pair.source);
	struct writer w[8];

	for (unsigned int i = 0; i < lanes; i++) {
		w[i] = (struct writer){.lane = i, .lanes = lanes};
		pthread_create(&w[i].thread, NULL, writer_thread, &w[i]);
	}
	for (unsigned int i = 0; i < lanes; i++)
		pthread_join(w[i].thread, NULL);
}

static void random_extents(unsigned int lanes)
{
	struct vmferry_lane_stats stats;

	setup(lanes, VMFERRY_ACCESS_REMOTE_WRITE);
	write_random();
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0, "with %u lanes", lanes);
	for (unsigned int i = 0; i < lanes; i++) {
		cr_assert_eq(vmferry_lane_stats(pair.source, i, &stats), 0);
		cr_expect_eq(stats.bytes, stats.placed_bytes);
		cr_expect_eq(stats.writes, 200);
		cr_expect_geq(stats.requests, 200);
		cr_expect_gt(stats.requests, stats.submissions);
	}
}

Test(verbs, random_extents_one_lane__all_placed_and_nothing_else)
{
	random_extents(1);
}

Test(verbs, random_extents_four_lanes__all_placed_and_nothing_else)
{
	random_extents(4);
}

Test(verbs, two_rails__all_placed_and_nothing_else)
{
	struct vmferry_transport_options o = rails_options(2);

	o.lanes = 4;
	setup_with(&o, VMFERRY_ACCESS_REMOTE_WRITE);
	write_random();
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, short_requests_and_window__all_placed)
{
	struct vmferry_transport_options o = rails_options(1);

	o.lanes = 2;
	o.write_bytes = PAGE;
	o.window_bytes = 4 * PAGE;
	setup_with(&o, VMFERRY_ACCESS_REMOTE_WRITE);
	write_random();
	fence_all(1);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, one_huge_write__placed)
{
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 1, ADDRESS + 3, SIZE - 10};
	write_all(pair.source, 0, &w, 1);
	fence_all(1);
	memcpy(expected + 3, from + 1, SIZE - 10);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, same_address_again__last_wins)
{
	struct vmferry_write w[100];

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	for (unsigned int i = 0; i < 100; i++)
		w[i] = (struct vmferry_write){local, i * PAGE, ADDRESS, PAGE};
	for (uint32_t epoch = 1; epoch < 10; epoch++) {
		write_all(pair.source, 0, w, 100);
		fence_all(epoch);
		cr_assert_eq(memcmp(to, from + 99 * PAGE, PAGE), 0);
	}
}

Test(verbs, bulk__many_requests_a_doorbell_and_a_signal)
{
	struct vmferry_lane_stats s;
	struct vmferry_write w[128];

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	for (unsigned int round = 0; round < 8; round++) {
		for (unsigned int i = 0; i < 128; i++)
			w[i] = (struct vmferry_write){local, 2 * i * PAGE, ADDRESS + 2 * i * PAGE,
						      PAGE};
		write_all(pair.source, 0, w, 128);
	}
	fence_all(1);
	cr_assert_eq(vmferry_lane_stats(pair.source, 0, &s), 0);
	cr_expect_gt(s.requests, 16 * s.submissions, "%llu requests, %llu doorbells",
		     (unsigned long long)s.requests, (unsigned long long)s.submissions);
	cr_expect_gt(s.requests, 16 * s.signals, "%llu requests, %llu signals",
		     (unsigned long long)s.requests, (unsigned long long)s.signals);
}

Test(verbs, read__what_is_there)
{
	setup(1, VMFERRY_ACCESS_REMOTE_READ | VMFERRY_ACCESS_REMOTE_WRITE);
	fill_random(to, SIZE, 7);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 5, ADDRESS + 9, 3 << 20, PATIENT), 0);
	cr_expect_eq(memcmp(from + 5, to + 9, 3 << 20), 0);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, 1, PATIENT), 0);
	cr_expect_eq(from[0], to[0]);
}

Test(verbs, read_behind_writes__sees_them)
{
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_READ | VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, 1 << 20};
	write_all(pair.source, 0, &w, 1);
	cr_assert_eq(vmferry_lane_read(pair.source, 0, local, 1 << 20, ADDRESS, 1 << 20, PATIENT),
		     0);
	cr_expect_eq(memcmp(from, from + (1 << 20), 1 << 20), 0);
	fence_all(1);
}

/* Until the lane has noticed, writes are still taken. */
static int write_until_it_ends(uint64_t address)
{
	struct vmferry_write w = {local, 0, address, PAGE};
	uint64_t deadline = PATIENT;
	int ret;

	do {
		ret = vmferry_lane_write(pair.source, 0, &w, 1, vmferry_now() + 100 * MS);
	} while ((ret > 0 || ret == -EAGAIN) && vmferry_now() < deadline);
	return ret;
}

Test(verbs, write_outside__eacces_and_nothing_placed)
{
	setup(2, VMFERRY_ACCESS_REMOTE_WRITE);
	cr_expect_eq(write_until_it_ends(ADDRESS + SIZE), -EACCES);
	cr_expect_eq(vmferry_lane_fence(pair.source, 1, 1, PATIENT), -EACCES);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, write_to_memory_for_reading__eacces)
{
	setup(1, VMFERRY_ACCESS_REMOTE_READ);
	cr_expect_eq(write_until_it_ends(ADDRESS), -EACCES);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, read_of_memory_for_writing__eacces)
{
	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	cr_expect_eq(vmferry_lane_read(pair.source, 0, local, 0, ADDRESS, PAGE, PATIENT), -EACCES);
}

Test(verbs, deregistered__nothing_placed_any_more)
{
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, PAGE};
	write_all(pair.source, 0, &w, 1);
	fence_all(1);
	vmferry_deregister(&remote);
	memset(to, 0xee, SIZE);
	cr_expect_eq(write_until_it_ends(ADDRESS), -EACCES);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, registered_again__written_again)
{
	struct vmferry_message m;
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, SIZE};
	for (uint32_t epoch = 1; epoch < 6; epoch++) {
		write_all(pair.source, 0, &w, 1);
		fence_all(epoch);
		cr_assert_eq(memcmp(to, from, SIZE), 0);
		vmferry_deregister(&remote);
		vmferry_deregister(&local);
		memset(to, 0, SIZE);
		cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS,
					      VMFERRY_ACCESS_REMOTE_WRITE, &remote),
			     0);
		cr_assert_eq(
			vmferry_register(pair.source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &local),
			0);
		w.memory = local;
		/* As the contract has it: the destination says by a message when it is ready. */
		cr_assert_eq(vmferry_send(pair.destination, VMFERRY_CONTROL, 1, "", 0, PATIENT), 0);
		cr_assert_eq(vmferry_recv(pair.source, &m, PATIENT), 0);
		vmferry_message_free(&m);
	}
}

Test(verbs, revoked__nothing_placed_and_messages_go_on)
{
	struct vmferry_message m;
	struct vmferry_write w;

	setup(2, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, PAGE};
	write_all(pair.source, 0, &w, 1);
	fence_all(1);
	vmferry_session_revoke(pair.destination);
	memset(to, 0xee, SIZE);
	cr_assert_eq(vmferry_send(pair.destination, VMFERRY_MAILBOX, 5, "run", 3, PATIENT), 0);
	cr_assert_eq(vmferry_recv(pair.source, &m, PATIENT), 0);
	cr_expect_eq(m.type, 5);
	vmferry_message_free(&m);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	cr_expect_lt(write_until_it_ends(ADDRESS), 0);
	cr_expect_eq(memcmp(to, expected, SIZE), 0);
}

Test(verbs, prepared__registered_without_a_write)
{
	struct vmferry_registration_stats s;
	uint64_t deadline = PATIENT;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	vmferry_registration_stats(pair.destination, &s);
	cr_expect_eq(s.bytes, 0);
	cr_assert_eq(vmferry_prepare(remote, 0, SIZE), 0);
	cr_expect_eq(vmferry_prepare(remote, PAGE, SIZE), -EINVAL);
	do {
		usleep(1000);
		vmferry_registration_stats(pair.destination, &s);
	} while (s.bytes < SIZE && vmferry_now() < deadline);
	cr_expect_eq(s.bytes, SIZE);
	cr_expect_gt(s.regions, 0);
	cr_expect_gt(s.ns, 0);
}

static void exchange(struct vmferry_session *a, struct vmferry_session *b, size_t length)
{
	uint8_t *data = malloc(length + 1);
	struct vmferry_message m;

	fill_random(data, length + 1, length + 1);
	cr_assert_eq(vmferry_send(a, VMFERRY_MAILBOX, 3, data, length, PATIENT), 0);
	cr_assert_eq(vmferry_recv(b, &m, PATIENT), 0);
	cr_expect_eq(m.type, 3);
	cr_assert_eq(m.length, length);
	cr_expect(length == 0 || memcmp(m.data, data, length) == 0, "%zu bytes differ", length);
	vmferry_message_free(&m);
	free(data);
}

Test(verbs, mailbox__all_sizes_both_ways)
{
	static const size_t lengths[] = {
		0, 1, 100, 16000, 16384, 16385, 65536, 1 << 20, VMFERRY_MESSAGE_MAX};

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		exchange(pair.source, pair.destination, lengths[i]);
		exchange(pair.destination, pair.source, lengths[i]);
	}
}

Test(verbs, mailbox_while_busy_polling__all_arrive_in_order)
{
	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	vmferry_session_busy_poll(pair.source, vmferry_now() + 300 * MS);
	vmferry_session_busy_poll(pair.destination, vmferry_now() + 300 * MS);
	for (unsigned int i = 0; i < 200; i++) {
		exchange(pair.source, pair.destination, 30 * i);
		exchange(pair.destination, pair.source, 10 * i);
	}
}

struct both {
	struct vmferry_session *session;
	unsigned int count;
	pthread_t thread;
};

static void *send_many(void *arg)
{
	struct both *b = arg;

	for (unsigned int i = 0; i < b->count; i++)
		cr_assert_eq(vmferry_send(b->session, i % 2 ? VMFERRY_MAILBOX : VMFERRY_CONTROL, i,
					  &i, sizeof(i), PATIENT),
			     0);
	return NULL;
}

Test(verbs, both_channels_both_ways_at_once__each_in_order)
{
	enum { COUNT = 300 };
	struct both ends[2];

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	ends[0] = (struct both){.session = pair.source, .count = COUNT};
	ends[1] = (struct both){.session = pair.destination, .count = COUNT};
	for (unsigned int e = 0; e < 2; e++)
		pthread_create(&ends[e].thread, NULL, send_many, &ends[e]);
	for (unsigned int e = 0; e < 2; e++) {
		uint32_t next[2] = {0, 1};

		for (unsigned int i = 0; i < COUNT; i++) {
			struct vmferry_message m;

			cr_assert_eq(vmferry_recv(ends[e].session, &m, PATIENT), 0);
			cr_assert_eq(m.type, next[m.type % 2]);
			next[m.type % 2] += 2;
			vmferry_message_free(&m);
		}
	}
	for (unsigned int e = 0; e < 2; e++)
		pthread_join(ends[e].thread, NULL);
}

Test(verbs, last_words__heard_then_econnreset)
{
	struct vmferry_message m;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	cr_assert_eq(vmferry_send(pair.destination, VMFERRY_MAILBOX, 7, "bye", 3, PATIENT), 0);
	vmferry_deregister(&remote);
	vmferry_session_close(&pair.destination);
	cr_assert_eq(vmferry_recv(pair.source, &m, PATIENT), 0);
	cr_expect_eq(m.type, 7);
	vmferry_message_free(&m);
	cr_expect_eq(vmferry_recv(pair.source, &m, PATIENT), -ECONNRESET);
}

Test(verbs, source_closes_after_fence__fence_still_seen)
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

Test(verbs, fence_not_given__waits_end_at_deadline)
{
	setup(2, VMFERRY_ACCESS_REMOTE_WRITE);
	cr_assert_eq(vmferry_lane_fence(pair.source, 0, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, vmferry_now() + 50 * MS), -ETIMEDOUT);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 1, 1, vmferry_now() + 50 * MS),
		     -ETIMEDOUT);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, PATIENT), 0);
	cr_assert_eq(vmferry_lane_fence(pair.source, 1, 1, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), 0);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 1, PATIENT), -EINVAL);
}

/* Were it done, the device would go on writing to pages that nobody sees any more. */
Test(verbs, discard_of_what_is_written_to__refused_and_nothing_lost)
{
	struct vmferry_write w;

	setup(1, VMFERRY_ACCESS_REMOTE_WRITE);
	w = (struct vmferry_write){local, 0, ADDRESS, PAGE};
	write_all(pair.source, 0, &w, 1);
	fence_all(1);
	cr_expect_eq(vmferry_discard(remote, 0, PAGE), -EBUSY);
	cr_expect_eq(vmferry_discard(local, 0, PAGE), -EBUSY);
	cr_expect_eq(memcmp(to, from, PAGE), 0);
	w.offset = PAGE;
	write_all(pair.source, 0, &w, 1);
	fence_all(2);
	cr_expect_eq(memcmp(to, from + PAGE, PAGE), 0);
	vmferry_deregister(&remote);
	cr_assert_eq(vmferry_register(pair.destination, to, SIZE, ADDRESS, 0, &remote), 0);
	cr_expect_eq(vmferry_discard(remote, 0, PAGE), 0);
	cr_expect_eq(to[0], 0);
}

Test(verbs, many_fences__none_lost)
{
	setup(3, VMFERRY_ACCESS_REMOTE_WRITE);
	for (uint32_t epoch = 1; epoch <= 200; epoch++)
		for (unsigned int i = 0; i < 3; i++)
			cr_assert_eq(vmferry_lane_fence(pair.source, i, epoch, PATIENT), 0);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 200, PATIENT), 0);
	for (unsigned int i = 0; i < 3; i++)
		cr_expect_eq(vmferry_lane_fence_wait(pair.source, i, 200, PATIENT), 0);
}

static void *fence_waiter(void *arg)
{
	int *ret = arg;

	*ret = vmferry_fence_wait(pair.destination, 1, PATIENT);
	return NULL;
}

Test(verbs, shutdown__waits_end)
{
	pthread_t thread;
	uint64_t begun;
	int ret = 0;

	setup(2, VMFERRY_ACCESS_REMOTE_WRITE);
	pthread_create(&thread, NULL, fence_waiter, &ret);
	usleep(50000);
	begun = vmferry_now();
	vmferry_session_shutdown(pair.destination);
	pthread_join(thread, NULL);
	cr_expect_eq(ret, -ECANCELED);
	cr_expect_lt(vmferry_now() - begun, 500 * MS);
	cr_expect_lt(vmferry_lane_fence_wait(pair.source, 0, 1, vmferry_now() + 2000 * MS), 0);
}

/* Somebody who has no rail where the destination listens; the session comes about all the same. */
Test(verbs, auto_with_a_rail_that_leads_nowhere__tcp_and_the_reason)
{
	struct vmferry_transport_options at = rails_options(1), o = rails_options(1);
	struct accepting a;

	at.transport = o.transport = VMFERRY_TRANSPORT_AUTO;
	o.rails[0] = "127.0.0.1";
	cr_assert_eq(vmferry_listen(LOOP, &at, &pair.listener), 0);
	accept_begin(&a, pair.listener, PATIENT);
	cr_assert_eq(
		vmferry_connect(vmferry_listener_uri(pair.listener), &o, PATIENT, &pair.source), 0);
	cr_assert_eq(accept_end(&a), 0);
	pair.destination = a.session;
	cr_expect_str_eq(vmferry_session_transport(pair.source), "tcp");
	cr_expect(strlen(vmferry_session_transport_reason(pair.source)) > 10, "%s",
		  vmferry_session_transport_reason(pair.source));
	/* By name it is that or nothing. */
	o.transport = VMFERRY_TRANSPORT_RDMA;
	accept_begin(&a, pair.listener, vmferry_now() + 1000 * MS);
	vmferry_session_close(&pair.source);
	cr_expect_eq(
		vmferry_connect(vmferry_listener_uri(pair.listener), &o, PATIENT, &pair.source),
		-EREMOTEIO);
	cr_expect_eq(accept_end(&a), -ETIMEDOUT);
}

Test(verbs, one_side_wants_tcp__tcp)
{
	struct vmferry_transport_options at = rails_options(1);
	struct vmferry_transport_options o = {.size = sizeof(o),
					      .transport = VMFERRY_TRANSPORT_TCP};
	struct accepting a;

	at.transport = VMFERRY_TRANSPORT_AUTO;
	cr_assert_eq(vmferry_listen(LOOP, &at, &pair.listener), 0);
	accept_begin(&a, pair.listener, PATIENT);
	cr_assert_eq(
		vmferry_connect(vmferry_listener_uri(pair.listener), &o, PATIENT, &pair.source), 0);
	cr_assert_eq(accept_end(&a), 0);
	pair.destination = a.session;
	cr_expect_str_eq(vmferry_session_transport(pair.source), "tcp");
	cr_expect_str_eq(vmferry_session_transport(pair.destination), "tcp");
}
