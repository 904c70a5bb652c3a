/* SPDX-License-Identifier: MIT */
/*
 * Thousands of broken handshakes and frames, the same ones in every run: nothing may crash, nothing
 * outside registered memory may change, and a good source must get through afterwards.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/wire.h"
#include "pair.h"
#include "raw.h"
#include "transport/tcp/frame.h"

#define PAGE 4096ull

/* Flips, overwrites, cuts; returns the new length. */
static size_t mutate(uint8_t *bytes, size_t length, uint64_t *seed)
{
	static const uint8_t values[] = {0, 1, 2, 3, 0x7f, 0x80, 0xff};
	unsigned int changes = (unsigned int)(next_random(seed) % 4);

	for (unsigned int i = 0; i < changes; i++) {
		size_t at = next_random(seed) % length;

		if (next_random(seed) % 2 == 0)
			bytes[at] ^= (uint8_t)(1u << next_random(seed) % 8);
		else
			bytes[at] = values[next_random(seed) % sizeof(values)];
	}
	return next_random(seed) % 3 == 0 ? next_random(seed) % (length + 1) : length;
}

static void one_handshake(struct vmferry_listener *listener, uint64_t *seed)
{
	struct hello_control control = {.lanes = 1 + (uint32_t)(next_random(seed) % 3),
					.transport = VMFERRY_TRANSPORT_TCP};
	struct hello_lane lane = {.number = 0};
	struct vmferry_session *session = NULL;
	uint8_t bytes[HELLO_MAX];
	size_t length;
	int fd = raw_connect(listener);

	if (next_random(seed) % 2 == 0) {
		hello_control_encode(&control, bytes);
		length = mutate(bytes, HELLO_CONTROL, seed);
	} else {
		fill_random(&lane.session, sizeof(lane.session), *seed | 1);
		hello_lane_encode(&lane, bytes);
		length = mutate(bytes, HELLO_LANE, seed);
	}
	raw_send(fd, bytes, length);
	if (vmferry_accept(listener, 0, &session) == 0)
		vmferry_session_close(&session);
	close(fd);
}

Test(fuzz, handshakes__listener_lives, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	uint64_t seed = 20240229;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	for (unsigned int i = 0; i < 3000; i++)
		one_handshake(listener, &seed);
	expect_good_source(listener, 4);
	vmferry_listener_close(&listener);
}

/* A few frames that are good but for what mutate() does to heads and extents. */
static size_t make_frames(uint8_t *bytes, uint64_t *seed)
{
	size_t at = 0;

	for (uint32_t epoch = 1; epoch <= 4; epoch++) {
		uint8_t *head = bytes + at;
		uint64_t length = next_random(seed) % 600 + 1;

		frame_head_encode(&(struct frame_head){FRAME_WRITE, 2, 2 * length}, head);
		for (unsigned int i = 0; i < 2; i++) {
			wire_put_u64(head + 16 + 16 * (size_t)i,
				     PAGE + next_random(seed) % (4 * PAGE));
			wire_put_u64(head + 24 + 16 * (size_t)i, length);
		}
		if (next_random(seed) % 3 == 0)
			mutate(head, 48, seed);
		at += 48 + 2 * length;
		frame_head_encode(&(struct frame_head){FRAME_FENCE, epoch, 0}, bytes + at);
		if (next_random(seed) % 6 == 0)
			mutate(bytes + at, FRAME_HEAD, seed);
		at += FRAME_HEAD;
		frame_head_encode(&(struct frame_head){FRAME_READ, 1, 0}, bytes + at);
		wire_put_u64(bytes + at + 16, PAGE + next_random(seed) % (4 * PAGE));
		wire_put_u64(bytes + at + 24, next_random(seed) % 600 + 1);
		if (next_random(seed) % 6 == 0)
			mutate(bytes + at, FRAME_HEAD + FRAME_EXTENT, seed);
		at += FRAME_HEAD + FRAME_EXTENT;
	}
	return next_random(seed) % 4 == 0 ? next_random(seed) % at : at;
}

static void one_session(struct raw_session *raw, uint8_t *to, uint64_t *seed)
{
	uint8_t bytes[8192];
	struct vmferry_memory *m = NULL;
	struct vmferry_message message;
	int ret;

	memset(bytes, 0x33, sizeof(bytes));
	raw_session_open(raw);
	cr_assert_eq(vmferry_register(raw->destination, to + PAGE, 4 * PAGE, PAGE,
				      VMFERRY_ACCESS_REMOTE_WRITE | VMFERRY_ACCESS_REMOTE_READ, &m),
		     0);
	raw_send(raw->lane, bytes, make_frames(bytes, seed));
	fill_random(bytes, 8, *seed | 1);
	raw_send(raw->control, bytes, next_random(seed) % 9);
	shutdown(raw->lane, SHUT_WR);
	shutdown(raw->control, SHUT_WR);
	ret = vmferry_fence_wait(raw->destination, 4, PATIENT);
	cr_assert(ret == 0 || ret == -ECONNRESET || ret == -EACCES || ret == -EPROTO, "%d", ret);
	ret = vmferry_recv(raw->destination, &message, PATIENT);
	cr_assert_lt(ret, 0);
	cr_assert_neq(ret, -ETIMEDOUT);
	vmferry_deregister(&m);
	raw_session_close(raw);
}

Test(fuzz, frames__registered_memory_only, .timeout = 120)
{
	struct raw_session raw = {0};
	uint8_t *to = pages_new(6 * PAGE, 0xee);
	uint64_t seed = 20240301;

	for (unsigned int i = 0; i < 1000; i++)
		one_session(&raw, to, &seed);
	for (unsigned int i = 0; i < PAGE; i++) {
		cr_assert_eq(to[i], 0xee);
		cr_assert_eq(to[5 * PAGE + i], 0xee);
	}
	expect_good_source(raw.listener, 4);
	vmferry_listener_close(&raw.listener);
	pages_free(to, 6 * PAGE);
}
