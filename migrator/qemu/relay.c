/* SPDX-License-Identifier: MIT */
/* A migration's life: its session, its two threads, messages, and its end. */
#include "relay.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "connection.h"
#include "log.h"
#include "moment.h"

#define SLICE_NS (100 * NS_PER_MS)
#define BEAT_NS	 (100 * NS_PER_MS)
/*
 * The path is dead, or the peer's process does not run. QEMU's connections should be closed within
 * a second then, but on a host with eight times the work that it can do a process did not run for
 * 0.9 s now and then, and each time a migration failed that was only slow.
 */
#define SILENT_NS (1500 * NS_PER_MS)
/*
 * Over RDMA the transport itself tells of a dead path within a second: what is left is a process
 * that hangs.
 */
#define HUNG_NS (3 * NS_PER_S)
/*
 * A wait that ends so much later than it should says that this host is busy, and nothing of the
 * peer, who may be on it, too.
 */
#define LATE_NS (20 * NS_PER_MS)
/* A message is at most RELAY_WINDOW_BYTES long, and the peer's receiver never waits for a QEMU. */
#define SEND_NS	   (5 * NS_PER_S)
#define FAILING_NS (100 * NS_PER_MS)
#define LAST_NS	   (300 * NS_PER_MS)
#define REST_NS	   (100 * NS_PER_MS)

int relay_error(const struct relay *relay)
{
	return atomic_load_explicit(&relay->error, memory_order_acquire);
}

int relay_init(struct relay *relay, struct vmferry_session *session, const struct relay_ops *ops,
	       void *ctx, const char *name)
{
	*relay = (struct relay){
		.session = session,
		.ops = ops,
		.ctx = ctx,
		.name = name,
		.over_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK),
	};
	pthread_mutex_init(&relay->lock, NULL);
	pthread_cond_init(&relay->changed, NULL);
	if (relay->over_fd >= 0)
		return 0;
	qemu_error("%s: eventfd failed: %s; raise the limit of open files", name, strerror(errno));
	return -EMFILE;
}

/* ---- its end --------------------------------------------------------------------------------- */

/* With the lock held: the first error stays. False: it was over before. */
static bool end(struct relay *relay, int error, const char *reason)
{
	const uint64_t one = 1;

	if (relay_error(relay) != 0)
		return false;
	snprintf(relay->failure, sizeof(relay->failure), "%s", reason);
	/* Release: a thread that sees the error sees its reason. */
	atomic_store_explicit(&relay->error, error, memory_order_release);
	if (!relay->lenient)
		for (unsigned int i = 0; i < relay->connection_count; i++)
			shutdown(relay->connections[i]->fd, SHUT_RDWR);
	/*
	 * write() on an eventfd fails only when the counter is saturated, and then it is readable
	 * already.
	 */
	if (write(relay->over_fd, &one, sizeof(one)) < 0)
		qemu_debug("%s: the relay's eventfd is saturated", relay->name);
	pthread_cond_broadcast(&relay->changed);
	return true;
}

/* The reason may be lost when the session is what failed; the peer sees its end in any case. */
static void tell_peer(struct relay *relay, const char *reason)
{
	vmferry_send(relay->session, VMFERRY_CONTROL, PEER_FAILED, reason, strlen(reason),
		     vmferry_now() + FAILING_NS);
}

int relay_fail(struct relay *relay, int error, const char *fmt, ...)
{
	char reason[RELAY_FAILURE_MAX];
	va_list args;
	bool first;

	va_start(args, fmt);
	vsnprintf(reason, sizeof(reason), fmt, args);
	va_end(args);
	pthread_mutex_lock(&relay->lock);
	first = end(relay, error, reason);
	pthread_mutex_unlock(&relay->lock);
	if (!first)
		return relay_error(relay);
	if (error != -ECANCELED)
		qemu_error("%s: the migration failed: %s", relay->name, reason);
	tell_peer(relay, reason);
	return error;
}

