/* SPDX-License-Identifier: MIT */
/*
 * A lane over TCP. At the source the thread that uses the lane does all the work, with a frame that
 * did not fit kept as state; at the destination a thread of the lane's own reads frames straight
 * into registered memory.
 */
#ifndef TCP_TCP_H
#define TCP_TCP_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/uio.h>

#include "transport/session.h"
#include "transport/tcp/frame.h"

#define SEND_IOVS 1024 /* the kernel's IOV_MAX */
#define ACK_EVERY (16ull << 20)

/* Source: the frame being sent, and what has come back. */
struct tcp_sender {
	uint8_t head[FRAME_HEAD + FRAME_EXTENTS_MAX * FRAME_EXTENT];
	unsigned int extents;
	uint64_t payload;
	uint64_t end; /* where the last extent ends */
	uint64_t last_length;
	struct iovec iov[SEND_IOVS]; /* [0] is the head */
	unsigned int iov_at;
	unsigned int iov_count;
	uint64_t left; /* bytes of the frame that are not sent yet */
	struct vmferry_write
		rest;	  /* the part of a taken write that is in no frame yet; length 0: none */
	uint64_t given;	  /* payload bytes */
	uint64_t fenced;  /* last epoch given + 1 */
	uint64_t reached; /* last epoch that came back + 1 */
	uint8_t answer[ANSWER_FRAME];
	size_t answer_have;
	uint64_t reading; /* bytes of the READ that is out, 0: none */
};

/* Destination: the frame being received, or the READ being served. */
struct tcp_receiver {
	uint8_t head[FRAME_HEAD];
	size_t head_have;
	uint8_t table[FRAME_EXTENTS_MAX * FRAME_EXTENT];
	struct {
		uint64_t address;
		uint64_t length;
	} extents[FRAME_EXTENTS_MAX];
	unsigned int extent_count;
	uint64_t total; /* bytes of all extents */
	uint64_t left;	/* of which not yet moved */
	unsigned int access;
	uint64_t generation; /* of the table of memory when the pointers were made, 0: not made */
	struct iovec iov[FRAME_EXTENTS_MAX + 1];
	unsigned int iov_at;
	unsigned int iov_count;
	uint64_t placed;
	uint64_t acked;
};

struct tcp_lane {
	struct lane lane; /* first */
	int fd;
	atomic_bool stop;
	bool has_thread;
	pthread_t thread;
	struct tcp_sender out;
	struct tcp_receiver in;
};

static inline struct tcp_lane *tcp_lane_of(struct lane *lane)
{
	return (struct tcp_lane *)(void *)lane;
}

/* Moves the beginning of @iov past @bytes. */
void iov_advance(struct iovec *iov, unsigned int *at, unsigned int count, uint64_t bytes);

/* send.c. Nothing waits here but tcp_flush(). */
int tcp_write(struct lane *lane, const struct vmferry_write *writes, unsigned int count,
	      uint64_t deadline);
int tcp_fence(struct lane *lane, uint32_t epoch, uint64_t deadline);

/* Sends what was taken: 1 when all is sent, 0 when the socket is full, or the session's error. */
int tcp_push(struct tcp_lane *l);

/* The same until @deadline: 0, -ETIMEDOUT, or the session's error. */
int tcp_flush(struct tcp_lane *l, uint64_t deadline);

/* Begins a frame without payload; nothing else may be under way. @extent may be NULL. */
void tcp_begin_frame(struct tcp_lane *l, const struct frame_head *head, const uint8_t *extent);

/*
 * ack.c. Takes in the answers that have come: 0, 1 when the next bytes are a READ's, or the
 * session's error.
 */
int tcp_hear(struct tcp_lane *l);
int tcp_fence_wait(struct lane *lane, uint32_t epoch, uint64_t deadline);

/*
 * The lane has failed with @error: ends the session, with the destination's reason if it gave one.
 */
int tcp_source_failed(struct tcp_lane *l, const char *what, int error);

/* read.c */
int tcp_read(struct lane *lane, uint8_t *to, uint64_t address, uint64_t length, uint64_t deadline);

/* receive.c: the thread of a lane at the destination. */
void *tcp_receive_thread(void *lane);

/* Waits until the lane can be read or written or is shut down. */
int tcp_await(const struct tcp_lane *l, short events);

/*
 * place.c. Reads the payload of the frame in l->in straight into memory, or sends the bytes that it
 * asks for. -EACCES if not all extents lie in memory with l->in.access; then nothing was moved,
 * unless it was revoked meanwhile.
 */
int tcp_place(struct tcp_lane *l);
int tcp_serve(struct tcp_lane *l);

#endif
