/* SPDX-License-Identifier: MIT */
/*
 * A session's thread. It reads the control connection, hears of RDMA connections and devices, says
 * and expects that somebody is alive, and polls for completions when nobody else does. When the
 * session is over it does what is left: it hears what the peer had said before, and takes in the
 * flushes that tell lanes of their end, until it is stopped.
 *
 * THREADS  What is in struct rdma_service belongs to the thread, but for what is marked. Receiving
 *          from the control connection and events of RDMA connections and completion channels are
 *          the thread's alone; the device's events are everybody's, see device_events.c.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/node.h"
#include "common/thread.h"
#include "transport/rdma/service.h"

#define BEAT_NS	  (200 * NS_PER_MS)
#define SILENT_NS (900 * NS_PER_MS)
/*
 * Its kernel still answers: then it is the process that does not get to run, which passes or does
 * not.
 */
#define HUNG_NS (3 * NS_PER_S)
/* This thread itself was kept from running: then silence says nothing of the peer. */
#define LATE_NS (300 * NS_PER_MS)
/* From a lane's end to its reason. */
#define UNEXPLAINED_NS (200 * NS_PER_MS)
/* For a message of no bytes into an empty queue. */
#define BEAT_SEND_NS (10 * NS_PER_MS)
/*
 * While a session is busy polled, the waiting threads poll and this one leaves the processor to
 * them. It still polls at this interval: if no thread waits, the peer needs its credits back.
 */
#define IDLE_BUSY_NS (20 * NS_PER_MS)
/* So that a peer who talks without end cannot keep this thread from the rest. */
#define MESSAGES_AT_ONCE 64
#define DRY_TURNS	 4096
#define EVENTS_AT_ONCE	 16

enum watch {
	WATCH_WAKE,
	WATCH_CONTROL,
	WATCH_CONNECTION, /* and its index, see rdma_connection_of() */
	WATCH_ASYNC,	  /* of the rail of that index */
	WATCH_COMPLETIONS,
};

struct rdma_service {
	struct rdma_session *session;
	struct rdma_alarm alarm; /* any thread's, by its own rules */
	pthread_t thread;
	int epoll;
	int wake;	  /* eventfd; any thread writes to it */
	atomic_bool stop; /* set by the one who joins */
	bool armed;	  /* every completion queue will make an event for what comes next */
	bool polled;	  /* and busily: completions shall wake nobody */
	bool more;	  /* the last polling found something, and there may be more */
	bool over;	  /* the session has ended, and what the peer had said was heard */
	uint64_t beat;	  /* when the next one is due */
	uint64_t heard;	  /* when there was the last sign of life */
	uint64_t checked; /* when that was looked at */
};

/*
 * Innermost, for rdma_session.service of any session: so that nobody wakes one that is being freed.
 */
static pthread_mutex_t service_lock = PTHREAD_MUTEX_INITIALIZER;

static struct vmferry_session *session_of(const struct rdma_service *s)
{
	return s->session->session;
}

/* ---- completions ----------------------------------------------------------------------------- */

static void complete(struct rdma_service *s)
{
	struct rdma_session *session = s->session;
	int ret = 0;

	if (rdma_busy_polls(session, vmferry_now())) {
		rdma_poll(session->session);
		s->more = false;
	} else if (!s->armed) {
		ret = rdma_poll_armed(session, &s->more);
		s->armed = true;
	} else if (s->more) {
		s->more = rdma_poll_wait(session);
	}
	if (ret < 0)
		session_fail(session->session, -EIO, "completions cannot be waited for: %s",
			     strerror(-ret));
}

static void take_completions(struct rdma_service *s, const struct rdma_rail *rail)
{
	struct ibv_cq *cq;
	void *ctx;

	while (ibv_get_cq_event(rail->channel, &cq, &ctx) == 0) {
		struct rdma_connection *conn = ctx;

		/* Acknowledging takes a lock, and can wait until the connection is closed. */
		if (cq == conn->send_cq)
			conn->unacked_send++;
		else
			conn->unacked_recv++;
		s->armed = false;
	}
}

/* ---- control connection ---------------------------------------------------------------------- */

static int out_of_place(struct rdma_service *s, uint32_t type)
{
	return session_fail(session_of(s), -EPROTO,
			    "control: a message of the type 0x%x is not the peer's to send", type);
}

static int take_own(struct rdma_service *s, const struct vmferry_message *message)
{
	bool is_source = session_of(s)->is_source;

	switch (message->type) {
	case RDMA_CONTROL_BEAT:
		return message->length == 0 ? 0 : out_of_place(s, message->type);
	case RDMA_CONTROL_BYE:
		atomic_store(&session_of(s)->bye, true);
		return message->length == 0 ? 0 : out_of_place(s, message->type);
	case RDMA_CONTROL_KEYS:
	case RDMA_CONTROL_GONE:
	case RDMA_CONTROL_NONE:
		return is_source ? rdma_keys_take(s->session, message)
				 : out_of_place(s, message->type);
	case RDMA_CONTROL_WANT:
		return is_source ? out_of_place(s, message->type)
				 : rdma_registrar_take(s->session, message);
	default:
		return out_of_place(s, message->type);
	}
}

