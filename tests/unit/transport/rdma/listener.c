/* SPDX-License-Identifier: MIT */
/*
 * A destination over the fake device, and who comes to it: with a right to a lane and without, and
 * with more memory than may be pinned.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <rdma/rdma_cma.h>
#include <string.h>
#include <unistd.h>

#include "../pair.h"
#include "../raw.h"
#include "fake/fake.h"
#include "limit.h"
#include "transport/options.h"
#include "transport/rdma/rdma.h"

#define LIMIT (1ull << 20)

static struct vmferry_transport_options options;
static struct vmferry_listener *listener;
static struct accepting accepting;

/* Capabilities are a thread's: whoever accepts must have lost them before. */
static void begin(uint64_t memlock)
{
	log_keep();
	if (memlock > 0)
		limit_memlock(memlock);
	options = (struct vmferry_transport_options){
		.size = sizeof(options),
		.lanes = 2,
		.insecure = true,
		.rails = {"10.99.0.1"},
		.rail_count = 1,
	};
	cr_assert_eq(vmferry_listen(LOOP, &options, &listener), 0);
	accept_begin(&accepting, listener, PATIENT);
}

static void teardown(void)
{
	vmferry_session_close(&accepting.session);
	if (listener != NULL)
		vmferry_listener_close(&listener);
	cr_expect_not(fake_leaks());
}

TestSuite(rdma_listener, .fini = teardown, .timeout = 120);

/* Connections that came before are no harm to one that comes now, whatever it comes to be. */
static void expect_session(const char *transport, const char *reason)
{
	struct vmferry_session *source = NULL;

	cr_assert_eq(vmferry_connect(vmferry_listener_uri(listener), &options, PATIENT, &source),
		     0);
	cr_assert_eq(accept_end(&accepting), 0);
	cr_expect_str_eq(vmferry_session_transport(source), transport);
	cr_expect_not_null(strstr(vmferry_session_transport_reason(source), reason), "%s",
			   vmferry_session_transport_reason(source));
	vmferry_session_close(&source);
}

/* ---- the right to a lane --------------------------------------------------------------------- */

struct caller {
	struct rdma_event_channel *events;
	struct rdma_cm_id *id;
};

static struct rdma_cm_event *next_event(const struct caller *caller)
{
	struct rdma_cm_event *event;

	cr_assert_eq(rdma_get_cm_event(caller->events, &event), 0);
	return event;
}

static void pass(const struct caller *caller, enum rdma_cm_event_type expected)
{
	struct rdma_cm_event *event = next_event(caller);

	cr_assert_eq(event->event, expected);
	rdma_ack_cm_event(event);
}

/* Asks for a connection with these bytes and hears that it is rejected, and why. */
static void expect_rejected(const struct address *at, const void *bytes, uint8_t length,
			    const char *why)
{
	struct rdma_conn_param param = {.private_data = bytes, .private_data_len = length};
	struct ibv_qp_init_attr attr = {
		.qp_type = IBV_QPT_RC,
		.cap = {.max_send_wr = 4, .max_recv_wr = 4, .max_send_sge = 1, .max_recv_sge = 1},
	};
	struct address to = *at;
	struct caller caller;
	struct rdma_cm_event *event;
	struct ibv_cq *cq;
	struct ibv_pd *pd;

	caller.events = rdma_create_event_channel();
	cr_assert_eq(rdma_create_id(caller.events, &caller.id, NULL, RDMA_PS_TCP), 0);
	cr_assert_eq(rdma_resolve_addr(caller.id, NULL, (void *)&to.storage, 1000), 0);
	pass(&caller, RDMA_CM_EVENT_ADDR_RESOLVED);
	cr_assert_eq(rdma_resolve_route(caller.id, 1000), 0);
	pass(&caller, RDMA_CM_EVENT_ROUTE_RESOLVED);
	pd = ibv_alloc_pd(caller.id->verbs);
	cq = ibv_create_cq(caller.id->verbs, 16, NULL, NULL, 0);
	attr.send_cq = attr.recv_cq = cq;
	cr_assert_eq(rdma_create_qp(caller.id, pd, &attr), 0);
	cr_assert_eq(rdma_connect(caller.id, &param), 0);
	event = next_event(&caller);
	cr_expect_eq(event->event, RDMA_CM_EVENT_REJECTED, "%s", rdma_event_str(event->event));
	cr_expect(event->param.conn.private_data_len > strlen(why) &&
			  strstr(event->param.conn.private_data, why) != NULL,
		  "not '%s'", why);
	rdma_ack_cm_event(event);
	rdma_destroy_qp(caller.id);
	ibv_destroy_cq(cq);
	ibv_dealloc_pd(pd);
	rdma_destroy_id(caller.id);
	rdma_destroy_event_channel(caller.events);
}

