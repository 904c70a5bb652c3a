/* SPDX-License-Identifier: MIT */
/*
 * What goes over a TCP lane, all little-endian. The source sends frames:
 *   WRITE  {kind 4, extents 4, payload 8} {address 8, length 8} x extents, payload
 *   FENCE  {kind 4, epoch 4, 0 8}
 *   READ   {kind 4, 1 4, 0 8} {address 8, length 8}
 * The destination sends answers {kind 4, status 4, value 8, placed 8}, DATA with the bytes behind
 * it.
 */
#ifndef TCP_FRAME_H
#define TCP_FRAME_H

#include <stdint.h>

#include "common/wire.h"

#define FRAME_HEAD	  16
#define FRAME_EXTENT	  16
#define FRAME_EXTENTS_MAX 256
#define FRAME_PAYLOAD_MAX \
	(4u << 20) /* what is accepted; the source sends frames as large as FRAME_PAYLOAD */
#define FRAME_PAYLOAD (1u << 20)
#define READ_MAX      (4u << 20) /* bytes of one READ */
#define ANSWER_FRAME  24

enum frame_kind {
	FRAME_WRITE = 1,
	FRAME_FENCE = 2,
	FRAME_READ = 3,
};

enum answer_kind {
	ANSWER_PLACED = 1,  /* value: epoch of the last fence + 1 */
	ANSWER_DATA = 2,    /* value: bytes that follow */
	ANSWER_REFUSED = 3, /* status says why; the last one */
};

enum refusal {
	REFUSED_ACCESS = 1,
	REFUSED_PROTOCOL = 2,
};

struct frame_head {
	uint32_t kind;
	uint32_t count; /* extents or epoch */
	uint64_t payload;
};

struct frame_answer {
	uint32_t kind;
	uint32_t status;
	uint64_t value;
	uint64_t placed; /* payload bytes placed so far */
};

static inline void frame_head_encode(const struct frame_head *head, uint8_t *bytes)
{
	wire_put_u32(bytes, head->kind);
	wire_put_u32(bytes + 4, head->count);
	wire_put_u64(bytes + 8, head->payload);
}

static inline void frame_head_decode(const uint8_t *bytes, struct frame_head *head)
{
	head->kind = (uint32_t)wire_get(bytes, 4);
	head->count = (uint32_t)wire_get(bytes + 4, 4);
	head->payload = wire_get(bytes + 8, 8);
}

static inline void frame_answer_encode(const struct frame_answer *answer, uint8_t *bytes)
{
	wire_put_u32(bytes, answer->kind);
	wire_put_u32(bytes + 4, answer->status);
	wire_put_u64(bytes + 8, answer->value);
	wire_put_u64(bytes + 16, answer->placed);
}

static inline void frame_answer_decode(const uint8_t *bytes, struct frame_answer *answer)
{
	answer->kind = (uint32_t)wire_get(bytes, 4);
	answer->status = (uint32_t)wire_get(bytes + 4, 4);
	answer->value = wire_get(bytes + 8, 8);
	answer->placed = wire_get(bytes + 16, 8);
}

#endif
