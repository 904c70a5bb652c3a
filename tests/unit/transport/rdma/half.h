/* SPDX-License-Identifier: MIT */
/*
 * One side of a session over the fake devices, without lanes: the test is the peer at the other end
 * of its control connection.
 */
#ifndef TEST_HALF_H
#define TEST_HALF_H

#include "../kept.h"
#include "transport/rdma/rdma.h"

#define PAGE 4096ull
#define MIB  (1ull << 20)
#define MS   1000000ull

struct half {
	struct vmferry_session *session;
	struct rdma_session *rdma;
	struct channel peer;
	unsigned int rails;
	struct ibv_context *contexts[2];
};

/* What the next one's options say of paging on demand. */
extern bool half_on_demand;

void half_open(struct half *half, bool is_source, unsigned int rails);

/* Nothing may be left of it in the devices. */
void half_close(struct half *half);

/* What the session says next; false if it says nothing for @ms or has closed. */
bool half_hear(struct half *half, struct vmferry_message *message, unsigned int ms);

/* Whether it says this type next; frees it. */
bool half_hears(struct half *half, uint32_t type);

/* The peer says something, and the session takes it as its service thread would. */
int half_say(struct half *half, uint32_t type, const void *data, size_t length);

/* Waits for the session's error: 0 if there is none for five seconds. */
int half_error(const struct half *half);

/* Memory that nobody has touched. */
uint8_t *untouched_new(uint64_t bytes);
uint64_t resident_bytes(const uint8_t *memory, uint64_t bytes);

#endif