/* A source that has said hello and waits for nothing: its session waits for lanes. */
static int hello(struct answer *answer)
{
	const struct hello_control control = {
		.lanes = 2, .rdma_lanes = 2, .transport = VMFERRY_TRANSPORT_RDMA};
	int fd = raw_hello(listener, &control, answer);

	cr_assert_eq(answer->transport, VMFERRY_TRANSPORT_RDMA);
	cr_assert_eq(answer->addresses.rail_count, 1);
	return fd;
}

static struct hello_lane lane_of(const struct answer *answer, uint32_t number)
{
	struct hello_lane lane = {.number = number};

	memcpy(lane.session, answer->session, SESSION_ID_BYTES);
	cr_assert_eq(lane_prove(answer->secret, &lane), 0);
	return lane;
}

static void expect_lane_rejected(const struct answer *answer, const struct hello_lane *lane,
				 const char *why)
{
	uint8_t bytes[RDMA_HELLO_BYTES];

	rdma_hello_encode(lane, bytes);
	expect_rejected(&answer->addresses.rails[0], bytes, sizeof(bytes), why);
}

Test(rdma_listener, no_hello__rejected_and_told_why)
{
	static const char wrong[] = "version of vmferry";
	uint8_t bytes[RDMA_HELLO_BYTES] = "GET / HTTP/1.1";
	struct answer answer;
	struct hello_lane lane;
	int fd;

	begin(0);
	fd = hello(&answer);
	expect_rejected(&answer.addresses.rails[0], NULL, 0, wrong);
	expect_rejected(&answer.addresses.rails[0], bytes, sizeof(bytes), wrong);
	lane = lane_of(&answer, 0);
	rdma_hello_encode(&lane, bytes);
	bytes[4] ^= 1; /* the version */
	expect_rejected(&answer.addresses.rails[0], bytes, sizeof(bytes), wrong);
	close(fd);
	expect_session("rdma", "both sides have RDMA");
}

/* Whoever it is, what it says is not what the session's secret makes of it. */
Test(rdma_listener, without_proof__rejected_and_told_why)
{
	struct answer answer;
	struct hello_lane lane, other;
	int fd;

	begin(0);
	fd = hello(&answer);
	lane = lane_of(&answer, 0);
	lane.mac[MAC_BYTES - 1] ^= 1;
	expect_lane_rejected(&answer, &lane, "");
	/* The proof of another lane. */
	lane = lane_of(&answer, 0);
	other = lane_of(&answer, 1);
	memcpy(lane.mac, other.mac, MAC_BYTES);
	expect_lane_rejected(&answer, &lane, "");
	lane = lane_of(&answer, 0);
	lane.session[0] ^= 1;
	expect_lane_rejected(&answer, &lane, "a session that does not wait for lanes");
	lane = lane_of(&answer, 2);
	expect_lane_rejected(&answer, &lane, "");
	close(fd);
	expect_session("rdma", "both sides have RDMA");
}

/* Neither side has anything of RDMA in a session without lanes, whatever it would have been. */
Test(rdma_listener, no_lanes__no_rdma)
{
	const struct hello_control control = {.transport = VMFERRY_TRANSPORT_AUTO};
	struct vmferry_memory *memory;
	struct answer answer;
	uint8_t *page;
	int fd;

	begin(0);
	fd = raw_hello(listener, &control, &answer);
	cr_expect_eq(answer.transport, VMFERRY_TRANSPORT_TCP);
	cr_expect_eq(answer.lanes, 0);
	cr_assert_eq(accept_end(&accepting), 0);
	page = pages_new(4096, 0);
	cr_assert_eq(vmferry_register(accepting.session, page, 4096, 0, VMFERRY_ACCESS_REMOTE_WRITE,
				      &memory),
		     0);
	vmferry_deregister(&memory);
	pages_free(page, 4096);
	close(fd);
}