void relay_be_lenient(struct relay *relay)
{
	pthread_mutex_lock(&relay->lock);
	relay->lenient = true;
	pthread_mutex_unlock(&relay->lock);
}

/*
 * The session has ended with @error, which it has logged, or the peer did not take a message in
 * time.
 */
static int session_lost(struct relay *relay, int error)
{
	const char *why = vmferry_session_failure(relay->session);

	return relay_fail(relay, error == -ETIMEDOUT ? -ECONNRESET : error,
			  "the adaptor at %s is gone: %s", vmferry_session_peer(relay->session),
			  *why != '\0' ? why : "it takes no messages");
}

/* ---- messages -------------------------------------------------------------------------------- */

int relay_send(struct relay *relay, uint32_t type, const void *data, size_t length)
{
	int ret = relay_error(relay);

	if (ret == 0)
		ret = vmferry_send(relay->session, VMFERRY_CONTROL, type, data, length,
				   vmferry_now() + SEND_NS);
	return ret < 0 ? session_lost(relay, ret) : 0;
}

int relay_await(struct relay *relay, uint64_t deadline)
{
	struct timespec until = moment_timespec(deadline);
	int ret = relay_error(relay);

	if (ret == 0)
		ret = -pthread_cond_clockwait(&relay->changed, &relay->lock, CLOCK_MONOTONIC,
					      &until);
	return relay_error(relay) != 0 ? relay_error(relay) : ret;
}

static int failed_there(struct relay *relay, const struct vmferry_message *m)
{
	char reason[RELAY_FAILURE_MAX];
	size_t length = m->length < sizeof(reason) - 1 ? m->length : sizeof(reason) - 1;

	if (length > 0)
		memcpy(reason, m->data, length);
	reason[length] = '\0';
	for (size_t i = 0; i < length; i++)
		if ((unsigned char)reason[i] < ' ')
			reason[i] = '?';
	return relay_fail(relay, -EREMOTEIO, "the other end says: %s", reason);
}

static struct connection *find(struct relay *relay, unsigned int number)
{
	struct connection *c = NULL;

	pthread_mutex_lock(&relay->lock);
	if (number < relay->connection_count)
		c = relay->connections[number];
	pthread_mutex_unlock(&relay->lock);
	return c;
}

static int dispatch(struct relay *relay, struct vmferry_message *m)
{
	uint32_t type = m->type & PEER_MASK;
	struct connection *c;

	if (m->type == PEER_BEAT)
		return 0;
	if (m->type == PEER_FAILED)
		return failed_there(relay, m);
	if (type < PEER_BYTES || type > PEER_FENCE)
		return relay->ops->message(relay->ctx, m);
	c = find(relay, m->type & ~(uint32_t)PEER_MASK);
	if (c == NULL)
		return relay_fail(relay, -EPROTO,
				  "the other end speaks of a connection that is not there");
	if (type == PEER_BYTES && relay->ops->seen != NULL)
		relay->ops->seen(relay->ctx, c, m->data, m->length);
	return connection_message(c, m);
}

bool relay_is_rdma(const struct relay *relay)
{
	return strcmp(vmferry_session_transport(relay->session), "rdma") == 0;
}

static bool is_finishing(struct relay *relay)
{
	bool finishing;

	pthread_mutex_lock(&relay->lock);
	finishing = relay->finishing || atomic_load(&relay->stop);
	pthread_mutex_unlock(&relay->lock);
	return finishing;
}

/*
 * Only whoever receives can tell silence from messages that nobody has taken: this thread, when it
 * has waited in vain. What a message asks for may take longer than silence may last.
 */
static int check_silence(struct relay *relay, uint64_t began, uint64_t *quiet_ns)
{
	uint64_t waited = vmferry_now() - began;

	if (waited <= SLICE_NS + LATE_NS)
		*quiet_ns += waited;
	if (*quiet_ns < (relay_is_rdma(relay) ? HUNG_NS : SILENT_NS) || is_finishing(relay))
		return 0;
	return relay_fail(
		relay, -ETIMEDOUT,
		"no sign of life from %s for %llu ms: its adaptor hangs or the network is cut",
		vmferry_session_peer(relay->session), (unsigned long long)(*quiet_ns / NS_PER_MS));
}

