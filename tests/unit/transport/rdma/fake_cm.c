/* SPDX-License-Identifier: MIT */
/* The fake's connection manager. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>

#include "couple.h"
#include "fake/fake.h"

static const struct couple_options defaults;

static int bind_at(struct rdma_event_channel *events, const char *address, uint16_t port,
		   struct rdma_cm_id **id)
{
	cr_assert_eq(rdma_create_id(events, id, NULL, RDMA_PS_TCP), 0);
	return rdma_bind_addr(*id, address_of(address, port)) == 0 ? 0 : errno;
}

Test(fake_cm, bind__to_a_device_or_not)
{
	const struct {
		const char *address;
		int error;
		const char *device;
	} cases[] = {
		{"10.99.0.1", 0, "fake0"},	    {"fd99::1", 0, "fake0"},
		{"10.99.1.1", 0, "fake1"},	    {"0.0.0.0", 0, NULL},
		{"127.0.0.1", ENODEV, NULL},	    {"::1", ENODEV, NULL},
		{"192.0.2.1", EADDRNOTAVAIL, NULL},
	};
	struct rdma_event_channel *events = rdma_create_event_channel();

	for (unsigned int i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct rdma_cm_id *id;

		cr_assert_eq(bind_at(events, cases[i].address, 0, &id), cases[i].error);
		cr_assert_eq(id->verbs != NULL, cases[i].device != NULL);
		if (cases[i].device != NULL)
			cr_assert_str_eq(ibv_get_device_name(id->verbs->device), cases[i].device);
		if (cases[i].error == 0)
			cr_assert_neq(rdma_get_src_port(id), 0);
		rdma_destroy_id(id);
	}
	rdma_destroy_event_channel(events);
	cr_assert(!fake_leaks());
}

Test(fake_cm, bind__port_in_use)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_id *one, *other;

	cr_assert_eq(bind_at(events, "10.99.0.1", 7000, &one), 0);
	cr_assert_eq(bind_at(events, "10.99.0.1", 7000, &other), EADDRINUSE);
	rdma_destroy_id(one);
	rdma_destroy_id(other);
	rdma_destroy_event_channel(events);
}

/* The active half up to the request, which carries @length bytes of private data. */
static int ask(struct couple *c, const void *data, uint8_t length)
{
	struct rdma_conn_param param = {
		.private_data = data,
		.private_data_len = length,
		.retry_count = 6,
	};

	*c = (struct couple){0};
	listen_at(c, COUPLE_PORT);
	c->source.events = rdma_create_event_channel();
	side_open(&c->source, resolved(c->source.events, COUPLE_PORT), &defaults, 0);
	return rdma_connect(c->source.id, &param) == 0 ? 0 : errno;
}

static void close_asker(struct couple *c)
{
	side_close(&c->source);
	rdma_destroy_id(c->listener);
	rdma_destroy_event_channel(c->source.events);
	rdma_destroy_event_channel(c->listener_events);
	cr_assert(!fake_leaks());
}

Test(fake_cm, request__private_data_is_padded)
{
	static const uint8_t zeroes[56];
	struct rdma_cm_event *event;
	struct couple c;

	cr_assert_eq(ask(&c, "hello", 5), 0);
	event = expect_event(c.listener_events, RDMA_CM_EVENT_CONNECT_REQUEST);
	cr_assert_eq(event->listen_id, c.listener);
	cr_assert_eq(event->param.conn.private_data_len, 56);
	cr_assert_eq(memcmp(event->param.conn.private_data, "hello", 5), 0);
	cr_assert_eq(memcmp((const uint8_t *)event->param.conn.private_data + 5, zeroes, 51), 0);
	cr_assert_eq(rdma_reject(event->id, "no", 3), 0);
	rdma_destroy_id(event->id);
	rdma_ack_cm_event(event);

	event = expect_event(c.source.events, RDMA_CM_EVENT_REJECTED);
	cr_assert_eq(event->status, 28);
	cr_assert_eq(event->param.conn.private_data_len, 148);
	cr_assert_str_eq(event->param.conn.private_data, "no");
	rdma_ack_cm_event(event);
	close_asker(&c);
}

Test(fake_cm, request__57_bytes_are_too_many)
{
	uint8_t bytes[57] = {0};
	struct couple c;

	cr_assert_eq(ask(&c, bytes, 57), EINVAL);
	close_asker(&c);
}

Test(fake_cm, request__dropped_with_the_listener)
{
	struct couple c;

	cr_assert_eq(ask(&c, NULL, 0), 0);
	rdma_destroy_id(c.listener);
	expect_and_ack(c.source.events, RDMA_CM_EVENT_REJECTED);
	cr_assert_eq(bind_at(c.listener_events, "10.99.0.1", COUPLE_PORT, &c.listener), 0);
	close_asker(&c);
}