static int take_message(struct rdma_service *s, struct vmferry_message *message)
{
	struct vmferry_session *session = session_of(s);
	int ret;

	if (message->type > VMFERRY_MESSAGE_TYPE_MAX) {
		ret = take_own(s, message);
	} else {
		ret = inbox_put(&session->inbox, message);
		if (ret < 0)
			session_fail(session, ret, "control: messages are not taken: %s",
				     strerror(-ret));
	}
	vmferry_message_free(message);
	return ret;
}

static const char *explain(int error)
{
	switch (error) {
	case -ECONNRESET:
		return "the peer is gone";
	case -EMSGSIZE:
		return "control: a message is too long";
	case -EPROTO:
		return "control: a message has an impossible type";
	default:
		return "control: cannot receive";
	}
}

/*
 * One message: 1, or 0 when there is none. Ends nothing by itself when it is the connection that
 * fails.
 */
static int receive_one(struct rdma_service *s)
{
	struct channel *control = &session_of(s)->control;
	struct vmferry_message message;
	size_t have = control->have;
	bool in_data = control->in_data;
	int ret = channel_recv(control, &message, 0);

	/* A part of a long message is a sign of life too. */
	if (ret == 0 || control->have != have || control->in_data != in_data)
		s->heard = vmferry_now();
	if (ret == -ETIMEDOUT)
		return 0;
	if (ret == 0)
		ret = take_message(s, &message);
	return ret < 0 ? ret : 1;
}

/* What the peer said before it went away is still heard, on both channels. */
static void hear_out(struct rdma_service *s)
{
	for (int i = 0; i < DRY_TURNS && receive_one(s) > 0; i++)
		;
	rdma_poll_dry(s->session);
}

static void take_control(struct rdma_service *s)
{
	int ret = 1;

	for (int i = 0; ret > 0 && i < MESSAGES_AT_ONCE; i++)
		ret = receive_one(s);
	if (ret >= 0)
		return;
	rdma_poll_dry(s->session);
	session_fail(session_of(s), ret, "%s: %s", explain(ret), strerror(-ret));
}

/* ---- signs of life --------------------------------------------------------------------------- */

static void beat(struct rdma_service *s, uint64_t now)
{
	struct vmferry_session *session = session_of(s);

	if (now < s->beat)
		return;
	s->beat = now + BEAT_NS;
	/* What is still on its way is as good, and where nothing is there is room for this. */
	if (socket_unsent(session->control.fd) > 0)
		return;
	session_send_control(session, RDMA_CONTROL_BEAT, NULL, 0, now + BEAT_SEND_NS);
}

/* Beats are acknowledged by the peer's kernel, whoever reads them. */
static bool host_answers(const struct rdma_service *s)
{
	struct tcp_info info = {0};
	socklen_t length = sizeof(info);

	return getsockopt(session_of(s)->control.fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
	       info.tcpi_last_ack_recv * NS_PER_MS < SILENT_NS;
}

static void check_silence(struct rdma_service *s, uint64_t now)
{
	if (now - s->checked > BEAT_NS + LATE_NS)
		s->heard = now;
	s->checked = now;
	if (now > s->heard + HUNG_NS || (now > s->heard + SILENT_NS && !host_answers(s)))
		session_fail(session_of(s), -ECONNRESET,
			     "no sign of life for %llu ms over the control connection: peer or "
			     "network is gone",
			     (unsigned long long)((now - s->heard) / NS_PER_MS));
}

static bool unexplained(uint64_t flushed, uint64_t now)
{
	return flushed != 0 && now > flushed + UNEXPLAINED_NS;
}

/* A connection was found broken, and nobody has said why. */
static void check_flushes(struct rdma_service *s, uint64_t now)
{
	struct vmferry_session *session = session_of(s);

	if (unexplained(atomic_load(&s->session->mailbox_flushed), now))
		session_fail(session, -ECONNRESET, "mailbox: its connection was broken off");
	else if (unexplained(atomic_load(&s->session->lane_flushed), now) &&
		 !atomic_load(&session->revoked))
		session_fail(session, -ECONNRESET, "a lane was broken off: %s",
			     session->is_source ? "neither the device nor the destination says why"
						: "the source has lost it, or was refused");
}

/* ---- connections and devices ----------------------------------------------------------------- */

static void take_connection_event(struct rdma_service *s, unsigned int index)
{
	const char *what = "";
	int ret = rdma_connection_event(rdma_connection_of(s->session, index), &what);

	if (ret == 0 || rdma_connection_revoked(s->session, index))
		return;
	hear_out(s);
	session_fail(session_of(s), ret, "%s", what);
}

static void wake(struct rdma_service *s)
{
	/* It fails only when the counter is full of wakes. */
	(void)eventfd_write(s->wake, 1);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static uint64_t tag(enum watch watch, unsigned int index)
{
	return (uint64_t)watch << 32 | index;
}

static void attend(struct rdma_service *s, uint64_t which)
{
	unsigned int index = (unsigned int)which;
	eventfd_t count;

	switch ((enum watch)(which >> 32)) {
	case WATCH_WAKE:
		(void)eventfd_read(s->wake, &count);
		break;
	case WATCH_CONTROL:
		take_control(s);
		break;
	case WATCH_CONNECTION:
		take_connection_event(s, index);
		break;
	case WATCH_ASYNC:
		rdma_take_device_events(s->session->rails[index]);
		break;
	case WATCH_COMPLETIONS:
		take_completions(s, s->session->rails[index]);
		break;
	}
}

static int watch(struct rdma_service *s, int fd, uint64_t which)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = which};

	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event) == 0)
		return 0;
	/* Two rails may be ports of one device. */
	return errno == EEXIST ? 0 : -errno;
}

