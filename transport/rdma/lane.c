/* SPDX-License-Identifier: MIT */
/* Lanes over RDMA: how they begin and end. */
#include "transport/rdma/lane.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/log.h"

/*
 * Sends: a quarter of the queue may be without a completion to come, one place is kept for the
 * drain.
 */
#define SEND_DEPTH_MIN 4
#define ANSWER_SIGNAL  8

static void lane_free(struct rdma_lane *l)
{
	rdma_connection_close(&l->conn);
	if (l->out.channel != NULL)
		ibv_destroy_comp_channel(l->out.channel);
	free(l->out.given_at);
	close(l->wake);
	free(l);
}

static int lane_new(struct rdma_session *session, unsigned int number, struct rdma_lane **lane)
{
	struct rdma_lane *l = calloc(1, sizeof(*l));
	int ret;

	if (l == NULL)
		return -ENOMEM;
	l->lane.session = session->session;
	l->lane.number = number;
	l->rdma = session;
	l->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->wake < 0) {
		ret = -errno;
		log_error(
			"session %s: lane %u: no descriptor to be woken by: %s: raise the limit of "
			"open files",
			session->session->name, number, strerror(-ret));
		free(l);
		return ret;
	}
	*lane = l;
	return 0;
}

int lane_broken(struct rdma_lane *l, const char *what, int error)
{
	if (atomic_load(&l->lane.session->revoked))
		return -ECONNRESET;
	return session_fail(l->lane.session, -EIO,
			    "lane %u: %s: %s: see the kernel's log for device %s", l->lane.number,
			    what, strerror(error), l->conn.rail->name);
}

static int post_receives(struct rdma_lane *l, unsigned int count)
{
	struct ibv_recv_wr wr = {0};
	struct ibv_recv_wr *bad;

	for (; l->receives < count && l->receives < l->conn.recv_depth; l->receives++) {
		int error = ibv_post_recv(l->conn.id->qp, &wr, &bad);

		if (error != 0)
			return -error;
	}
	return 0;
}

int lane_repost(struct rdma_lane *l, unsigned int count)
{
	int ret = post_receives(l, count);

	return ret < 0 ? lane_broken(l, "receives cannot be posted", -ret) : 0;
}

static int too_small(const struct rdma_lane *l)
{
	log_error(
		"session %s: lane %u: device %s has queues of %u and %u requests: a lane needs %d "
		"and %d",
		l->lane.session->name, l->lane.number, l->conn.rail->name, l->conn.send_depth,
		l->conn.recv_depth, SEND_DEPTH_MIN, LANE_FENCES);
	return -EOPNOTSUPP;
}

static uint32_t between(uint64_t value, uint32_t least, uint32_t most)
{
	return value < least ? least : value > most ? most : (uint32_t)value;
}

/* ---- source ---------------------------------------------------------------------------------- */

static int shape_source(void *ctx, const struct rdma_rail *rail, struct rdma_shape *shape)
{
	struct rdma_lane *l = ctx;

	l->out.channel = ibv_create_comp_channel(rail->context);
	if (l->out.channel == NULL || fcntl(l->out.channel->fd, F_SETFL, O_NONBLOCK) < 0)
		return -errno;
	*shape = (struct rdma_shape){
		.send_depth = LANE_SEND_DEPTH,
		.recv_depth = LANE_ANSWER_RECVS,
		.send_channel = l->out.channel,
		.recv_channel = l->out.channel,
	};
	return 0;
}

static int prepare_source(void *ctx, struct rdma_connection *conn)
{
	struct rdma_lane *l = ctx;
	struct lane_source *out = &l->out;
	const struct vmferry_transport_options *options = &l->rdma->options;

	if (conn->send_depth < SEND_DEPTH_MIN || conn->recv_depth < LANE_FENCES)
		return too_small(l);
	out->given_at = calloc(conn->send_depth, sizeof(*out->given_at));
	if (out->given_at == NULL)
		return -ENOMEM;
	out->depth = conn->send_depth - 1;
	out->signal_every = between(out->depth / 4, 1, LANE_SIGNAL);
	out->longest = between(conn->rail->limits.max_message, 1, options->write_bytes);
	out->window = options->window_bytes;
	lane_chain_init(&out->chain);
	return post_receives(l, LANE_ANSWER_RECVS);
}

int rdma_lane_connect(struct vmferry_session *session, const struct hello_lane *hello,
		      uint64_t deadline, struct lane **lane)
{
	static const struct rdma_connection_ops ops = {shape_source, prepare_source};
	struct rdma_session *s = rdma_session_of(session);
	struct rdma_lane *l = NULL;
	int ret = lane_new(s, hello->number, &l);

	if (l == NULL)
		return ret;
	ret = rdma_connection_connect(s, hello, deadline, &ops, l, &l->conn);
	if (ret < 0) {
		lane_free(l);
		return ret;
	}
	*lane = &l->lane;
	return 0;
}

/* ---- destination ----------------------------------------------------------------------------- */

static int shape_destination(void *ctx, const struct rdma_rail *rail, struct rdma_shape *shape)
{
	(void)ctx;
	*shape = (struct rdma_shape){
		.send_depth = LANE_ANSWER_DEPTH,
		.recv_depth = LANE_FENCE_RECVS,
		.recv_channel = rail->channel,
	};
	return 0;
}

static int prepare_destination(void *ctx, struct rdma_connection *conn)
{
	struct rdma_lane *l = ctx;

	if (conn->send_depth < SEND_DEPTH_MIN || conn->recv_depth < LANE_FENCES)
		return too_small(l);
	l->in.depth = conn->send_depth;
	l->in.signal_every = between(l->in.depth / 2, 1, ANSWER_SIGNAL);
	return post_receives(l, LANE_FENCE_RECVS);
}

int rdma_lane_accept(struct rdma_session *session, unsigned int number, struct rdma_cm_id *id,
		     struct lane **lane)
{
	static const struct rdma_connection_ops ops = {shape_destination, prepare_destination};
	struct rdma_lane *l = NULL;
	int ret = lane_new(session, number, &l);

	if (l == NULL)
		return ret;
	ret = rdma_connection_accept(session, lane_rail(session, number), id, &ops, l, &l->conn);
	if (ret < 0) {
		lane_free(l);
		return ret;
	}
	*lane = &l->lane;
	return 0;
}

/* ---- both ------------------------------------------------------------------------------------ */

struct rdma_connection *rdma_lane_connection(struct lane *lane)
{
	return &rdma_lane_of(lane)->conn;
}

/*
 * Completion channels are only ever readable. This one is always writable: who waits for room with
 * it calls vmferry_lane_write() in vain at worst, and that does wait.
 */
int rdma_lane_fd(const struct lane *lane)
{
	return ((const struct rdma_lane *)(const void *)lane)->wake;
}

int rdma_lane_node(const struct lane *lane)
{
	return rdma_rail_node(((const struct rdma_lane *)(const void *)lane)->conn.rail);
}

void rdma_lane_shutdown(struct lane *lane)
{
	const uint64_t one = 1;

	/* It fails only when it is readable already, which is all that is wanted. */
	if (write(rdma_lane_of(lane)->wake, &one, sizeof(one)) < 0)
		return;
}

void rdma_lane_close(struct lane *lane)
{
	struct rdma_lane *l = rdma_lane_of(lane);

	rdma_connection_break(&l->conn);
	/*
	 * The destination's requests and receives have no bytes: of them nothing need be waited
	 * for.
	 */
	if (lane->session->is_source)
		lane_drain(l);
	lane_free(l);
}
