/* SPDX-License-Identifier: MIT */
/* A source's life, and the messages that come from the destination. */
#include "source.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "bytes.h"
#include "log.h"
#include "moment.h"
#include "multifd.h"
#include "source_state.h"

#define CONNECT_NS (10 * NS_PER_S)
#define DECIDE_NS  (30 * NS_PER_S)
#define RESULT_NS  (10 * NS_PER_S)
/* Behind END's header nothing should wait: the guest is stopped. */
#define END_NS	     (2 * NS_PER_S)
#define RESULT_BYTES (1u << 20)
#define RESULT_DEPTH 16
#define RETURN_SHUT  1u

/* ---- readers --------------------------------------------------------------------------------- */

/* The main stream is over, perhaps in the middle: no channel need wait for it any more. */
static void release_channels(struct qemu_source *s)
{
	sync_main_ended(&s->sync);
	pthread_mutex_lock(&s->relay.lock);
	if (s->decision == DECISION_NONE)
		s->decision = DECISION_FORWARD;
	pthread_cond_broadcast(&s->relay.changed);
	pthread_mutex_unlock(&s->relay.lock);
}

static int read_connection(void *ctx, struct connection *c)
{
	struct qemu_source *s = ctx;
	const struct source_channel *channel = c->user;
	unsigned int number;
	int ret;

	if (c->number == 0) {
		ret = source_read_main(s, c);
		release_channels(s);
		return ret;
	}
	if (channel == NULL)
		return relay_copy(c);
	number = channel->number;
	ret = source_read_channel(s, c, number);
	sync_channel_ended(&s->sync, number);
	return ret;
}

int source_reader_open(struct qemu_source *s, struct connection *c, struct reader *r)
{
	int ret;

	*r = (struct reader){.connection = c};
	ret = ring_open(&s->offload, c->number, &r->ring);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&s->relay.lock);
	s->rings[c->number] = r->ring;
	pthread_mutex_unlock(&s->relay.lock);
	return 0;
}

int source_await_decision(struct qemu_source *s, enum decision *decision)
{
	int ret = 0;

	/* For as long as the main stream's reader waits: it has the deadlines. */
	pthread_mutex_lock(&s->relay.lock);
	while (relay_error(&s->relay) == 0 && s->decision == DECISION_NONE)
		relay_await(&s->relay, vmferry_now() + NS_PER_S);
	ret = relay_error(&s->relay);
	*decision = s->decision;
	pthread_mutex_unlock(&s->relay.lock);
	return ret;
}

void source_decide(struct qemu_source *s, enum decision decision)
{
	if (decision == DECISION_FORWARD)
		qemu_info("%s: passing through: %s", s->name, s->reason);
	source_open_buffers(s);
	s->moments.decided = vmferry_now();
	pthread_mutex_lock(&s->relay.lock);
	s->decision = decision;
	pthread_cond_broadcast(&s->relay.changed);
	pthread_mutex_unlock(&s->relay.lock);
}

int source_fence_reader(struct qemu_source *s, struct reader *r)
{
	uint32_t epoch = 0;
	int ret = ring_sync(r->ring);

	if (ret == 0)
		ret = offload_fence_all(&s->offload, &epoch);
	return ret < 0 ? ret : connection_fence(r->connection, epoch, false);
}

int source_stop_offload(struct qemu_source *s, struct reader *r, const char *reason)
{
	bool first;

	if (s->options.require_offload)
		return relay_fail(&s->relay, -ENOTSUP, "pages cannot be offloaded: %s", reason);
	pthread_mutex_lock(&s->relay.lock);
	first = !atomic_load(&s->stopped);
	if (first)
		snprintf(s->reason, sizeof(s->reason), "%s", reason);
	atomic_store(&s->stopped, true);
	pthread_mutex_unlock(&s->relay.lock);
	if (first)
		qemu_info("%s: pages stay in the stream from here on: %s", s->name, reason);
	return source_fence_reader(s, r);
}

/* ---- messages of the destination ------------------------------------------------------------- */

static int take_placed(struct qemu_source *s, const struct vmferry_message *m)
{
	struct peer_placed *placed = malloc(sizeof(*placed));
	int ret = placed == NULL ? -ENOMEM : peer_placed_decode(m->data, m->length, placed);

	pthread_mutex_lock(&s->relay.lock);
	if (ret == 0 && s->placed != NULL)
		ret = -EPROTO;
	if (ret == 0)
		s->placed = placed;
	pthread_cond_broadcast(&s->relay.changed);
	pthread_mutex_unlock(&s->relay.lock);
	if (ret < 0) {
		free(placed);
		return relay_fail(&s->relay, ret, "the destination's answer makes no sense: %s",
				  strerror(-ret));
	}
	return 0;
}