static int watch_completions(struct rdma_service *s)
{
	const struct rdma_session *session = s->session;
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < session->rail_count; i++) {
		if (session->rails[i] != NULL)
			ret = watch(s, session->rails[i]->channel->fd, tag(WATCH_COMPLETIONS, i));
	}
	return ret;
}

static int watch_rails(struct rdma_service *s)
{
	struct rdma_session *session = s->session;
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < session->rail_count; i++) {
		const struct rdma_rail *rail = session->rails[i];

		if (rail == NULL)
			continue;
		/*
		 * Shared with whoever else uses the device: one who is late for an event must not
		 * sleep for it.
		 */
		if (fcntl(rail->context->async_fd, F_SETFL, O_NONBLOCK) < 0)
			return -errno;
		ret = watch(s, rail->context->async_fd, tag(WATCH_ASYNC, i));
	}
	return ret < 0 ? ret : watch_completions(s);
}

static int watch_all(struct rdma_service *s)
{
	int ret = watch(s, s->wake, tag(WATCH_WAKE, 0));

	if (ret == 0)
		ret = watch(s, session_of(s)->control.fd, tag(WATCH_CONTROL, 0));
	for (unsigned int i = 0; ret == 0 && i < rdma_connection_count(s->session); i++) {
		const struct rdma_connection *conn = rdma_connection_of(s->session, i);

		if (conn != NULL)
			ret = watch(s, conn->events->fd, tag(WATCH_CONNECTION, i));
	}
	return ret == 0 ? watch_rails(s) : ret;
}

static void unwatch(struct rdma_service *s, int fd)
{
	epoll_ctl(s->epoll, EPOLL_CTL_DEL, fd, NULL);
}

/*
 * A queue that was armed before busy polling began still raises one event, which would wake this
 * thread in vain. So the channels leave the epoll set meanwhile.
 */
static void watch_or_poll(struct rdma_service *s)
{
	bool polled = rdma_busy_polls(s->session, vmferry_now());
	int ret = 0;

	if (polled == s->polled)
		return;
	s->polled = polled;
	if (!polled)
		ret = watch_completions(s);
	for (unsigned int i = 0; polled && i < s->session->rail_count; i++) {
		if (s->session->rails[i] != NULL)
			unwatch(s, s->session->rails[i]->channel->fd);
	}
	if (ret < 0)
		session_fail(session_of(s), -EIO, "completions cannot be waited for: %s",
			     strerror(-ret));
}

/* All that came was taken in: who waits for a fence that did not come waits in vain. */
static void end_lanes(struct rdma_session *session)
{
	struct vmferry_session *s = session->session;

	pthread_mutex_lock(&session->poll_lock);
	for (unsigned int i = 0; !s->is_source && i < s->lane_count; i++)
		session_lane_ended(s->lanes[i]);
	pthread_mutex_unlock(&session->poll_lock);
}

/*
 * The session has ended: what stays readable must not keep this thread busy. Completions still
 * come, of what is flushed.
 */
static void finish(struct rdma_service *s)
{
	struct rdma_session *session = s->session;

	s->over = true;
	unwatch(s, session_of(s)->control.fd);
	for (unsigned int i = 0; i < rdma_connection_count(session); i++) {
		const struct rdma_connection *conn = rdma_connection_of(session, i);

		if (conn != NULL)
			unwatch(s, conn->events->fd);
	}
	for (unsigned int i = 0; i < session->rail_count; i++) {
		if (session->rails[i] == NULL)
			continue;
		/* Why it has ended may be among them. */
		rdma_take_device_events(session->rails[i]);
		unwatch(s, session->rails[i]->context->async_fd);
	}
	if (session_error(session_of(s)) != -ECANCELED)
		hear_out(s);
	inbox_close(&session_of(s)->inbox);
	end_lanes(s->session);
}