Test(rdma_listener, destination_answers_rdma_without_lanes__eproto)
{
	struct answer answer = {.transport = VMFERRY_TRANSPORT_RDMA, .addresses.rail_count = 1};
	uint8_t reply[ANSWER_BYTES];

	log_keep();
	cr_assert_eq(rail_parse("10.99.0.1", &answer.addresses.rails[0]), 0);
	answer_encode(&answer, reply);
	cr_expect_eq(raw_answered(reply, sizeof(reply)), -EPROTO);
	cr_expect(log_has("0 lanes of transport 2 answered"));
	/* The same with a lane is what a destination says: it fails later, for want of one. */
	answer.lanes = 1;
	answer_encode(&answer, reply);
	cr_expect_neq(raw_answered(reply, sizeof(reply)), -EPROTO);
}

/* ---- what a connection is made like ---------------------------------------------------------- */

static struct ibv_qp_attr attributes(struct rdma_connection *conn)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr = {0};

	cr_assert_eq(ibv_query_qp(conn->id->qp, &attr, IBV_QP_TIMEOUT, &init), 0);
	return attr;
}

/*
 * What the CM would choose is 2.1 s for each try, 0.65 s for a receiver that is not ready, and all
 * access that there is.
 */
static void expect_made_right(struct rdma_connection *conn, unsigned int access)
{
	struct ibv_qp_attr attr = attributes(conn);

	cr_expect_eq(attr.qp_access_flags, access);
	cr_expect_leq(attr.timeout, 14, "4.096 us << %u", attr.timeout);
	cr_expect_eq(attr.retry_cnt, 6);
	cr_expect_eq(attr.rnr_retry, 7);
	cr_expect_eq(attr.min_rnr_timer, 12);
}

Test(rdma_listener, connected__timers_are_short_and_access_is_little)
{
	struct vmferry_session *source;

	begin(0);
	cr_assert_eq(vmferry_connect(vmferry_listener_uri(listener), &options, PATIENT, &source),
		     0);
	cr_assert_eq(accept_end(&accepting), 0);
	for (unsigned int i = 0; i < 2; i++) {
		expect_made_right(rdma_lane_connection(source->lanes[i]), 0);
		expect_made_right(rdma_lane_connection(accepting.session->lanes[i]),
				  IBV_ACCESS_REMOTE_WRITE);
	}
	expect_made_right(rdma_mailbox_connection(rdma_session_of(source)), 0);
	expect_made_right(rdma_mailbox_connection(rdma_session_of(accepting.session)), 0);
	vmferry_session_close(&source);
}

/* ---- more memory than may be pinned ---------------------------------------------------------- */

Test(rdma_listener, memory_beyond_the_sources_limit__tcp_and_the_limit)
{
	begin(LIMIT);
	options.memory = 2 * LIMIT;
	expect_session("tcp", "the memlock limit of 1048576 bytes");
}

Test(rdma_listener, memory_within_the_limit__rdma)
{
	begin(LIMIT);
	options.memory = LIMIT;
	expect_session("rdma", "both sides have RDMA");
}

Test(rdma_listener, memory_beyond_the_destinations_limit__tcp)
{
	const struct hello_control control = {
		.rdma_lanes = 2, .transport = VMFERRY_TRANSPORT_AUTO, .memory = 2 * LIMIT};
	struct answer answer;

	begin(LIMIT);
	close(raw_hello(listener, &control, &answer));
	cr_expect_eq(answer.transport, VMFERRY_TRANSPORT_TCP);
	cr_expect_eq(answer.reason, REASON_MEMLOCK);
	cr_assert_eq(accept_end(&accepting), 0);
}

/* Who insists on RDMA is not given anything else, and finds the limit when it registers. */
Test(rdma_listener, memory_beyond_the_limit_and_rdma_asked_for__rdma)
{
	begin(LIMIT);
	options.memory = 2 * LIMIT;
	options.transport = VMFERRY_TRANSPORT_RDMA;
	expect_session("rdma", "asked for");
}
