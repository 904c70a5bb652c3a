/* SPDX-License-Identifier: MIT */
/* What the destination must refuse, with nothing of it placed. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "common/wire.h"
#include "pair.h"
#include "raw.h"
#include "transport/tcp/frame.h"

#define PAGE	4096ull
#define SIZE	(64 * PAGE)
#define ADDRESS (16 * PAGE)

struct extent {
	uint64_t address;
	uint64_t length;
};

/* Sends a frame as it is told, with the payload that its extents need, at most 1 MiB. */
static void send_frame(int fd, uint32_t kind, uint32_t count, uint64_t payload,
		       const struct extent *extents, unsigned int n)
{
	static uint8_t bytes[FRAME_HEAD + FRAME_EXTENTS_MAX * FRAME_EXTENT + (1 << 20)];
	size_t at = FRAME_HEAD;

	memset(bytes, 0x55, sizeof(bytes));
	frame_head_encode(&(struct frame_head){kind, count, payload}, bytes);
	for (unsigned int i = 0; i < n; i++, at += FRAME_EXTENT) {
		wire_put_u64(bytes + at, extents[i].address);
		wire_put_u64(bytes + at + 8, extents[i].length);
	}
	raw_send(fd, bytes, at + (payload < 1 << 20 ? payload : 1 << 20));
}

static void expect_refused(uint32_t kind, uint32_t count, uint64_t payload,
			   const struct extent *extents, unsigned int n, unsigned int access,
			   int error)
{
	struct raw_session raw = {0};
	struct vmferry_memory *m[2];
	uint8_t *to = pages_new(2 * SIZE, 0xee);
	uint8_t *same = pages_new(2 * SIZE, 0xee);
	uint8_t reply[ANSWER_FRAME];
	struct frame_answer a;

	raw_session_open(&raw);
	/* Two that touch: a range over both is in neither. */
	cr_assert_eq(vmferry_register(raw.destination, to, SIZE, ADDRESS, access, &m[0]), 0);
	cr_assert_eq(
		vmferry_register(raw.destination, to + SIZE, SIZE, ADDRESS + SIZE, access, &m[1]),
		0);
	send_frame(raw.lane, kind, count, payload, extents, n);
	cr_assert(raw_recv(raw.lane, reply, sizeof(reply)));
	frame_answer_decode(reply, &a);
	cr_expect_eq(a.kind, ANSWER_REFUSED);
	cr_expect_eq(a.status, error == -EACCES ? REFUSED_ACCESS : REFUSED_PROTOCOL);
	cr_expect_eq(vmferry_fence_wait(raw.destination, 1, PATIENT), error);
	cr_expect(raw_closed(raw.lane));
	cr_expect(raw_closed(raw.control));
	cr_expect_eq(memcmp(to, same, 2 * SIZE), 0);
	vmferry_deregister(&m[0]);
	vmferry_deregister(&m[1]);
	raw_session_close(&raw);
	vmferry_listener_close(&raw.listener);
	pages_free(to, 2 * SIZE);
	pages_free(same, 2 * SIZE);
}

static void write_refused(struct extent extent)
{
	/* A good range before it: all are judged before any is written. */
	const struct extent both[] = {{ADDRESS, 100}, extent};
	const unsigned int w = VMFERRY_ACCESS_REMOTE_WRITE;

	expect_refused(FRAME_WRITE, 2, 100 + extent.length, both, 2, w, -EACCES);
}

Test(refuse, write_outside__eacces_nothing_placed, .timeout = 120)
{
	log_keep();
	write_refused((struct extent){ADDRESS - 1, 1});
	write_refused((struct extent){ADDRESS + 2 * SIZE, 1});
	write_refused((struct extent){ADDRESS + 2 * SIZE - 1, 2});
	write_refused((struct extent){ADDRESS + SIZE - 1, 2});
	write_refused((struct extent){UINT64_MAX, 2});
	write_refused((struct extent){UINT64_MAX - 10, 1 << 20});
	cr_expect(log_has("is not in memory registered for it"));
}

Test(refuse, write_without_access__eacces, .timeout = 120)
{
	const struct extent e = {ADDRESS, 100};

	expect_refused(FRAME_WRITE, 1, 100, &e, 1, VMFERRY_ACCESS_LOCAL, -EACCES);
	expect_refused(FRAME_WRITE, 1, 100, &e, 1, VMFERRY_ACCESS_REMOTE_READ, -EACCES);
}

Test(refuse, read_without_access__eacces, .timeout = 120)
{
	const struct extent e = {ADDRESS, 100};
	const struct extent beyond = {ADDRESS + SIZE - 1, 2};

	expect_refused(FRAME_READ, 1, 0, &e, 1, VMFERRY_ACCESS_REMOTE_WRITE, -EACCES);
	expect_refused(FRAME_READ, 1, 0, &beyond, 1, VMFERRY_ACCESS_REMOTE_READ, -EACCES);
}

