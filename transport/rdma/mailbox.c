/* SPDX-License-Identifier: MIT */
/*
 * Messages over a connection of their own, cut into fragments that the peer has receives posted
 * for. A fragment begins with
 *
 *	u32 type, u32 length of the whole message, u32 length of this fragment,
 *	u16 credits given back, u16 nothing
 *
 * little-endian, and the fragments of a message follow each other.
 *
 * CREDITS  Each side has SLOTS receives posted and may send as many fragments as it knows of
 *          receives at the peer. A receive is given back when its fragment was copied out and it
 *          was posted again: with whatever goes the other way, or, when GIVE are owed, with a
 *          fragment of the type CREDIT that holds nothing else. That one needs a receive too, and
 *          messages leave RESERVE for it. Two are enough: until the first of them has come the peer
 *          can send SLOTS - GIVE fragments, which make GIVE owed once more, but not twice; and what
 *          it sends after that gives back the receive of the first. So there always is a receive
 *          for every fragment, and RNR means a bug.
 * THREADS  The message that comes in is of whoever holds rdma_session.poll_lock; all else has the
 *          mailbox's lock. Who holds that does not call session_fail(), which comes back here to
 *          wake.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/wire.h"
#include "transport/rdma/rdma.h"

#define SLOTS	   32u
#define SLOT_BYTES 16384u
#define HEADER	   16u
#define PAYLOAD	   (SLOT_BYTES - HEADER)
#define ALL_BYTES  ((size_t)SLOTS * SLOT_BYTES) /* in one direction */
#define GIVE	   12u
#define RESERVE	   2u
#define CREDIT	   0xffffffffu
/* Most devices take that much with the request itself; a command and its answer fit. */
#define INLINE_BYTES 220u
#define SIGNAL_EVERY 8u
#define BATCH	     16
/*
 * Memory for a message that is made and touched before busy polling. Shorter ones than a page
 * find theirs where others were freed.
 */
#define SPARE_BYTES 65536u
#define SPARE_LEAST 4096u
/* A fragment's way and back takes about that long; sleeping costs more. */
#define SPIN_NS (20 * NS_PER_US)

struct rdma_mailbox {
	struct rdma_session *session;
	struct rdma_connection conn;
	/*
	 * SLOTS of SLOT_BYTES in each direction; page-aligned, and in no page with anything else.
	 */
	uint8_t *receives;
	uint8_t *sends;
	/* SPARE_BYTES for the first long message in busy polling, or NULL; any thread */
	void *_Atomic spare;
	struct ibv_mr *receives_mr;
	struct ibv_mr *sends_mr;

	/* Under rdma_session.poll_lock. */
	struct vmferry_message message; /* that is coming in; valid while @coming */
	size_t have;
	bool coming;

	pthread_mutex_t lock;
	pthread_cond_t moved;  /* any of what follows has changed, or the session has failed */
	bool sending;	       /* somebody is in the middle of a message */
	unsigned int credits;  /* receives at the peer */
	unsigned int owed;     /* receives here that the peer does not know of */
	uint64_t posted;       /* fragments so far, modulo SLOTS the next slot */
	uint64_t reaped;       /* of these, completed */
	uint64_t last_message; /* what @reaped is when all messages have gone */
};

struct fragment {
	uint32_t type;
	uint32_t total;
	uint32_t length;
	unsigned int credits;
	const uint8_t *data;
};

/* ---- slots ----------------------------------------------------------------------------------- */

static int post_receive(struct rdma_mailbox *m, unsigned int slot)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)(m->receives + (size_t)slot * SLOT_BYTES),
		.length = SLOT_BYTES,
		.lkey = m->receives_mr->lkey,
	};
	struct ibv_recv_wr wr = {.wr_id = slot, .sg_list = &sge, .num_sge = 1};
	struct ibv_recv_wr *bad;

	return -ibv_post_recv(m->conn.id->qp, &wr, &bad);
}

