/* SPDX-License-Identifier: MIT */
/*
 * Two queue pairs that are connected to each other, straight from the verbs: what the fake itself
 * is tested with.
 */
#ifndef RDMA_COUPLE_H
#define RDMA_COUPLE_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdint.h>

#define COUPLE_PORT   7000
#define COUPLE_MEMORY (1u << 20)
/* What the memory's first byte is called over the wire: nothing like its address here. */
#define COUPLE_IOVA 0x40000000ull

struct side {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct ibv_comp_channel *channel; /* of both queues; does not block */
	struct ibv_cq *send_cq;
	struct ibv_cq *recv_cq;
	bool recv_cq_lent; /* it is the other side's */
	uint8_t *memory;
	struct ibv_mr *mr;
};

struct couple {
	struct rdma_event_channel *listener_events;
	struct rdma_cm_id *listener;
	struct side source;
	struct side destination;
};

/* Zero: the default in brackets. */
struct couple_options {
	uint32_t depth;	      /* of send and receive queues [63] */
	uint32_t cqe;	      /* [1024] */
	uint32_t inline_size; /* [0] */
	unsigned int access;  /* of the destination's region [local and remote write] */
	uint8_t reads;	      /* [0] */
	uint8_t rnr_retry;    /* [0] */
	bool one_recv_cq;     /* the source's serves both sides [no] */
};

struct sockaddr *address_of(const char *text, uint16_t port);
/* The next event, waited for; its type is asserted. */
struct rdma_cm_event *expect_event(struct rdma_event_channel *channel,
				   enum rdma_cm_event_type type);
void expect_and_ack(struct rdma_event_channel *channel, enum rdma_cm_event_type type);

/* An identifier on the way to @port of the first device, with everything but a connection. */
void side_open(struct side *side, struct rdma_cm_id *id, const struct couple_options *options,
	       unsigned int access);
struct rdma_cm_id *resolved(struct rdma_event_channel *events, uint16_t port);
void side_close(struct side *side);
void listen_at(struct couple *couple, uint16_t port);

void couple_open(struct couple *couple, const struct couple_options *options);
/* Nothing is left alive, which is asserted. */
void couple_close(struct couple *couple);

/* Waits for one completion, at most @ms: false if there is none. */
bool await_wc(struct ibv_cq *cq, struct ibv_wc *wc, unsigned int ms);
/* The next completion's status, waited for. */
enum ibv_wc_status status_of_next(struct ibv_cq *cq);

/* From @offset of the source's memory to that of the destination's. 0 or the errno. */
int post(struct couple *couple, enum ibv_wr_opcode opcode, uint64_t offset, uint32_t length,
	 unsigned int flags, uint64_t wr_id);
int post_receives(struct side *side, unsigned int count);

#endif
