/* SPDX-License-Identifier: MIT */
/*
 * A reliable connection: one queue pair, its completion queues and its CM identifier. The CM's own
 * defaults are made for something else: on RoCE it would try again only after 2.1 s, and a receiver
 * that was not ready would be tried again after 0.65 s (Linux 6.1).
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/rdma/rdma.h"

/*
 * 4.096 us << 13 is 34 ms; with six tries more a dead link is noticed in a quarter of a second. A
 * device may stretch that to four times as much (InfiniBand 9.7.6.1.3), which is still within the
 * second; soft-RoCE of Linux 6.12, which at each try sends up to 128 packets again, took 1.8 s on
 * an emulated processor. Seven tries more would be for ever with soft-RoCE.
 */
#define ACK_TIMEOUT 13
#define RETRIES	    6
/*
 * For ever, as InfiniBand defines it: receives are counted, so that this never happens but by a
 * bug, and waits have deadlines.
 */
#define RNR_RETRIES 7
#define RNR_TIMER   12 /* 0.64 ms */
/*
 * Of one step on the way to a connection. The CM itself gives a dead host up after more than a
 * minute. The kernel asks three times, a second apart, who has an address, and then says itself
 * that there is nobody.
 */
#define STEP_NS (3500 * NS_PER_MS)
/* Reasons of a rejection, as InfiniBand 12.6.7.2 numbers them. */
#define REJECTED_NO_SERVICE  8
#define REJECTED_BY_CONSUMER 28

__attribute__((format(printf, 3, 4))) static int because(struct rdma_session *session, int error,
							 const char *fmt, ...)
{
	char what[120];
	va_list args;

	va_start(args, fmt);
	vsnprintf(what, sizeof(what), fmt, args);
	va_end(args);
	snprintf(session->session->reason, sizeof(session->session->reason), "%s: %s", what,
		 strerror(-error));
	/*
	 * The source tells it when it has tried everything; the destination is told no more than
	 * that it cannot.
	 */
	if (session->session->is_source)
		log_debug("session %s: %s", session->session->name, session->session->reason);
	else
		log_warn("session %s: a lane cannot join: %s: see vmferry check",
			 session->session->name, session->session->reason);
	return error;
}

static int channel_new(struct rdma_event_channel **channel)
{
	struct rdma_event_channel *c = rdma_create_event_channel();

	if (c == NULL)
		return -errno;
	if (fcntl(c->fd, F_SETFL, O_NONBLOCK) < 0) {
		rdma_destroy_event_channel(c);
		return -EINVAL;
	}
	*channel = c;
	return 0;
}

/* ---- queues ---------------------------------------------------------------------------------- */

static struct ibv_cq *cq_new(struct rdma_connection *conn, uint32_t depth,
			     struct ibv_comp_channel *channel)
{
	/*
	 * One for every request, signalled or not: each may fail. One more, so that a full queue is
	 * not an overrun.
	 */
	return ibv_create_cq(conn->rail->context, (int)depth + 1, conn, channel, 0);
}

/* Some devices have no room for what others have inline: ask for less until it works. */
static int qp_new(struct rdma_connection *conn, const struct rdma_shape *shape)
{
	struct ibv_qp_init_attr attr = {
		.qp_context = conn,
		.send_cq = conn->send_cq,
		.recv_cq = conn->recv_cq,
		.qp_type = IBV_QPT_RC,
		.cap =
			{
				.max_send_wr = conn->send_depth,
				.max_recv_wr = conn->recv_depth,
				.max_send_sge = 1,
				.max_recv_sge = 1,
				.max_inline_data = shape->inline_bytes,
			},
	};
	struct ibv_qp_init_attr want = attr;

	while (rdma_create_qp(conn->id, conn->rail->pd, &attr) != 0) {
		if (errno != EINVAL || want.cap.max_inline_data == 0)
			return -errno;
		want.cap.max_inline_data /= 2;
		attr = want;
	}
	conn->inline_bytes = attr.cap.max_inline_data;
	/* Devices round up; what was asked for is what is counted on. */
	if (attr.cap.max_send_wr < conn->send_depth)
		conn->send_depth = attr.cap.max_send_wr;
	if (attr.cap.max_recv_wr < conn->recv_depth)
		conn->recv_depth = attr.cap.max_recv_wr;
	return 0;
}

static uint32_t at_most(uint32_t wish, uint32_t limit)
{
	return wish < limit ? wish : limit;
}