Test(refuse, impossible_frames__eproto, .timeout = 120)
{
	const struct extent good = {ADDRESS, 100};
	const struct extent none = {ADDRESS, 0};
	const struct extent wrap[] = {{ADDRESS, UINT64_MAX}, {ADDRESS, 101}};
	const unsigned int rw = VMFERRY_ACCESS_REMOTE_WRITE | VMFERRY_ACCESS_REMOTE_READ;

	expect_refused(0, 0, 0, NULL, 0, rw, -EPROTO);
	expect_refused(77, 1, 100, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 0, 100, NULL, 0, rw, -EPROTO);
	expect_refused(FRAME_WRITE, FRAME_EXTENTS_MAX + 1, 100, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, UINT32_MAX, 100, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 1, 0, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 1, 99, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 1, 101, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 1, UINT64_MAX, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 1, 100, &none, 1, rw, -EPROTO);
	expect_refused(FRAME_WRITE, 2, 100, wrap, 2, rw, -EPROTO);
	expect_refused(FRAME_FENCE, 1, 1, NULL, 0, rw, -EPROTO);
	expect_refused(FRAME_READ, 2, 0, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_READ, 1, 5, &good, 1, rw, -EPROTO);
	expect_refused(FRAME_READ, 1, 0, &none, 1, rw, -EPROTO);
}

Test(refuse, source_is_told__eacces_at_both_ends, .timeout = 120)
{
	uint8_t *pages = pages_new(SIZE, 1);
	struct vmferry_memory *m = NULL;
	struct vmferry_write w;
	struct pair pair;
	int ret;

	pair_open(&pair, 1);
	cr_assert_eq(vmferry_register(pair.source, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	w = (struct vmferry_write){m, 0, ADDRESS, PAGE};
	/* The refusal may be back before this call is. */
	ret = vmferry_lane_write(pair.source, 0, &w, 1, PATIENT);
	cr_assert(ret == 1 || ret == -EACCES, "%d", ret);
	cr_expect_eq(vmferry_lane_fence_wait(pair.source, 0, 1, PATIENT), -EACCES);
	cr_expect_eq(vmferry_lane_write(pair.source, 0, &w, 1, PATIENT), -EACCES);
	cr_expect_eq(vmferry_lane_fence(pair.source, 0, 1, PATIENT), -EACCES);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), -EACCES);
	vmferry_deregister(&m);
	pair_close(&pair);

	pair_open(&pair, 1);
	cr_assert_eq(vmferry_register(pair.source, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	cr_expect_eq(vmferry_lane_read(pair.source, 0, m, 0, ADDRESS, PAGE, PATIENT), -EACCES);
	vmferry_deregister(&m);
	pair_close(&pair);
	pages_free(pages, SIZE);
}

static uint64_t wire_bytes(struct vmferry_session *destination)
{
	struct vmferry_lane_stats stats;

	cr_assert_eq(vmferry_lane_stats(destination, 0, &stats), 0);
	return stats.wire_bytes;
}

Test(refuse, deregistered__later_write_eacces_and_nothing_placed, .timeout = 120)
{
	struct raw_session raw = {0};
	struct vmferry_memory *m = NULL;
	uint8_t *to = pages_new(SIZE, 0xee);
	const struct extent e = {ADDRESS, PAGE};
	uint64_t before;

	raw_session_open(&raw);
	cr_assert_eq(vmferry_register(raw.destination, to, SIZE, ADDRESS,
				      VMFERRY_ACCESS_REMOTE_WRITE, &m),
		     0);
	send_frame(raw.lane, FRAME_WRITE, 1, PAGE, &e, 1);
	send_frame(raw.lane, FRAME_FENCE, 1, 0, NULL, 0);
	cr_assert_eq(vmferry_fence_wait(raw.destination, 1, PATIENT), 0);
	cr_expect_eq(to[PAGE - 1], 0x55);

	/*
	 * Half a write, and the peer says no more: deregistering does not wait for it, the rest is
	 * refused.
	 */
	memset(to, 0xee, SIZE);
	{
		uint8_t head[FRAME_HEAD + FRAME_EXTENT + PAGE];

		memset(head, 0x77, sizeof(head));
		frame_head_encode(&(struct frame_head){FRAME_WRITE, 1, PAGE}, head);
		wire_put_u64(head + 16, ADDRESS);
		wire_put_u64(head + 24, PAGE);
		before = wire_bytes(raw.destination);
		raw_send(raw.lane, head, sizeof(head) - PAGE / 2);
		while (wire_bytes(raw.destination) < before + sizeof(head) - PAGE / 2)
			usleep(1000);
		vmferry_deregister(&m);
		cr_expect_null(m);
		memset(to, 0xee, SIZE);
		raw_send(raw.lane, head, PAGE / 2);
	}
	cr_expect_eq(vmferry_fence_wait(raw.destination, 2, PATIENT), -EACCES);
	for (unsigned int i = 0; i < SIZE; i++)
		cr_assert_eq(to[i], 0xee);
	raw_session_close(&raw);
	vmferry_listener_close(&raw.listener);
	pages_free(to, SIZE);
}
