/* SPDX-License-Identifier: MIT */
#include "couple.h"

#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>

#include <vmferry/vmferry.h>

#include "fake/fake.h"

#define STEP_MS 5000

struct sockaddr *address_of(const char *text, uint16_t port)
{
	static _Thread_local struct sockaddr_storage storage;
	struct sockaddr_in *v4 = (void *)&storage;
	struct sockaddr_in6 *v6 = (void *)&storage;

	memset(&storage, 0, sizeof(storage));
	if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
	} else {
		cr_assert_eq(inet_pton(AF_INET6, text, &v6->sin6_addr), 1);
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
	}
	return (struct sockaddr *)&storage;
}

struct rdma_cm_event *expect_event(struct rdma_event_channel *channel, enum rdma_cm_event_type type)
{
	struct pollfd fd = {.fd = channel->fd, .events = POLLIN};
	struct rdma_cm_event *event = NULL;

	cr_assert_eq(poll(&fd, 1, STEP_MS), 1, "no event, but %s expected", rdma_event_str(type));
	cr_assert_eq(rdma_get_cm_event(channel, &event), 0);
	cr_assert_eq(event->event, type, "%s instead of %s", rdma_event_str(event->event),
		     rdma_event_str(type));
	return event;
}

void expect_and_ack(struct rdma_event_channel *channel, enum rdma_cm_event_type type)
{
	rdma_ack_cm_event(expect_event(channel, type));
}

void side_open(struct side *side, struct rdma_cm_id *id, const struct couple_options *options,
	       unsigned int access)
{
	uint32_t depth = options->depth != 0 ? options->depth : 63;
	uint32_t cqe = options->cqe != 0 ? options->cqe : 1024;
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = {depth, depth, 2, 2, options->inline_size},
	};

	side->id = id;
	side->pd = ibv_alloc_pd(id->verbs);
	side->channel = ibv_create_comp_channel(id->verbs);
	cr_assert_eq(fcntl(side->channel->fd, F_SETFL, O_NONBLOCK), 0);
	side->send_cq = ibv_create_cq(id->verbs, cqe, NULL, side->channel, 0);
	if (!side->recv_cq_lent)
		side->recv_cq = ibv_create_cq(id->verbs, cqe, NULL, side->channel, 0);
	attr.send_cq = side->send_cq;
	attr.recv_cq = side->recv_cq;
	cr_assert_eq(rdma_create_qp(id, side->pd, &attr), 0);
	side->memory = mmap(NULL, COUPLE_MEMORY, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(side->memory, MAP_FAILED);
	side->mr = ibv_reg_mr_iova(side->pd, side->memory, COUPLE_MEMORY, COUPLE_IOVA, access);
	cr_assert_not_null(side->mr);
}

void side_close(struct side *side)
{
	int error;

	rdma_destroy_qp(side->id);
	ibv_destroy_cq(side->send_cq);
	if (!side->recv_cq_lent)
		ibv_destroy_cq(side->recv_cq);
	ibv_destroy_comp_channel(side->channel);
	if (side->mr != NULL)
		ibv_dereg_mr(side->mr);
	error = ibv_dealloc_pd(side->pd);
	cr_assert(error == 0 || error == EIO, "%s", strerror(error));
	rdma_destroy_id(side->id);
	munmap(side->memory, COUPLE_MEMORY);
}

struct rdma_cm_id *resolved(struct rdma_event_channel *events, uint16_t port)
{
	uint8_t timeout = 14;
	struct rdma_cm_id *id;

	cr_assert_eq(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
	cr_assert_eq(rdma_resolve_addr(id, NULL, address_of("10.99.0.1", port), 1000), 0);
	expect_and_ack(events, RDMA_CM_EVENT_ADDR_RESOLVED);
	cr_assert_eq(rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout, 1),
		     0);
	cr_assert_eq(rdma_resolve_route(id, 1000), 0);
	expect_and_ack(events, RDMA_CM_EVENT_ROUTE_RESOLVED);
	return id;
}

