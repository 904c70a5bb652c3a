/* SPDX-License-Identifier: MIT */
/* A ring over lanes that place writes only when somebody waits for a fence behind them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "guest.h"
#include "late_session.h"
#include "migrator/qemu/moment.h"
#include "migrator/qemu/ring.h"

#define PATIENT	    (vmferry_now() + 10 * NS_PER_S)
#define BLOCK_BYTES (16u << 20)
#define COPIED	    1u /* the block that the destination copies from its staging memory */

struct scene {
	struct vmferry_listener *listener;
	struct vmferry_session *destination;
	struct vmferry_memory *memory;
	uint8_t *target;
	struct vmferry_memory *staging_memory;
	uint8_t *staging;
	struct relay relay;
	struct offload offload;
	struct ring *ring;
};

static uint8_t *map(uint64_t bytes)
{
	void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	cr_assert_neq(p, MAP_FAILED);
	return p;
}

static void open_scene(struct scene *s)
{
	static const struct relay_ops ops;
	struct vmferry_transport_options options = {.size = sizeof(options)};
	struct stream_block blocks[] = {{"mapped", BLOCK_BYTES}, {"copied", BLOCK_BYTES}};
	struct peer_placed *placed = calloc(1, sizeof(*placed));
	struct vmferry_session *source;

	cr_assert_eq(vmferry_listen("tcp:127.0.0.1:0", &options, &s->listener), 0);
	cr_assert_eq(vmferry_connect(vmferry_listener_uri(s->listener), &options, PATIENT, &source),
		     0);
	cr_assert_eq(vmferry_accept(s->listener, PATIENT, &s->destination), 0);
	s->target = map(BLOCK_BYTES);
	s->staging = map(PEER_RING_BYTES);
	cr_assert_eq(vmferry_register(s->destination, s->target, BLOCK_BYTES, peer_block_address(0),
				      VMFERRY_ACCESS_REMOTE_WRITE, &s->memory),
		     0);
	cr_assert_eq(vmferry_register(s->destination, s->staging, PEER_RING_BYTES,
				      peer_staging_address(0), VMFERRY_ACCESS_REMOTE_WRITE,
				      &s->staging_memory),
		     0);
	cr_assert_eq(relay_init(&s->relay, source, &ops, NULL, "test"), 0);
	cr_assert_eq(offload_init(&s->offload, &s->relay), 0);
	placed->count = 2;
	placed->targets[0].kind = PLACEMENT_MAPPED;
	placed->targets[COPIED].kind = PLACEMENT_PROCESS;
	cr_assert_eq(offload_place(&s->offload, blocks, 2, placed), 0);
	cr_assert_eq(ring_open(&s->offload, 0, &s->ring), 0);
	free(placed);
}

static void close_scene(struct scene *s)
{
	relay_join(&s->relay);
	ring_close(&s->ring);
	offload_free(&s->offload);
	relay_close(&s->relay);
	vmferry_deregister(&s->memory);
	vmferry_deregister(&s->staging_memory);
	vmferry_session_close(&s->destination);
	vmferry_listener_close(&s->listener);
	munmap(s->target, BLOCK_BYTES);
	munmap(s->staging, PEER_RING_BYTES);
}

/* A page full of @word, read into the current segment at @at. */
static void give_page(struct scene *s, size_t at, unsigned int block, uint64_t offset,
		      uint64_t word)
{
	guest_fill_page(ring_segment(s->ring) + at, word);
	cr_assert_eq(ring_page(s->ring, ring_segment(s->ring) + at, block, offset), 0);
}

static void reach_all(struct scene *s)
{
	uint32_t epoch;

	cr_assert_eq(ring_flush(s->ring), 0);
	cr_assert_eq(offload_fence_all(&s->offload, &epoch), 0);
	cr_assert_eq(vmferry_fence_wait(s->destination, epoch, PATIENT), 0);
}

static uint64_t word_at(const uint8_t *memory, uint64_t offset)
{
	uint64_t word;

	memcpy(&word, memory + offset, sizeof(word));
	return word;
}

Test(qemu_ring, pages_of_many_segments__are_placed_as_they_were)
{
	struct scene s = {0};

	open_scene(&s);
	for (uint64_t i = 0; i < BLOCK_BYTES / GUEST_PAGE; i++) {
		give_page(&s, (i % 32) * GUEST_PAGE, 0, i * GUEST_PAGE, i + 1);
		if (i % 32 == 31)
			cr_assert_eq(ring_next(s.ring), 0);
	}
	reach_all(&s);
	for (uint64_t i = 0; i < BLOCK_BYTES / GUEST_PAGE; i++)
		cr_assert_eq(word_at(s.target, i * GUEST_PAGE), i + 1);
	close_scene(&s);
}

/* The list's fence says nothing of what was given to lanes behind it. */
Test(qemu_ring, page_behind_a_list_of_its_segment__is_placed_before_the_segment_is_used_again)
{
	struct scene s = {0};

	open_scene(&s);
	give_page(&s, 0, COPIED, 0, 1);
	cr_assert_eq(ring_sync(s.ring), 0);
	cr_assert_eq(ring_freed(s.ring, 0), 0);
	give_page(&s, GUEST_PAGE, 0, 0, 2);
	for (unsigned int i = 1; i <= PEER_SEGMENTS; i++) {
		cr_assert_eq(ring_next(s.ring), 0);
		give_page(&s, GUEST_PAGE, 0, (uint64_t)i << OFFLOAD_STRIPE_SHIFT, 2 + i);
	}
	reach_all(&s);
	for (unsigned int i = 0; i <= PEER_SEGMENTS; i++)
		cr_expect_eq(word_at(s.target, (uint64_t)i << OFFLOAD_STRIPE_SHIFT), 2 + i);
	close_scene(&s);
}

Test(qemu_ring, freed_segment_that_was_not_given__is_refused)
{
	struct scene s = {0};

	open_scene(&s);
	cr_expect_eq(ring_freed(s.ring, 3), -EPROTO);
	close_scene(&s);
}