static int take_freed(struct qemu_source *s, const struct vmferry_message *m)
{
	uint32_t numbers[2];
	int ret = peer_numbers_decode(m->data, m->length, numbers, 2);

	if (ret == 0 && (numbers[0] >= PEER_CONNECTIONS_MAX || numbers[1] >= PEER_SEGMENTS))
		ret = -EPROTO;
	pthread_mutex_lock(&s->relay.lock);
	if (ret == 0 && s->rings[numbers[0]] != NULL)
		ret = ring_freed(s->rings[numbers[0]], numbers[1]);
	pthread_cond_broadcast(&s->relay.changed);
	pthread_mutex_unlock(&s->relay.lock);
	return ret < 0 ? relay_fail(&s->relay, ret, "the destination frees what it did not have")
		       : 0;
}

static int take_result(struct qemu_source *s, const struct vmferry_message *m)
{
	struct json_tokener *tokener = json_tokener_new_ex(RESULT_DEPTH);
	struct json_object *result = NULL;

	if (tokener != NULL && m->length > 0 && m->length <= RESULT_BYTES)
		result = json_tokener_parse_ex(tokener, m->data, (int)m->length);
	if (tokener != NULL)
		json_tokener_free(tokener);
	pthread_mutex_lock(&s->relay.lock);
	json_object_put(s->result);
	s->result = result != NULL ? result : json_object_new_object();
	pthread_cond_broadcast(&s->relay.changed);
	pthread_mutex_unlock(&s->relay.lock);
	return RELAY_LAST;
}

static int take_message(void *ctx, const struct vmferry_message *m)
{
	struct qemu_source *s = ctx;

	switch (m->type) {
	case PEER_PLACED:
		return take_placed(s, m);
	case PEER_FREED:
		return take_freed(s, m);
	case PEER_FENCED:
		if (atomic_load(&s->moments.pages) == 0)
			return relay_fail(&s->relay, -EPROTO,
					  "the destination speaks of a fence that was not set");
		atomic_store(&s->moments.fenced, vmferry_now());
		return 0;
	case PEER_RESULT:
		return take_result(s, m);
	default:
		return relay_fail(&s->relay, -EPROTO, "the destination sends a message of type %u",
				  m->type);
	}
}

/*
 * Reads the return path's messages as they pass: SHUT tells whether the destination has loaded the
 * guest.
 */
static void see_back(void *ctx, struct connection *c, const uint8_t *data, size_t length)
{
	struct qemu_source *s = ctx;

	if (c->number != 0)
		return;
	while (length > 0) {
		size_t n = s->back.skip < length ? s->back.skip : length;
		unsigned int want = 4;

		s->back.skip -= (uint32_t)n;
		data += n;
		length -= n;
		if (length == 0)
			return;
		if (s->back.have >= 4 && be16_get(s->back.head) == RETURN_SHUT)
			want = 8;
		if (s->back.have < want) {
			s->back.head[s->back.have++] = *data++;
			length--;
		}
		if (s->back.have < 4)
			continue;
		if (be16_get(s->back.head) != RETURN_SHUT || be16_get(s->back.head + 2) != 4) {
			s->back.skip = be16_get(s->back.head + 2);
			s->back.have = 0;
		} else if (s->back.have == 8) {
			s->back.shut = be32_get(s->back.head + 4) == 0 ? 0 : 1;
			s->back.have = 0;
		}
	}
}

static int watch(void *ctx)
{
	struct qemu_source *s = ctx;
	uint64_t now = vmferry_now();
	uint64_t end = atomic_load(&s->moments.end);
	uint64_t read = atomic_load(&s->moments.read);

	/* Lanes are over then: the destination takes its memory back. */
	if (atomic_load(&s->moments.fenced) != 0)
		return 0;
	if (offload_probe(&s->offload) < 0)
		return relay_error(&s->relay);
	source_adapt_buffers(s);
	if (end == 0 || now < END_NS)
		return 0;
	if (end > now - END_NS || read > now - END_NS)
		return 0;
	return relay_fail(&s->relay, -ETIMEDOUT,
			  "the last pages are not placed, and nothing has moved for 2 s");
}

static const struct relay_ops ops = {
	.read = read_connection,
	.message = take_message,
	.seen = see_back,
	.watch = watch,
};

/* ---- connections ----------------------------------------------------------------------------- */

/*
 * With the join lock held: connections are opened at the destination in the order in which they
 * were here.
 */
