/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "migrator/qemu/peer.h"

Test(qemu_peer, hello__comes_as_it_was)
{
	struct peer_hello hello = {.version = PEER_VERSION, .path = "/run/vmferry/b/vm"}, back;
	uint8_t bytes[8 + PEER_PATH_MAX];
	size_t length = peer_hello_encode(&hello, bytes);

	cr_assert_eq(peer_hello_decode(bytes, length, &back), 0);
	cr_expect_eq(back.version, PEER_VERSION);
	cr_expect_str_eq(back.path, hello.path);
	for (size_t i = 0; i < length; i++)
		cr_expect_eq(peer_hello_decode(bytes, i, &back), -EPROTO, "%zu bytes", i);
	bytes[length] = 0;
	cr_expect_eq(peer_hello_decode(bytes, length + 1, &back), -EPROTO);
}

Test(qemu_peer, hello_with_the_longest_path__fits)
{
	struct peer_hello hello = {.version = 7}, back;
	uint8_t bytes[8 + PEER_PATH_MAX];

	memset(hello.path, 'x', PEER_PATH_MAX - 1);
	cr_assert_eq(peer_hello_decode(bytes, peer_hello_encode(&hello, bytes), &back), 0);
	cr_expect_str_eq(back.path, hello.path);
}

Test(qemu_peer, text_too_long_or_with_a_nul__is_refused)
{
	uint8_t bytes[6 + PEER_PATH_MAX + 1] = {0, 0, 0, 1, 0, PEER_PATH_MAX};
	struct peer_hello back;

	memset(bytes + 6, 'x', sizeof(bytes) - 6);
	cr_expect_eq(peer_hello_decode(bytes, 6 + PEER_PATH_MAX, &back), -EPROTO);
	bytes[5] = 4;
	cr_expect_eq(peer_hello_decode(bytes, 10, &back), 0);
	bytes[8] = 0;
	cr_expect_eq(peer_hello_decode(bytes, 10, &back), -EPROTO);
}

Test(qemu_peer, blocks__come_as_they_were)
{
	struct peer_blocks *blocks = calloc(1, sizeof(*blocks));
	struct peer_blocks *back = calloc(1, sizeof(*back));
	uint8_t *bytes;
	size_t length;

	blocks->return_path = true;
	strcpy(blocks->reason, "section 'vfio'");
	blocks->count = STREAM_BLOCKS_MAX;
	for (unsigned int i = 0; i < blocks->count; i++) {
		memset(blocks->blocks[i].name, 'a' + (int)(i % 26), i % PLACEMENT_NAME_MAX);
		blocks->blocks[i].bytes = (i + 1ull) << 12;
	}
	cr_assert_eq(peer_blocks_encode(blocks, &bytes, &length), 0);
	cr_assert_eq(peer_blocks_decode(bytes, length, back), 0);
	cr_expect_eq(memcmp(blocks, back, sizeof(*blocks)), 0);
	for (size_t i = 0; i < length; i++)
		cr_assert_eq(peer_blocks_decode(bytes, i, back), -EPROTO, "%zu bytes", i);
	free(bytes);
	free(blocks);
	free(back);
}

static int decode_block(uint64_t size, uint32_t count)
{
	static struct peer_blocks blocks, back;
	uint8_t *bytes;
	size_t length;
	int ret;

	blocks = (struct peer_blocks){.count = 1, .blocks = {{"pc.ram", size}}};
	cr_assert_eq(peer_blocks_encode(&blocks, &bytes, &length), 0);
	bytes[4] = (uint8_t)(count >> 24);
	bytes[5] = (uint8_t)(count >> 16);
	bytes[6] = (uint8_t)(count >> 8);
	bytes[7] = (uint8_t)count;
	ret = peer_blocks_decode(bytes, length, &back);
	free(bytes);
	return ret;
}

Test(qemu_peer, blocks_that_cannot_be__are_refused)
{
	cr_expect_eq(decode_block(4096, 1), 0);
	cr_expect_eq(decode_block(1ull << 44, 1), 0);
	cr_expect_eq(decode_block((1ull << 44) + 4096, 1), -EPROTO);
	cr_expect_eq(decode_block(4097, 1), -EPROTO);
	cr_expect_eq(decode_block(4096, 0), -EPROTO);
	cr_expect_eq(decode_block(4096, 2), -EPROTO);
	cr_expect_eq(decode_block(4096, STREAM_BLOCKS_MAX + 1), -EPROTO);
	cr_expect_eq(decode_block(4096, UINT32_MAX), -EPROTO);
}