static int watch(struct relay *relay, uint64_t *watched)
{
	uint64_t now = vmferry_now();

	if (relay->ops->watch == NULL || now - *watched < SLICE_NS)
		return 0;
	*watched = now;
	return relay->ops->watch(relay->ctx);
}

/*
 * This side has failed, and says so: a connection that is closed with messages unread would be
 * reset, and the reason lost.
 */
static void take_last(struct relay *relay)
{
	uint64_t deadline = vmferry_now() + LAST_NS;
	struct vmferry_message m;
	bool last = false;

	while (!last && vmferry_recv(relay->session, &m, deadline) == 0) {
		last = m.type == PEER_FAILED;
		vmferry_message_free(&m);
	}
}

static void *receive_main(void *arg)
{
	struct relay *relay = arg;
	uint64_t watched = vmferry_now();
	uint64_t quiet_ns = 0;
	struct vmferry_message m;
	int ret = 0;

	pthread_setname_np(pthread_self(), "qemu-receive");
	while (ret == 0 && relay_error(relay) == 0) {
		uint64_t began = vmferry_now();

		ret = vmferry_recv(relay->session, &m, began + SLICE_NS);
		if (ret == 0) {
			ret = dispatch(relay, &m);
			vmferry_message_free(&m);
			quiet_ns = 0;
		} else if (ret == -ETIMEDOUT) {
			ret = check_silence(relay, began, &quiet_ns);
		}
		if (ret == 0)
			ret = watch(relay, &watched);
	}
	if (ret < 0 && relay_error(relay) == 0 && !is_finishing(relay))
		session_lost(relay, ret);
	else if (!is_finishing(relay) && relay_error(relay) != -EREMOTEIO)
		take_last(relay);
	pthread_mutex_lock(&relay->lock);
	relay->peer_gone = true;
	pthread_cond_broadcast(&relay->changed);
	pthread_mutex_unlock(&relay->lock);
	return NULL;
}

/* ---- signs of life --------------------------------------------------------------------------- */

/* In a thread of its own, since a peer that takes nothing makes it wait. */
static void *beat_main(void *arg)
{
	struct relay *relay = arg;

	pthread_setname_np(pthread_self(), "qemu-beat");
	pthread_mutex_lock(&relay->lock);
	while (relay_error(relay) == 0 && !atomic_load(&relay->stop)) {
		uint64_t now = vmferry_now();

		pthread_mutex_unlock(&relay->lock);
		/*
		 * Who finishes may close with nothing unread, which a TCP connection would be reset
		 * for.
		 */
		if (!is_finishing(relay))
			relay_send(relay, PEER_BEAT, NULL, 0);
		pthread_mutex_lock(&relay->lock);
		while (relay_error(relay) == 0 && !atomic_load(&relay->stop) &&
		       vmferry_now() < now + BEAT_NS)
			relay_await(relay, now + BEAT_NS);
	}
	pthread_mutex_unlock(&relay->lock);
	return NULL;
}

/* ---- from the start to the end --------------------------------------------------------------- */

int relay_start(struct relay *relay)
{
	int ret = pthread_create(&relay->receiver, NULL, receive_main, relay);

	if (ret != 0)
		return relay_fail(relay, -ret, "a thread cannot be started: %s", strerror(ret));
	ret = pthread_create(&relay->beater, NULL, beat_main, relay);
	if (ret != 0) {
		relay_fail(relay, -ret, "a thread cannot be started: %s", strerror(ret));
		pthread_join(relay->receiver, NULL);
		return -ret;
	}
	relay->has_threads = true;
	return 0;
}