static uint64_t next_turn(const struct rdma_service *s)
{
	uint64_t now = vmferry_now();
	uint64_t silent = s->heard + SILENT_NS;

	if (s->more)
		return now;
	if (rdma_busy_polls(s->session, now))
		return now + IDLE_BUSY_NS;
	if (s->over)
		return now + NS_PER_S;
	return silent > now && silent < s->beat ? silent : s->beat;
}

static void turn(struct rdma_service *s)
{
	struct epoll_event events[EVENTS_AT_ONCE];
	int n;

	watch_or_poll(s);
	n = epoll_wait(s->epoll, events, EVENTS_AT_ONCE, deadline_poll_ms(next_turn(s)));

	/*
	 * Any session's thread may have heard that the device has failed, and what comes now be of
	 * that: the reason goes first.
	 */
	rdma_alarm_heed(&s->alarm, vmferry_now());
	for (int i = 0; i < n; i++)
		attend(s, events[i].data.u64);
	rdma_alarm_heed(&s->alarm, vmferry_now());
	if (!s->over) {
		uint64_t now = vmferry_now();

		beat(s, now);
		check_silence(s, now);
		check_flushes(s, now);
	}
	if (!s->over && session_error(session_of(s)) != 0)
		finish(s);
	complete(s);
}

static void *run(void *arg)
{
	struct rdma_service *s = arg;

	/* The mailbox's, which everything waits for in a switchover, is the first lane's too. */
	thread_stay_near(vmferry_lane_numa_node(session_of(s), 0));
	s->checked = s->heard = vmferry_now();
	while (!atomic_load(&s->stop))
		turn(s);
	return NULL;
}

/* ---- from outside ---------------------------------------------------------------------------- */

static void service_free(struct rdma_service *s)
{
	if (s->epoll >= 0)
		close(s->epoll);
	if (s->wake >= 0)
		close(s->wake);
	free(s);
}

static int service_new(struct rdma_session *session, struct rdma_service **service)
{
	struct rdma_service *s = calloc(1, sizeof(*s));
	int ret;

	if (s == NULL)
		return -ENOMEM;
	s->session = session;
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->wake = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	s->alarm = (struct rdma_alarm){.session = session, .wake = s->wake};
	ret = s->epoll < 0 || s->wake < 0 ? -errno : watch_all(s);
	if (ret < 0)
		service_free(s);
	else
		*service = s;
	return ret;
}

static void set_service(struct rdma_session *session, struct rdma_service *service)
{
	pthread_mutex_lock(&service_lock);
	session->service = service;
	pthread_mutex_unlock(&service_lock);
}

static int begin(struct rdma_service *s)
{
	int ret;

	rdma_alarm_add(&s->alarm);
	set_service(s->session, s);
	ret = thread_start(&s->thread, "vmf-rdma", run, s);
	if (ret < 0) {
		set_service(s->session, NULL);
		rdma_alarm_remove(&s->alarm);
		service_free(s);
	}
	return ret;
}

int rdma_service_start(struct vmferry_session *session)
{
	struct rdma_service *s;
	int ret = service_new(rdma_session_of(session), &s);

	if (ret >= 0)
		ret = begin(s);
	if (ret < 0)
		log_error("session %s: cannot start its thread: %s: raise the limits of processes "
			  "and open files",
			  session->name, strerror(-ret));
	return ret;
}

void rdma_service_stop(struct rdma_session *session)
{
	struct rdma_service *s = session->service;

	if (s == NULL)
		return;
	set_service(session, NULL);
	rdma_alarm_remove(&s->alarm);
	atomic_store(&s->stop, true);
	wake(s);
	pthread_join(s->thread, NULL);
	service_free(s);
}

void rdma_service_wake(struct rdma_session *session)
{
	pthread_mutex_lock(&service_lock);
	if (session->service != NULL)
		wake(session->service);
	pthread_mutex_unlock(&service_lock);
}

void rdma_busy_poll(struct vmferry_session *session, uint64_t until)
{
	struct rdma_session *s = rdma_session_of(session);

	if (until > vmferry_now())
		rdma_mailbox_prepare(s);
	atomic_store_explicit(&s->busy_poll_until, until, memory_order_relaxed);
	/* Who sleeps already shall poll from now on. */
	rdma_service_wake(s);
	rdma_mailbox_wake(s);
	inbox_wake(&session->inbox);
}