Test(qemu_peer, placed__comes_as_it_was)
{
	struct peer_placed *placed = calloc(1, sizeof(*placed));
	struct peer_placed *back = calloc(1, sizeof(*back));
	uint8_t *bytes;
	size_t length;

	placed->autostart = true;
	placed->count = 3;
	placed->targets[0].kind = PLACEMENT_MAPPED;
	placed->targets[1].kind = PLACEMENT_PROCESS;
	strcpy(placed->targets[1].reason, "private memory");
	for (unsigned int i = 0; i < PEER_EXTENTS_MAX; i++)
		placed->targets[1].extents[i] = (struct placement_extent){i << 13, 4096};
	placed->targets[1].extent_count = PEER_EXTENTS_MAX;
	cr_assert_eq(peer_placed_encode(placed, &bytes, &length), 0);
	cr_assert_eq(peer_placed_decode(bytes, length, back), 0);
	cr_expect_eq(memcmp(placed, back, sizeof(*placed)), 0);
	for (size_t i = 0; i < length; i++)
		cr_assert_eq(peer_placed_decode(bytes, i, back), -EPROTO, "%zu bytes", i);
	/* Behind autostart and the count: the first block's kind. */
	bytes[5] = PLACEMENT_MAPPED + 1;
	cr_expect_eq(peer_placed_decode(bytes, length, back), -EPROTO);
	free(bytes);
	free(placed);
	free(back);
}

Test(qemu_peer, placed_with_too_much__is_refused)
{
	/* autostart, one block, of kind 2, no reason, 257 extents */
	uint8_t many[12 + 16 * (PEER_EXTENTS_MAX + 1)] = {0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 1, 1};
	uint8_t blocks[] = {0, 0, 0, 1, 1};
	struct peer_placed *back = calloc(1, sizeof(*back));

	cr_expect_eq(peer_placed_decode(many, sizeof(many), back), -EPROTO);
	many[11] = 0;
	cr_expect_eq(peer_placed_decode(many, sizeof(many) - 16, back), 0);
	cr_expect_eq(peer_placed_decode(blocks, sizeof(blocks), back), -EPROTO);
	free(back);
}

Test(qemu_peer, staged__comes_as_it_was)
{
	static struct peer_staged staged, back;
	static uint8_t bytes[PEER_STAGED_BYTES_MAX];
	size_t length;

	staged = (struct peer_staged){
		.epoch = 5, .reader = 31, .segment = 7, .count = PEER_STAGED_MAX};
	for (unsigned int i = 0; i < PEER_STAGED_MAX; i++)
		staged.pages[i] = (struct peer_staged_page){
			i, i % 3 == 0 ? PEER_STAGED_ZERO : i << 12, (uint64_t)i << 20};
	length = peer_staged_encode(&staged, bytes);
	cr_assert_eq(length, sizeof(bytes));
	cr_assert_eq(peer_staged_decode(bytes, length, &back), 0);
	cr_expect_eq(memcmp(&staged, &back, sizeof(staged)), 0);
	for (size_t i = 0; i < length; i++)
		cr_assert_eq(peer_staged_decode(bytes, i, &back), -EPROTO, "%zu bytes", i);
}

static int decode_staged(struct peer_staged staged)
{
	static uint8_t bytes[PEER_STAGED_BYTES_MAX];
	struct peer_staged back;
	size_t length = peer_staged_encode(&staged, bytes);

	return peer_staged_decode(bytes, length, &back);
}

Test(qemu_peer, staged_outside_of_the_ring__is_refused)
{
	uint32_t last = PEER_RING_BYTES - STREAM_PAGE_SIZE;

	cr_expect_eq(decode_staged((struct peer_staged){.count = 1, .pages = {{0, last, 0}}}), 0);
	cr_expect_eq(decode_staged((struct peer_staged){.count = 1, .pages = {{0, last + 1, 0}}}),
		     -EPROTO);
	cr_expect_eq(decode_staged((struct peer_staged){.reader = PEER_CONNECTIONS_MAX}), -EPROTO);
	cr_expect_eq(decode_staged((struct peer_staged){.segment = PEER_SEGMENTS}), -EPROTO);
}

Test(qemu_peer, staged_with_too_many_pages__is_refused)
{
	static uint8_t bytes[PEER_STAGED_BYTES_MAX + 16] = {[14] = 2, [15] = 1};
	struct peer_staged back;

	cr_expect_eq(peer_staged_decode(bytes, sizeof(bytes), &back), -EPROTO);
}

Test(qemu_peer, numbers__are_as_many_as_asked_for)
{
	uint32_t numbers[] = {1, UINT32_MAX, 0x01020304}, back[3];
	uint8_t bytes[12];

	peer_numbers_encode(numbers, 3, bytes);
	cr_expect_eq(bytes[8], 1);
	cr_assert_eq(peer_numbers_decode(bytes, 12, back, 3), 0);
	cr_expect_eq(memcmp(numbers, back, sizeof(numbers)), 0);
	cr_expect_eq(peer_numbers_decode(bytes, 12, back, 2), -EPROTO);
	cr_expect_eq(peer_numbers_decode(bytes, 11, back, 3), -EPROTO);
	cr_expect_eq(peer_numbers_decode(NULL, 0, back, 1), -EPROTO);
}

Test(qemu_peer, addresses_of_blocks_and_rings__do_not_meet)
{
	cr_expect_geq(peer_staging_address(0),
		      peer_block_address(STREAM_BLOCKS_MAX - 1) + (1ull << 44));
	cr_expect_eq(peer_staging_address(1) - peer_staging_address(0), PEER_RING_BYTES);
}