static int build(struct rdma_connection *conn, unsigned int listener_rail,
		 const struct rdma_connection_ops *ops, void *ctx, struct rdma_session *session)
{
	struct rdma_shape shape = {0};
	uint32_t most;
	int ret = rdma_rail_get(session, listener_rail, conn->id->verbs, conn->id->port_num,
				&conn->rail);

	if (ret < 0)
		return because(session, ret, "the device cannot be used");
	ret = ops->shape(ctx, conn->rail, &shape);
	if (ret < 0)
		return because(session, ret, "device %s: no completion channel", conn->rail->name);
	most = at_most(conn->rail->limits.max_wr, conn->rail->limits.max_cqe - 1);
	conn->send_depth = at_most(shape.send_depth, most);
	conn->recv_depth = at_most(shape.recv_depth, most);
	conn->send_cq = cq_new(conn, conn->send_depth, shape.send_channel);
	if (conn->send_cq != NULL)
		conn->recv_cq = cq_new(conn, conn->recv_depth, shape.recv_channel);
	if (conn->recv_cq == NULL)
		return because(session, -errno, "device %s: no completion queue", conn->rail->name);
	ret = qp_new(conn, &shape);
	if (ret < 0)
		return because(session, ret, "device %s: no queue pair", conn->rail->name);
	ret = ops->prepare(ctx, conn);
	return ret < 0 ? because(session, ret, "device %s: receives cannot be posted",
				 conn->rail->name)
		       : 0;
}

/* ---- connecting ------------------------------------------------------------------------------ */

static int await_event(struct rdma_connection *conn, struct rdma_cm_event **event,
		       uint64_t deadline)
{
	for (;;) {
		int ret;

		if (rdma_get_cm_event(conn->events, event) == 0)
			return 0;
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		ret = socket_wait(conn->events->fd, POLLIN, deadline);
		if (ret < 0)
			return ret;
	}
}

/* Who rejects says why, if it is a vmferry; else there is only the number. */
static void rejection(const struct rdma_cm_event *event, char *text, size_t size)
{
	const struct rdma_conn_param *conn = &event->param.conn;

	/* The CM pads with zeroes; the peer may send anything. */
	if (conn->private_data != NULL && conn->private_data_len > 0)
		snprintf(text, size, "%.*s", (int)conn->private_data_len,
			 (const char *)conn->private_data);
	for (char *p = text; *p != '\0'; p++)
		*p = *p >= ' ' && *p <= '~' ? *p : '?';
	if (text[0] != '\0')
		return;
	if (event->status == REJECTED_NO_SERVICE)
		snprintf(text, size, "nobody listens there");
	else if (event->status == REJECTED_BY_CONSUMER)
		snprintf(text, size, "whoever listened there has gone");
	else
		snprintf(text, size, "reason %d of the CM", event->status);
}

/* What another event than the one that was waited for means. */
static int unexpected(struct rdma_session *session, const struct rdma_cm_event *event,
		      const char *step)
{
	char text[64] = "";

	switch (event->event) {
	case RDMA_CM_EVENT_REJECTED:
		rejection(event, text, sizeof(text));
		return because(session, -ECONNREFUSED, "%s: rejected (%s)", step, text);
	case RDMA_CM_EVENT_UNREACHABLE:
		return because(session, -EHOSTUNREACH, "%s", step);
	default:
		return because(session, event->status < 0 ? event->status : -ECONNABORTED, "%s: %s",
			       step, rdma_event_str(event->event));
	}
}

static int await_step(struct rdma_session *session, struct rdma_connection *conn,
		      enum rdma_cm_event_type expected, const char *step, uint64_t deadline)
{
	struct rdma_cm_event *event;
	int ret = await_event(conn, &event, deadline);

	if (ret < 0)
		return because(session, ret, "%s", step);
	if (event->event != expected)
		ret = unexpected(session, event, step);
	rdma_ack_cm_event(event);
	return ret;
}

static int ms_until(uint64_t deadline)
{
	uint64_t now = vmferry_now();

	return deadline <= now ? 1 : (int)((deadline - now) / NS_PER_MS) + 1;
}

/* Before the route is resolved, which is when they take effect. */
static int set_options(struct rdma_cm_id *id, unsigned int tos)
{
	uint8_t timeout = ACK_TIMEOUT, service = (uint8_t)tos;

	if (rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &timeout,
			    sizeof(timeout)) != 0)
		return -errno;
	if (tos != 0 &&
	    rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &service, sizeof(service)) != 0)
		return -errno;
	return 0;
}