static int register_slots(struct rdma_mailbox *m)
{
	struct ibv_pd *pd = m->conn.rail->pd;

	m->receives_mr = ibv_reg_mr(pd, m->receives, ALL_BYTES, IBV_ACCESS_LOCAL_WRITE);
	if (m->receives_mr != NULL)
		m->sends_mr = ibv_reg_mr(pd, m->sends, ALL_BYTES, 0);
	return m->sends_mr == NULL ? -errno : 0;
}

static int shape(void *ctx, const struct rdma_rail *rail, struct rdma_shape *shape)
{
	(void)ctx;
	*shape = (struct rdma_shape){
		.send_depth = SLOTS,
		.recv_depth = SLOTS,
		.inline_bytes = INLINE_BYTES,
		.send_channel = rail->channel,
		.recv_channel = rail->channel,
	};
	return 0;
}

static int prepare(void *ctx, struct rdma_connection *conn)
{
	struct rdma_mailbox *m = ctx;
	int ret;

	/* The peer counts on all of them. */
	if (conn->send_depth < SLOTS || conn->recv_depth < SLOTS)
		return -EOPNOTSUPP;
	ret = register_slots(m);
	for (unsigned int i = 0; ret == 0 && i < SLOTS; i++)
		ret = post_receive(m, i);
	return ret;
}

/* ---- making and freeing ---------------------------------------------------------------------- */

static void mailbox_free(struct rdma_mailbox *m)
{
	rdma_connection_close(&m->conn);
	if (m->receives_mr != NULL)
		ibv_dereg_mr(m->receives_mr);
	if (m->sends_mr != NULL)
		ibv_dereg_mr(m->sends_mr);
	munmap(m->receives, 2 * ALL_BYTES);
	vmferry_message_free(&m->message);
	free(m->spare);
	pthread_cond_destroy(&m->moved);
	pthread_mutex_destroy(&m->lock);
	free(m);
}

static int mailbox_new(struct rdma_session *session, struct rdma_mailbox **mailbox)
{
	struct rdma_mailbox *m = calloc(1, sizeof(*m));
	/* Faulted in now: the first message may be the one that everything waits for. */
	void *slots = m == NULL ? MAP_FAILED
				: mmap(NULL, 2 * ALL_BYTES, PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (slots == MAP_FAILED) {
		free(m);
		log_error("session %s: mailbox: no memory for its %zu bytes",
			  session->session->name, 2 * ALL_BYTES);
		return -ENOMEM;
	}
	m->session = session;
	m->receives = slots;
	m->sends = m->receives + ALL_BYTES;
	m->credits = SLOTS;
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->moved, NULL);
	*mailbox = m;
	return 0;
}

static const struct rdma_connection_ops link_ops = {.shape = shape, .prepare = prepare};

int rdma_mailbox_connect(struct rdma_session *session, const struct hello_lane *hello,
			 uint64_t deadline)
{
	struct rdma_mailbox *m;
	int ret = mailbox_new(session, &m);

	if (ret < 0)
		return ret;
	ret = rdma_connection_connect(session, hello, deadline, &link_ops, m, &m->conn);
	if (ret < 0)
		mailbox_free(m);
	else
		session->mailbox = m;
	return ret;
}

int rdma_mailbox_accept(struct rdma_session *session, struct rdma_cm_id *id)
{
	struct rdma_mailbox *m;
	int ret = session->mailbox == NULL ? mailbox_new(session, &m) : -EEXIST;

	if (ret < 0)
		return ret;
	/* Beside lane 0, as the source has it. */
	ret = rdma_connection_accept(session, 0, id, &link_ops, m, &m->conn);
	if (ret < 0)
		mailbox_free(m);
	else
		session->mailbox = m;
	return ret;
}

struct rdma_connection *rdma_mailbox_connection(struct rdma_session *session)
{
	return session->mailbox == NULL ? NULL : &session->mailbox->conn;
}

void rdma_mailbox_free(struct rdma_session *session)
{
	if (session->mailbox != NULL)
		mailbox_free(session->mailbox);
	session->mailbox = NULL;
}