void listen_at(struct couple *couple, uint16_t port)
{
	couple->listener_events = rdma_create_event_channel();
	cr_assert_eq(rdma_create_id(couple->listener_events, &couple->listener, NULL, RDMA_PS_TCP),
		     0);
	cr_assert_eq(rdma_bind_addr(couple->listener, address_of("10.99.0.1", port)), 0);
	cr_assert_eq(rdma_listen(couple->listener, 8), 0);
}

void couple_open(struct couple *couple, const struct couple_options *options)
{
	unsigned int access = options->access != 0
				      ? options->access
				      : IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	struct rdma_conn_param param = {
		.retry_count = 6,
		.rnr_retry_count = options->rnr_retry,
		.initiator_depth = options->reads,
	};
	struct rdma_conn_param answer = {
		.responder_resources = options->reads,
		.rnr_retry_count = options->rnr_retry,
	};
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;

	*couple = (struct couple){0};
	listen_at(couple, COUPLE_PORT);
	couple->source.events = rdma_create_event_channel();
	side_open(&couple->source, resolved(couple->source.events, COUPLE_PORT), options,
		  IBV_ACCESS_LOCAL_WRITE);
	cr_assert_eq(rdma_connect(couple->source.id, &param), 0);
	event = expect_event(couple->listener_events, RDMA_CM_EVENT_CONNECT_REQUEST);
	id = event->id;
	rdma_ack_cm_event(event);
	couple->destination.recv_cq_lent = options->one_recv_cq;
	couple->destination.recv_cq = couple->source.recv_cq;
	side_open(&couple->destination, id, options, access);
	cr_assert_eq(rdma_accept(id, &answer), 0);
	expect_and_ack(couple->source.events, RDMA_CM_EVENT_ESTABLISHED);
	expect_and_ack(couple->listener_events, RDMA_CM_EVENT_ESTABLISHED);
	couple->destination.events = rdma_create_event_channel();
	cr_assert_eq(rdma_migrate_id(id, couple->destination.events), 0);
}

void couple_close(struct couple *couple)
{
	side_close(&couple->destination);
	side_close(&couple->source);
	rdma_destroy_id(couple->listener);
	rdma_destroy_event_channel(couple->listener_events);
	rdma_destroy_event_channel(couple->source.events);
	rdma_destroy_event_channel(couple->destination.events);
	cr_assert(!fake_leaks());
}

bool await_wc(struct ibv_cq *cq, struct ibv_wc *wc, unsigned int ms)
{
	uint64_t deadline = vmferry_now() + ms * 1000000ull;
	int n;

	do {
		n = ibv_poll_cq(cq, 1, wc);
	} while (n == 0 && vmferry_now() < deadline);
	cr_assert_geq(n, 0);
	return n == 1;
}

enum ibv_wc_status status_of_next(struct ibv_cq *cq)
{
	struct ibv_wc wc;

	cr_assert(await_wc(cq, &wc, STEP_MS), "no completion");
	return wc.status;
}

int post(struct couple *couple, enum ibv_wr_opcode opcode, uint64_t offset, uint32_t length,
	 unsigned int flags, uint64_t wr_id)
{
	struct ibv_sge sge = {
		.addr = COUPLE_IOVA + offset,
		.length = length,
		.lkey = couple->source.mr->lkey,
	};
	struct ibv_send_wr wr = {
		.wr_id = wr_id,
		.opcode = opcode,
		.send_flags = flags,
		.sg_list = &sge,
		.num_sge = length > 0,
		.imm_data = htonl((uint32_t)wr_id),
		.wr.rdma = {.remote_addr = COUPLE_IOVA + offset},
	};
	struct ibv_send_wr *bad = NULL;

	/* Inline data comes from where the memory really is. */
	if (flags & IBV_SEND_INLINE)
		sge.addr = (uintptr_t)couple->source.memory + offset;
	/* As the fence does it: nothing needs no key. */
	if (length > 0)
		wr.wr.rdma.rkey = couple->destination.mr->rkey;
	return ibv_post_send(couple->source.id->qp, &wr, &bad);
}

int post_receives(struct side *side, unsigned int count)
{
	struct ibv_recv_wr *bad;
	int error = 0;

	for (unsigned int i = 0; i < count && error == 0; i++) {
		struct ibv_recv_wr wr = {.wr_id = i};

		error = ibv_post_recv(side->id->qp, &wr, &bad);
	}
	return error;
}