static int resolve(struct rdma_session *session, struct rdma_connection *conn, struct address *from,
		   struct address *to, uint64_t deadline)
{
	struct sockaddr *source = from == NULL ? NULL : (struct sockaddr *)&from->storage;
	int ret;

	if (rdma_resolve_addr(conn->id, source, (struct sockaddr *)&to->storage,
			      ms_until(deadline)) != 0)
		return because(session, -errno, "no RDMA address here leads to the destination's");
	ret = await_step(session, conn, RDMA_CM_EVENT_ADDR_RESOLVED,
			 "no RDMA address here leads to the destination's", deadline);
	if (ret < 0)
		return ret;
	ret = set_options(conn->id, session->options.tos);
	if (ret < 0)
		return because(session, ret, "timeout and type of service cannot be set");
	if (rdma_resolve_route(conn->id, ms_until(deadline)) != 0)
		return because(session, -errno, "no route to the destination's RDMA address");
	return await_step(session, conn, RDMA_CM_EVENT_ROUTE_RESOLVED,
			  "no route to the destination's RDMA address", deadline);
}

static int request(struct rdma_session *session, struct rdma_connection *conn,
		   const struct hello_lane *hello, uint64_t deadline)
{
	uint8_t bytes[RDMA_HELLO_BYTES];
	struct rdma_conn_param param = {
		.private_data = bytes,
		.private_data_len = sizeof(bytes),
		/* Reading from the destination; it never reads from here. */
		.initiator_depth = conn->rail->limits.max_reads_out,
		.retry_count = RETRIES,
		.rnr_retry_count = RNR_RETRIES,
	};

	rdma_hello_encode(hello, bytes);
	if (rdma_connect(conn->id, &param) != 0)
		return because(session, -errno, "the connection cannot be asked for");
	return await_step(session, conn, RDMA_CM_EVENT_ESTABLISHED,
			  "no answer of the destination's RDMA port", deadline);
}

static int connect_steps(struct rdma_session *session, const struct hello_lane *hello,
			 uint64_t deadline, const struct rdma_connection_ops *ops, void *ctx,
			 struct rdma_connection *conn)
{
	unsigned int number = hello->number == LANE_MAILBOX ? 0 : hello->number;
	unsigned int listener_rail = number % session->addresses.rail_count;
	struct address *from =
		session->local_count == 0 ? NULL : &session->local[number % session->local_count];
	uint64_t step = vmferry_now() + STEP_NS;
	int ret = channel_new(&conn->events);

	if (ret < 0)
		return because(session, ret, "no channel for the CM's events");
	if (rdma_create_id(conn->events, &conn->id, conn, RDMA_PS_TCP) != 0)
		return because(session, -errno, "the CM cannot be used");
	ret = resolve(session, conn, from, &session->addresses.rails[listener_rail],
		      step < deadline ? step : deadline);
	if (ret == 0)
		ret = build(conn, listener_rail, ops, ctx, session);
	if (ret == 0)
		ret = request(session, conn, hello, deadline);
	if (ret < 0)
		return ret;
	ret = rdma_connection_settle(conn, 0);
	return ret < 0 ? because(session, ret, "the connection cannot be set up") : 0;
}

int rdma_connection_connect(struct rdma_session *session, const struct hello_lane *hello,
			    uint64_t deadline, const struct rdma_connection_ops *ops, void *ctx,
			    struct rdma_connection *conn)
{
	int ret;

	*conn = (struct rdma_connection){0};
	ret = connect_steps(session, hello, deadline, ops, ctx, conn);
	if (ret < 0)
		rdma_connection_close(conn);
	return ret;
}

int rdma_connection_accept(struct rdma_session *session, unsigned int listener_rail,
			   struct rdma_cm_id *id, const struct rdma_connection_ops *ops, void *ctx,
			   struct rdma_connection *conn)
{
	struct rdma_conn_param param = {
		/* As many reads as the source asked for and the device can; none the other way. */
		.responder_resources = RDMA_MAX_RESP_RES,
		.rnr_retry_count = RNR_RETRIES,
	};
	int ret;

	*conn = (struct rdma_connection){.id = id};
	id->context = conn;
	ret = set_options(id, session->options.tos);
	if (ret < 0)
		because(session, ret, "timeout and type of service cannot be set");
	else
		ret = build(conn, listener_rail, ops, ctx, session);
	if (ret == 0 && rdma_accept(id, &param) != 0)
		ret = because(session, -errno, "the connection cannot be accepted");
	if (ret == 0)
		return 0;
	/* The identifier stays the caller's, who still has to reject with it. */
	if (id->qp != NULL)
		rdma_destroy_qp(id);
	id->context = NULL;
	conn->id = NULL;
	rdma_connection_close(conn);
	return ret;
}