void rdma_mailbox_wake(struct rdma_session *session)
{
	struct rdma_mailbox *m = session->mailbox;

	if (m == NULL)
		return;
	/* Under the lock, so that nobody is between looking and going to sleep. */
	pthread_mutex_lock(&m->lock);
	pthread_cond_broadcast(&m->moved);
	pthread_mutex_unlock(&m->lock);
}

/* ---- sending --------------------------------------------------------------------------------- */

/* The lock is held. Whether a fragment can go that leaves @reserve receives at the peer. */
static bool can_post(const struct rdma_mailbox *m, unsigned int reserve)
{
	return m->credits > reserve && m->posted - m->reaped < SLOTS;
}

/* The lock is held, and can_post(). Gives back all that is owed. */
static int post(struct rdma_mailbox *m, const struct fragment *f, bool last)
{
	uint8_t *slot = m->sends + (size_t)(m->posted % SLOTS) * SLOT_BYTES;
	struct ibv_sge sge = {
		.addr = (uintptr_t)slot,
		.length = HEADER + f->length,
		.lkey = m->sends_mr->lkey,
	};
	struct ibv_send_wr wr = {
		.wr_id = m->posted + 1,
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_SEND,
	};
	struct ibv_send_wr *bad;

	wire_put_u32(slot, f->type);
	wire_put_u32(slot + 4, f->total);
	wire_put_u32(slot + 8, f->length);
	wire_put_u16(slot + 12, (uint16_t)m->owed);
	wire_put_u16(slot + 14, 0);
	if (f->length > 0)
		memcpy(slot + HEADER, f->data, f->length);
	if (sge.length <= m->conn.inline_bytes)
		wr.send_flags |= IBV_SEND_INLINE;
	/* The last one of a message too: that is what draining waits for. */
	if (last || m->posted % SIGNAL_EVERY == SIGNAL_EVERY - 1)
		wr.send_flags |= IBV_SEND_SIGNALED;
	m->posted++;
	m->credits--;
	m->owed = 0;
	if (last)
		m->last_message = m->posted;
	return -ibv_post_send(m->conn.id->qp, &wr, &bad);
}

static int post_failed(struct rdma_mailbox *m, int error, const char *what)
{
	return session_fail(m->session->session, error, "mailbox: cannot post a %s: %s", what,
			    strerror(-error));
}

static bool is_free(const struct rdma_mailbox *m)
{
	return !m->sending;
}

static bool has_room(const struct rdma_mailbox *m)
{
	return can_post(m, RESERVE);
}

static bool all_gone(const struct rdma_mailbox *m)
{
	return m->reaped >= m->last_message;
}

/* 0 when it is so, with the lock held; else why not, without it. */
static int await(struct rdma_mailbox *m, bool (*is_so)(const struct rdma_mailbox *),
		 uint64_t deadline)
{
	struct timespec until = deadline_timespec(deadline);
	uint64_t spin_until = vmferry_now() + SPIN_NS;
	bool polled = false;

	for (;;) {
		uint64_t now;
		int error;

		pthread_mutex_lock(&m->lock);
		error = session_error(m->session->session);
		if (error == 0 && is_so(m))
			return 0;
		now = vmferry_now();
		if (error == 0 && now >= deadline)
			error = -ETIMEDOUT;
		if (error == 0 && !polled && now >= spin_until)
			pthread_cond_clockwait(&m->moved, &m->lock, CLOCK_MONOTONIC, &until);
		pthread_mutex_unlock(&m->lock);
		if (error != 0)
			return error;
		polled = rdma_poll(m->session->session);
	}
}

static int send_fragments(struct rdma_mailbox *m, uint32_t type, const uint8_t *data,
			  uint32_t length, uint64_t deadline)
{
	uint32_t at = 0;

	do {
		struct fragment f = {
			.type = type,
			.total = length,
			.length = length - at < PAYLOAD ? length - at : PAYLOAD,
			.data = length == 0 ? NULL : data + at,
		};
		int ret = await(m, has_room, deadline);

		if (ret == -ETIMEDOUT && at > 0)
			return session_fail(
				m->session->session, ret,
				"mailbox: the peer did not take a whole message in time");
		if (ret < 0)
			return ret;
		at += f.length;
		ret = post(m, &f, at == length);
		pthread_mutex_unlock(&m->lock);
		if (ret < 0)
			return post_failed(m, ret, "fragment");
	} while (at < length);
	return 0;
}