int relay_add(struct relay *relay, int fd, void *user, struct connection **connection)
{
	struct connection *c;
	int ret = connection_new(relay, fd, &c);

	if (ret < 0) {
		close(fd);
		return relay_fail(relay, ret, "a connection cannot be served: %s", strerror(-ret));
	}
	c->user = user;
	pthread_mutex_lock(&relay->lock);
	if (relay->connection_count == PEER_CONNECTIONS_MAX)
		ret = -ENOSPC;
	else if (relay_error(relay) != 0)
		ret = relay_error(relay);
	if (ret == 0) {
		c->number = relay->connection_count;
		relay->connections[relay->connection_count++] = c;
	}
	pthread_mutex_unlock(&relay->lock);
	if (ret < 0) {
		connection_free(&c);
		return relay_fail(relay, ret, "QEMU opens more than %u connections",
				  PEER_CONNECTIONS_MAX);
	}
	*connection = c;
	return connection_start(c);
}

bool relay_ended(const struct relay *relay)
{
	for (unsigned int i = 0; i < relay->connection_count; i++)
		if (!relay->connections[i]->ended_here || !relay->connections[i]->ended_there)
			return false;
	return relay->connection_count > 0;
}

int relay_wait(struct relay *relay)
{
	int ret = 0;

	pthread_mutex_lock(&relay->lock);
	while (relay_error(relay) == 0 && !relay_ended(relay))
		relay_await(relay, vmferry_now() + NS_PER_S);
	ret = relay_error(relay);
	if (ret == 0)
		relay->finishing = true;
	pthread_mutex_unlock(&relay->lock);
	return ret;
}

static bool is_read(const struct relay *relay)
{
	for (unsigned int i = 0; i < relay->connection_count; i++)
		if (relay->connections[i]->has_reader && !relay->connections[i]->read_over)
			return false;
	return true;
}

void relay_drain(struct relay *relay)
{
	/* The readers have a limit. */
	pthread_mutex_lock(&relay->lock);
	while (relay->lenient && !is_read(relay)) {
		struct timespec until = moment_timespec(vmferry_now() + NS_PER_S);

		pthread_cond_clockwait(&relay->changed, &relay->lock, CLOCK_MONOTONIC, &until);
	}
	pthread_mutex_unlock(&relay->lock);
}

/*
 * Until it has read why this side has failed, or does not read. QEMU's connections are closed
 * already.
 */
static void await_peer(struct relay *relay)
{
	struct timespec until = moment_timespec(vmferry_now() + LAST_NS);
	int ret = 0;

	pthread_mutex_lock(&relay->lock);
	while (ret == 0 && relay->has_threads && !relay->finishing && !relay->peer_gone)
		ret = pthread_cond_clockwait(&relay->changed, &relay->lock, CLOCK_MONOTONIC,
					     &until);
	pthread_mutex_unlock(&relay->lock);
}

void relay_rest(void)
{
	const struct timespec rest = {.tv_nsec = (long)REST_NS};

	nanosleep(&rest, NULL);
}

void relay_join(struct relay *relay)
{
	if (relay->over_fd < 0 || atomic_exchange(&relay->stop, true))
		return;
	pthread_mutex_lock(&relay->lock);
	end(relay, -ECANCELED, "closed");
	pthread_mutex_unlock(&relay->lock);
	await_peer(relay);
	/* First, since the threads may wait in a call of the session. */
	vmferry_session_shutdown(relay->session);
	/* The receiver may be about to add a connection. */
	if (relay->has_threads) {
		pthread_join(relay->beater, NULL);
		pthread_join(relay->receiver, NULL);
	}
	for (unsigned int i = 0; i < relay->connection_count; i++)
		connection_join(relay->connections[i]);
}

void relay_close(struct relay *relay)
{
	relay_join(relay);
	for (unsigned int i = 0; i < relay->connection_count; i++)
		connection_free(&relay->connections[i]);
	if (relay->over_fd >= 0)
		close(relay->over_fd);
	pthread_cond_destroy(&relay->changed);
	pthread_mutex_destroy(&relay->lock);
	vmferry_session_close(&relay->session);
}