Test(fake_cm, request__nobody_listens)
{
	struct rdma_conn_param param = {.retry_count = 6};
	struct rdma_cm_event *event;
	struct side side = {.events = rdma_create_event_channel()};

	side_open(&side, resolved(side.events, 4242), &defaults, 0);
	cr_assert_eq(rdma_connect(side.id, &param), 0);
	event = expect_event(side.events, RDMA_CM_EVENT_REJECTED);
	cr_assert_eq(event->status, 8);
	rdma_ack_cm_event(event);
	side_close(&side);
	rdma_destroy_event_channel(side.events);
}

Test(fake_cm, address__of_no_device)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_event *event;
	struct rdma_cm_id *id;

	cr_assert_eq(rdma_create_id(events, &id, NULL, RDMA_PS_TCP), 0);
	cr_assert_eq(rdma_resolve_addr(id, NULL, address_of("127.0.0.1", 1), 1000), 0);
	event = expect_event(events, RDMA_CM_EVENT_ADDR_ERROR);
	cr_assert_eq(event->status, -ENODEV);
	rdma_ack_cm_event(event);
	rdma_destroy_id(id);
	rdma_destroy_event_channel(events);
}

/* The kernel's choice, before anybody narrows it. */
Test(fake_cm, access__as_the_reads_ask_for)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	struct couple c;

	for (uint8_t reads = 0; reads < 2; reads++) {
		const struct couple_options options = {.reads = reads};

		couple_open(&c, &options);
		cr_assert_eq(ibv_query_qp(c.destination.id->qp, &attr, IBV_QP_ACCESS_FLAGS, &init),
			     0);
		cr_assert_eq(attr.qp_access_flags, reads > 0 ? 0xe : 0x2);
		cr_assert_eq(attr.timeout, 16);
		attr = (struct ibv_qp_attr){.qp_state = IBV_QPS_RTS, .timeout = 10};
		cr_assert_eq(
			ibv_modify_qp(c.destination.id->qp, &attr, IBV_QP_STATE | IBV_QP_TIMEOUT),
			EINVAL);
		couple_close(&c);
	}
}

Test(fake_cm, destroyed__peer_hears_and_gets_no_answer)
{
	struct couple c;

	couple_open(&c, &defaults);
	side_close(&c.destination);
	expect_and_ack(c.source.events, RDMA_CM_EVENT_DISCONNECTED);
	/* No region is left to name, and no queue pair to refuse it. */
	c.destination.mr = c.source.mr;
	cr_assert_eq(post(&c, IBV_WR_RDMA_WRITE, 0, 8, 0, 1), 0);
	cr_assert_eq(status_of_next(c.source.send_cq), IBV_WC_RETRY_EXC_ERR);
	side_close(&c.source);
	rdma_destroy_id(c.listener);
	rdma_destroy_event_channel(c.source.events);
	rdma_destroy_event_channel(c.destination.events);
	rdma_destroy_event_channel(c.listener_events);
	cr_assert(!fake_leaks());
}

Test(fake_cm, disconnect__both_hear)
{
	struct couple c;

	couple_open(&c, &defaults);
	cr_assert_eq(rdma_disconnect(c.source.id), 0);
	cr_assert_eq(c.source.id->qp->state, IBV_QPS_ERR);
	expect_and_ack(c.source.events, RDMA_CM_EVENT_DISCONNECTED);
	expect_and_ack(c.destination.events, RDMA_CM_EVENT_DISCONNECTED);
	cr_assert_eq(rdma_disconnect(c.destination.id), 0);
	couple_close(&c);
}

Test(fake_cm, unacknowledged_event__destroying_the_identifier_crashes, .signal = SIGABRT)
{
	struct couple c;

	cr_assert_eq(ask(&c, NULL, 0), 0);
	expect_event(c.listener_events, RDMA_CM_EVENT_CONNECT_REQUEST);
	rdma_destroy_id(c.listener);
}

/*
 * The real librdmacm closes the context then, and what is freed after that frees memory of it
 * again.
 */
Test(fake_cm, device_removed__last_identifier_before_a_domain_crashes, .signal = SIGABRT)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_id *first = resolved(events, 1);
	struct rdma_cm_id *last = resolved(events, 1);

	cr_assert_not_null(ibv_alloc_pd(first->verbs));
	fake_device_remove(0);
	rdma_destroy_id(first);
	rdma_destroy_id(last);
}

Test(fake_cm, channel__does_not_block_if_told)
{
	struct rdma_event_channel *events = rdma_create_event_channel();
	struct rdma_cm_event *event;

	cr_assert_eq(fcntl(events->fd, F_SETFL, O_NONBLOCK), 0);
	cr_assert_eq(rdma_get_cm_event(events, &event), -1);
	cr_assert_eq(errno, EAGAIN);
	rdma_destroy_event_channel(events);
}