int rdma_mailbox_send(struct vmferry_session *session, uint32_t type, const void *data,
		      size_t length, uint64_t deadline)
{
	struct rdma_mailbox *m = rdma_session_of(session)->mailbox;
	int ret;

	if (m == NULL)
		return session_send_control(session, type, data, length, deadline);
	/* One message at a time; a mutex held over all of it would know no deadline. */
	ret = await(m, is_free, deadline);
	if (ret < 0)
		return ret;
	m->sending = true;
	pthread_mutex_unlock(&m->lock);
	ret = send_fragments(m, type, data, (uint32_t)length, deadline);
	pthread_mutex_lock(&m->lock);
	m->sending = false;
	pthread_cond_broadcast(&m->moved);
	pthread_mutex_unlock(&m->lock);
	return ret;
}

void rdma_mailbox_drain(struct rdma_session *session, uint64_t deadline)
{
	if (session->mailbox != NULL && await(session->mailbox, all_gone, deadline) == 0)
		pthread_mutex_unlock(&session->mailbox->lock);
}

/* ---- what comes ------------------------------------------------------------------------------ */

static int broken(struct rdma_mailbox *m, const char *what)
{
	return session_fail(m->session->session, -EPROTO, "mailbox: a fragment %s", what);
}

static int parse(struct rdma_mailbox *m, const uint8_t *slot, uint32_t length, struct fragment *f)
{
	if (length < HEADER || length > SLOT_BYTES)
		return broken(m, "is shorter than its header");
	*f = (struct fragment){
		.type = (uint32_t)wire_get(slot, 4),
		.total = (uint32_t)wire_get(slot + 4, 4),
		.length = (uint32_t)wire_get(slot + 8, 4),
		.credits = (unsigned int)wire_get(slot + 12, 2),
		.data = slot + HEADER,
	};
	if (f->length != length - HEADER || wire_get(slot + 14, 2) != 0)
		return broken(m, "has a header that does not fit it");
	if (f->type == CREDIT)
		return f->total == 0 && f->length == 0 ? 0 : broken(m, "of credits has bytes");
	if (f->type > VMFERRY_MESSAGE_TYPE_MAX)
		return broken(m, "has an impossible type");
	if (f->total > VMFERRY_MESSAGE_MAX)
		return broken(m, "is of a message that is too long");
	return 0;
}

/* Without memory it is none the worse. Not under poll_lock: who polls may be at it for long. */
void rdma_mailbox_prepare(struct rdma_session *session)
{
	struct rdma_mailbox *m = session->mailbox;
	void *spare;

	/* One that was not used is as good. */
	if (m == NULL || atomic_load(&m->spare) != NULL)
		return;
	spare = malloc(SPARE_BYTES);
	if (spare == NULL)
		return;
	memset(spare, 0, SPARE_BYTES);
	free(atomic_exchange(&m->spare, spare));
}

static void *message_memory(struct rdma_mailbox *m, uint32_t length)
{
	void *spare = NULL;

	if (length >= SPARE_LEAST && length <= SPARE_BYTES)
		spare = atomic_exchange(&m->spare, NULL);
	return spare != NULL ? spare : malloc(length);
}

static int begin_message(struct rdma_mailbox *m, const struct fragment *f)
{
	m->message = (struct vmferry_message){.type = f->type, .length = f->total};
	m->have = 0;
	if (f->total > 0) {
		m->message.data = message_memory(m, f->total);
		if (m->message.data == NULL)
			return session_fail(m->session->session, -ENOMEM,
					    "mailbox: no memory for a message of %u bytes",
					    f->total);
	}
	m->coming = true;
	return 0;
}