static int add(struct qemu_source *s, int fd, bool multifd)
{
	struct source_channel *channel = NULL;
	struct connection *c;
	int ret = relay_send(&s->relay, PEER_OPEN + s->relay.connection_count, NULL, 0);

	if (ret == 0 && multifd) {
		int number = sync_add_channel(&s->sync);

		channel = number < 0 ? NULL : malloc(sizeof(*channel));
		if (channel == NULL) {
			close(fd);
			return relay_fail(&s->relay, -ENOSPC, "QEMU opens too many channels");
		}
		channel->number = (unsigned int)number;
	}
	if (ret < 0) {
		close(fd);
		return ret;
	}
	return relay_add(&s->relay, fd, channel, &c);
}

void qemu_source_join(struct qemu_source *s, int fd, bool multifd)
{
	pthread_mutex_lock(&s->join_lock);
	if (s->over || (!s->ready && s->early_count == PEER_CONNECTIONS_MAX))
		close(fd);
	else if (!s->ready)
		s->early[s->early_count++] = (struct early_connection){fd, multifd};
	else
		add(s, fd, multifd);
	pthread_mutex_unlock(&s->join_lock);
}

/* QEMU has closed it, whatever is left to be read. */
static bool is_hung_up(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLRDHUP};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
}

/* A migration that is ending takes no channels: they are the next one's. */
bool qemu_source_is_open(struct qemu_source *s)
{
	bool open = false;

	pthread_mutex_lock(&s->join_lock);
	if (s->ready) {
		pthread_mutex_lock(&s->relay.lock);
		open = s->decision != DECISION_OFFLOAD && relay_error(&s->relay) == 0 &&
		       (s->relay.connection_count == 0 || !is_hung_up(s->relay.connections[0]->fd));
		pthread_mutex_unlock(&s->relay.lock);
	} else if (!s->over && !s->cancelled) {
		open = s->early_count > 0 && !is_hung_up(s->early[0].fd);
	}
	pthread_mutex_unlock(&s->join_lock);
	return open;
}

void source_settle(struct qemu_source *s)
{
	if (s->options.settle != NULL)
		s->options.settle(s->options.ctx);
	/* Behind open_connections(), which may have begun with this very thread's. */
	pthread_mutex_lock(&s->join_lock);
	pthread_mutex_unlock(&s->join_lock);
}

static int open_connections(struct qemu_source *s)
{
	int ret = 0;

	pthread_mutex_lock(&s->join_lock);
	if (s->cancelled)
		ret = relay_fail(&s->relay, -ECANCELED, "cancelled");
	for (unsigned int i = 0; i < s->early_count; i++)
		if (ret == 0)
			ret = add(s, s->early[i].fd, s->early[i].multifd);
		else
			close(s->early[i].fd);
	s->early_count = 0;
	s->ready = true;
	pthread_mutex_unlock(&s->join_lock);
	return ret;
}

static void refuse_connections(struct qemu_source *s)
{
	pthread_mutex_lock(&s->join_lock);
	for (unsigned int i = 0; i < s->early_count; i++)
		close(s->early[i].fd);
	s->early_count = 0;
	s->over = true;
	s->ready = false;
	pthread_mutex_unlock(&s->join_lock);
}

/* ---- its thread ------------------------------------------------------------------------------ */

static int say_hello(struct qemu_source *s)
{
	struct peer_hello hello = {.version = PEER_VERSION};
	uint8_t bytes[8 + PEER_PATH_MAX];

	snprintf(hello.path, sizeof(hello.path), "%s", s->options.path);
	return relay_send(&s->relay, PEER_HELLO, bytes, peer_hello_encode(&hello, bytes));
}

static int open_session(struct qemu_source *s)
{
	struct vmferry_session *session;
	int ret = vmferry_connect(s->options.uri, &s->options.transport, vmferry_now() + CONNECT_NS,
				  &session);

	if (ret < 0) {
		qemu_error("%s: cannot reach %s: %s; start vmferry qemu-receive there", s->name,
			   s->options.uri, strerror(-ret));
		snprintf(s->relay.failure, sizeof(s->relay.failure), "cannot reach %s: %s",
			 s->options.uri, strerror(-ret));
		return ret;
	}
	ret = relay_init(&s->relay, session, &ops, s, s->name);
	s->has_relay = true;
	s->sync.relay = &s->relay;
	if (ret == 0)
		ret = offload_init(&s->offload, &s->relay);
	if (ret == 0)
		ret = say_hello(s);
	return ret == 0 ? relay_start(&s->relay) : ret;
}

