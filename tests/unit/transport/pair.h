/* SPDX-License-Identifier: MIT */
/* Two ends of a session in one process and memory to write from and to. */
#ifndef TEST_PAIR_H
#define TEST_PAIR_H

#include <pthread.h>

#include <vmferry/transport.h>

#include "kept.h"

#define MS 1000000ull
/* For what comes for certain, however busy the machine. */
#define PATIENT (vmferry_now() + 60000 * MS)
#define LOOP	"tcp:127.0.0.1:0"

struct pair {
	struct vmferry_listener *listener;
	struct vmferry_session *source;
	struct vmferry_session *destination;
};

/* Both ends, over @lanes lanes; the test fails if that does not work. */
void pair_open(struct pair *pair, unsigned int lanes);

/* The same with the given options, of both ends. */
void pair_open_with(struct pair *pair, const struct vmferry_transport_options *options);

/* The same over RDMA, by the first of the fake devices. */
void pair_open_rdma(struct pair *pair, unsigned int lanes);
void pair_close(struct pair *pair);

/* A vmferry_accept() in a thread of its own. */
struct accepting {
	struct vmferry_listener *listener;
	uint64_t deadline;
	struct vmferry_session *session;
	int ret;
	pthread_t thread;
};

void accept_begin(struct accepting *a, struct vmferry_listener *listener, uint64_t deadline);
int accept_end(struct accepting *a);

/*
 * Connects a good source with @lanes while @a accepts; both ends must succeed and are closed again.
 */
void expect_good_source(struct vmferry_listener *listener, unsigned int lanes);

/* Pages of memory, filled with @fill. */
void *pages_new(size_t bytes, int fill);
void pages_free(void *pages, size_t bytes);

/* Fills with bytes that are the same for the same seed. */
void fill_random(void *data, size_t bytes, uint64_t seed);
uint64_t next_random(uint64_t *state);

/* Writes all, through every -EAGAIN and short count. */
void write_all(struct vmferry_session *s, unsigned int lane, const struct vmferry_write *writes,
	       unsigned int count);

#endif