static int end_message(struct rdma_mailbox *m)
{
	int ret = inbox_put(&m->session->session->inbox, &m->message);

	m->coming = false;
	if (ret < 0) {
		vmferry_message_free(&m->message);
		return session_fail(m->session->session, ret, "mailbox: messages are not taken: %s",
				    strerror(-ret));
	}
	return 0;
}

static int add_fragment(struct rdma_mailbox *m, const struct fragment *f)
{
	if (!m->coming) {
		int ret = begin_message(m, f);

		if (ret < 0)
			return ret;
	} else if (f->type != m->message.type || f->total != m->message.length) {
		return broken(m, "is of another message than the one before it");
	}
	/* One without bytes would bring nothing, again and again. */
	if (f->length > m->message.length - m->have || (f->length == 0 && f->total > 0))
		return broken(m, "has not the bytes that are missing");
	if (f->length > 0)
		memcpy((uint8_t *)m->message.data + m->have, f->data, f->length);
	m->have += f->length;
	return m->have == m->message.length ? end_message(m) : 0;
}

/* The slot is free again, and the peer has given back what it says. */
static int settle(struct rdma_mailbox *m, unsigned int slot, unsigned int credits)
{
	int ret = post_receive(m, slot);
	bool too_many;

	if (ret < 0)
		return post_failed(m, ret, "receive");
	pthread_mutex_lock(&m->lock);
	too_many = credits > SLOTS - m->credits;
	if (!too_many) {
		/* Both at once: what can go because of these credits gives this receive back. */
		m->credits += credits;
		m->owed++;
		if (credits > 0)
			pthread_cond_broadcast(&m->moved);
	}
	pthread_mutex_unlock(&m->lock);
	return too_many ? broken(m, "gives back more than there was") : 0;
}

static int arrived(struct rdma_mailbox *m, const struct ibv_wc *wc)
{
	struct fragment f = {0};
	unsigned int slot = (unsigned int)wc->wr_id;
	int ret;

	if (wc->status != IBV_WC_SUCCESS)
		return rdma_wc_failed(m->session->session, "mailbox", LANE_MAILBOX, wc);
	ret = parse(m, m->receives + (size_t)slot * SLOT_BYTES, wc->byte_len, &f);
	if (ret == 0 && f.type != CREDIT)
		ret = add_fragment(m, &f);
	return ret == 0 ? settle(m, slot, f.credits) : ret;
}

static int sent(struct rdma_mailbox *m, const struct ibv_wc *wc)
{
	if (wc->status != IBV_WC_SUCCESS)
		return rdma_wc_failed(m->session->session, "mailbox", LANE_MAILBOX, wc);
	pthread_mutex_lock(&m->lock);
	m->reaped = wc->wr_id;
	pthread_cond_broadcast(&m->moved);
	pthread_mutex_unlock(&m->lock);
	return 0;
}

static bool poll_queue(struct rdma_mailbox *m, struct ibv_cq *cq,
		       int (*handle)(struct rdma_mailbox *m, const struct ibv_wc *wc))
{
	struct ibv_wc wc[BATCH];
	int n = ibv_poll_cq(cq, BATCH, wc);
	int ret = 0;

	if (n < 0)
		session_fail(m->session->session, -EIO, "mailbox: its completions cannot be had");
	for (int i = 0; ret == 0 && i < n; i++)
		ret = handle(m, &wc[i]);
	return n > 0;
}

static void give_back(struct rdma_mailbox *m)
{
	const struct fragment credit = {.type = CREDIT};
	int ret = 0;

	pthread_mutex_lock(&m->lock);
	if (m->owed >= GIVE && can_post(m, 0))
		ret = post(m, &credit, false);
	pthread_mutex_unlock(&m->lock);
	if (ret < 0)
		post_failed(m, ret, "fragment");
}

int rdma_mailbox_poll(struct rdma_session *session)
{
	struct rdma_mailbox *m = session->mailbox;
	bool came = poll_queue(m, m->conn.recv_cq, arrived);
	bool went = poll_queue(m, m->conn.send_cq, sent);

	/* Only what came makes more owed, and only what came or went makes room. */
	if (came || went)
		give_back(m);
	return came || went;
}