static void await_result(struct qemu_source *s)
{
	uint64_t deadline = vmferry_now() + RESULT_NS;

	pthread_mutex_lock(&s->relay.lock);
	while (s->result == NULL && !s->relay.peer_gone && relay_await(&s->relay, deadline) == 0)
		;
	pthread_mutex_unlock(&s->relay.lock);
}

/*
 * Where there is a return path, the destination QEMU says itself whether it has loaded the guest.
 * Else it is only known that it has read all of the stream.
 */
static bool is_completed(const struct qemu_source *s, int ret)
{
	if (ret < 0)
		return false;
	/* A stream that is passed through is not parsed to its end. */
	if (s->stream.passing && s->back.shut < 0)
		return s->result != NULL;
	return s->back.shut == 0 || (!s->stream.return_path && s->stream.finished);
}

/*
 * The destination does not know by itself whether the stream was complete, e.g. when QEMU has
 * cancelled.
 */
static void say_done(struct qemu_source *s, bool completed)
{
	if (!completed)
		relay_fail(&s->relay, -ECANCELED, "%s",
			   s->back.shut > 0 ? "the destination QEMU could not load the guest"
					    : "QEMU has closed its connection before the end");
	else if (s->result != NULL)
		relay_send(&s->relay, PEER_DONE, NULL, 0);
}

static void close_source(struct qemu_source *s)
{
	if (!s->has_relay)
		return;
	for (unsigned int i = 0; i < s->relay.connection_count; i++)
		free(s->relay.connections[i]->user);
	/*
	 * Behind the last reader, and while the session is there: a lane may have had bytes of a
	 * ring to send until now.
	 */
	for (unsigned int i = 0; i < PEER_CONNECTIONS_MAX; i++)
		ring_close(&s->rings[i]);
	source_close_live(s);
	offload_free(&s->offload);
	relay_close(&s->relay);
	source_release_live(s);
}

static void *source_main(void *arg)
{
	struct qemu_source *s = arg;
	struct json_object *report;
	bool completed;
	int ret;

	pthread_setname_np(pthread_self(), "qemu-source");
	ret = open_session(s);
	if (ret == 0)
		ret = open_connections(s);
	if (ret == 0)
		ret = relay_wait(&s->relay);
	if (ret == 0)
		await_result(s);
	completed = is_completed(s, ret);
	if (ret == 0)
		say_done(s, completed);
	refuse_connections(s);
	s->moments.over = vmferry_now();
	if (s->has_relay) {
		if (ret < 0)
			relay_drain(&s->relay);
		else if (completed)
			relay_rest();
		relay_join(&s->relay);
	}
	report = source_report(s, completed);
	close_source(s);
	s->options.ended(s->options.ctx, s, completed, report);
	return NULL;
}

int qemu_source_start(const struct qemu_source_options *options, int fd, pid_t pid,
		      struct qemu_source **source)
{
	struct qemu_source *s = calloc(1, sizeof(*s));
	int ret;

	if (s == NULL) {
		close(fd);
		return -ENOMEM;
	}
	s->options = *options;
	s->pid = pid;
	s->back.shut = -1;
	s->moments.begun = vmferry_now();
	snprintf(s->name, sizeof(s->name), "source of pid %d", (int)pid);
	stream_init(&s->stream);
	pthread_mutex_init(&s->join_lock, NULL);
	s->early[s->early_count++] = (struct early_connection){fd, false};
	ret = pthread_create(&s->thread, NULL, source_main, s);
	if (ret != 0) {
		qemu_error("%s: a thread cannot be started: %s", s->name, strerror(ret));
		close(fd);
		pthread_mutex_destroy(&s->join_lock);
		free(s);
		return -ret;
	}
	*source = s;
	return 0;
}

pid_t qemu_source_pid(const struct qemu_source *source)
{
	return source->pid;
}

void qemu_source_cancel(struct qemu_source *s)
{
	pthread_mutex_lock(&s->join_lock);
	s->cancelled = true;
	/* While the session is still to be connected, QEMU need not wait for that. */
	for (unsigned int i = 0; i < s->early_count; i++)
		shutdown(s->early[i].fd, SHUT_RDWR);
	if (s->ready)
		relay_fail(&s->relay, -ECANCELED, "cancelled");
	pthread_mutex_unlock(&s->join_lock);
}

void qemu_source_free(struct qemu_source **source)
{
	struct qemu_source *s = *source;

	if (s == NULL)
		return;
	pthread_join(s->thread, NULL);
	json_object_put(s->result);
	free(s->placed);
	pthread_mutex_destroy(&s->join_lock);
	free(s);
	*source = NULL;
}