/* ---- connected ------------------------------------------------------------------------------- */

int rdma_connection_allow(struct rdma_connection *conn, unsigned int access)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .qp_access_flags = access};
	int error = ibv_modify_qp(conn->id->qp, &attr, IBV_QP_STATE | IBV_QP_ACCESS_FLAGS);

	if (error == 0)
		return 0;
	log_error("rail %s: access of a connection cannot be set: %s: report this with the name of "
		  "the device",
		  conn->rail->name, strerror(error));
	return -error;
}

int rdma_connection_settle(struct rdma_connection *conn, unsigned int access)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_RTS, .min_rnr_timer = RNR_TIMER};
	int error = ibv_modify_qp(conn->id->qp, &attr, IBV_QP_STATE | IBV_QP_MIN_RNR_TIMER);
	int ret;

	/* It only matters should a receiver not be ready, which does not happen. */
	if (error != 0)
		log_debug("rail %s: the RNR timer cannot be set: %s", conn->rail->name,
			  strerror(error));
	ret = rdma_connection_allow(conn, access);
	if (ret < 0 || conn->events != NULL)
		return ret;
	ret = channel_new(&conn->events);
	if (ret == 0 && rdma_migrate_id(conn->id, conn->events) != 0)
		ret = -errno;
	if (ret < 0)
		log_error("rail %s: no channel for the CM's events: %s: raise the limit of open "
			  "files",
			  conn->rail->name, strerror(-ret));
	return ret;
}

static int judge_event(const struct rdma_cm_event *event, const char **what)
{
	switch (event->event) {
	case RDMA_CM_EVENT_DISCONNECTED:
		*what = "the peer has closed an RDMA connection";
		return -ECONNRESET;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		*what = "the RDMA device was removed";
		return -ENODEV;
	case RDMA_CM_EVENT_ADDR_CHANGE:
		*what = "the RDMA port's address has changed";
		return -ECONNRESET;
	default:
		return 0;
	}
}

int rdma_connection_event(struct rdma_connection *conn, const char **what)
{
	struct rdma_cm_event *event;
	int ret = 0;

	while (ret == 0 && rdma_get_cm_event(conn->events, &event) == 0) {
		ret = judge_event(event, what);
		rdma_ack_cm_event(event);
	}
	return ret;
}

/*
 * EIO is what the kernel says to all that is asked of a device that has gone, and with it all that
 * was under way (Linux 6.1, drivers/infiniband/core/uverbs_main.c).
 */
static bool is_broken(struct ibv_qp *qp)
{
	struct ibv_qp_init_attr init;
	struct ibv_qp_attr attr;
	int error = ibv_query_qp(qp, &attr, IBV_QP_STATE, &init);

	return error == EIO || (error == 0 && attr.qp_state == IBV_QPS_ERR);
}

int rdma_connection_break(struct rdma_connection *conn)
{
	struct ibv_qp_attr attr = {.qp_state = IBV_QPS_ERR};
	int error;

	if (conn->id == NULL || conn->id->qp == NULL)
		return 0;
	error = ibv_modify_qp(conn->id->qp, &attr, IBV_QP_STATE);
	return error == 0 || is_broken(conn->id->qp) ? 0 : -error;
}

static void cq_free(struct ibv_cq *cq, unsigned int unacked)
{
	if (cq == NULL)
		return;
	/* Destroying waits until all events that were taken are acknowledged. */
	if (unacked > 0)
		ibv_ack_cq_events(cq, unacked);
	ibv_destroy_cq(cq);
}

/* Nothing was made of its device yet. */
static void connection_abandon(struct rdma_connection *conn)
{
	if (conn->id != NULL)
		rdma_destroy_id(conn->id);
	if (conn->events != NULL)
		rdma_destroy_event_channel(conn->events);
}

void rdma_connection_close(struct rdma_connection *conn)
{
	rdma_connection_break(conn);
	if (conn->id != NULL && conn->id->qp != NULL)
		rdma_destroy_qp(conn->id);
	cq_free(conn->recv_cq, conn->unacked_recv);
	cq_free(conn->send_cq, conn->unacked_send);
	if (conn->id != NULL && conn->rail != NULL)
		rdma_rail_retire(conn->rail, conn->id, conn->events);
	else
		connection_abandon(conn);
	*conn = (struct rdma_connection){0};
}
