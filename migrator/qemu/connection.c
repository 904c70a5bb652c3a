/* SPDX-License-Identifier: MIT */
/*
 * A connection of QEMU's. What the peer has sent for it waits in a queue, of which the peer keeps
 * the length below RELAY_WINDOW_BYTES by itself: it is given credit back as QEMU takes bytes.
 */
#include "connection.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "moment.h"

#define WAIT_NS (10 * NS_PER_S)
/*
 * What a message costs beside its bytes, so that the number of messages under way is bounded, too.
 */
#define PIECE_BYTES 256u
/* Pieces that need no credit; there are a few in a connection's life. */
#define FREE_PIECES 64u
/* Credit is given back in amounts that are worth a message, unless nothing else is under way. */
#define CREDIT_BYTES (RELAY_WINDOW_BYTES / 4)
#define COPY_BYTES   (256u << 10)

struct piece {
	struct piece *next;
	uint32_t type;	   /* PEER_BYTES, PEER_CLOSE or PEER_FENCE */
	uint32_t fence[2]; /* its epoch, and whether it is the last one */
	size_t length;
	uint8_t *data;
};

int connection_new(struct relay *relay, int fd, struct connection **connection)
{
	struct connection *c = calloc(1, sizeof(*c));

	if (c == NULL)
		return -ENOMEM;
	c->pending = malloc(RELAY_PENDING_BYTES);
	if (c->pending == NULL) {
		free(c);
		return -ENOMEM;
	}
	c->relay = relay;
	c->fd = fd;
	c->last = &c->first;
	*connection = c;
	return 0;
}

void connection_free(struct connection **connection)
{
	struct connection *c = *connection;
	struct piece *piece;

	while ((piece = c->first) != NULL) {
		c->first = piece->next;
		free(piece->data);
		free(piece);
	}
	close(c->fd);
	free(c->pending);
	free(c);
	*connection = NULL;
}

/* ---- reading --------------------------------------------------------------------------------- */

/* 0, -EINTR at the deadline, or the relay's error. */
static int await(const struct connection *c, short events, uint64_t deadline)
{
	struct pollfd fds[2] = {{.fd = c->fd, .events = events},
				{.fd = c->relay->over_fd, .events = POLLIN}};
	bool drains = events == POLLIN && c->drains;
	int n = poll(fds, drains ? 1 : 2, moment_poll_ms(deadline));

	if (n < 0 && errno != EINTR)
		return relay_fail(c->relay, -errno, "a connection cannot be waited for: %s",
				  strerror(errno));
	if (!drains && relay_error(c->relay) != 0)
		return relay_error(c->relay);
	return n > 0 && fds[0].revents != 0 ? 0 : -EINTR;
}

static ssize_t take(const struct connection *c, void *data, size_t length)
{
	ssize_t n = recv(c->fd, data, length, MSG_DONTWAIT);

	if (n >= 0)
		return n;
	/* However a QEMU goes away, to its peer it has closed the connection. */
	if (errno == ECONNRESET || errno == EPIPE || errno == ETIMEDOUT)
		return 0;
	return errno == EINTR ? -EAGAIN : -errno;
}

ssize_t connection_recv(struct connection *c, void *data, size_t length, uint64_t deadline)
{
	for (;;) {
		ssize_t n = take(c, data, length);

		if (n >= 0) {
			atomic_fetch_add_explicit(&c->bytes_in, (uint64_t)n, memory_order_relaxed);
			return n;
		}
		if (n == -EAGAIN)
			n = await(c, POLLIN, deadline);
		else
			n = relay_fail(c->relay, (int)n, "QEMU's connection cannot be read: %s",
				       strerror((int)-n));
		if (n < 0)
			return n;
	}
}

int connection_await(struct connection *c, uint64_t deadline)
{
	return await(c, POLLIN, deadline);
}

bool connection_readable(const struct connection *c)
{
	int bytes = 0;

	return ioctl(c->fd, FIONREAD, &bytes) == 0 && bytes > 0;
}

/* ---- to the peer ----------------------------------------------------------------------------- */

static int await_credit(struct connection *c, size_t bytes)
{
	struct relay *relay = c->relay;
	int ret = 0;

	pthread_mutex_lock(&relay->lock);
	/*
	 * How long QEMU at the other end takes is between the QEMUs; a peer that is dead ends the
	 * relay.
	 */
	while (relay_error(relay) == 0 && c->owed > 0 && c->owed + bytes > RELAY_WINDOW_BYTES)
		relay_await(relay, vmferry_now() + WAIT_NS);
	ret = relay_error(relay);
	if (ret == 0)
		c->owed += bytes;
	pthread_mutex_unlock(&relay->lock);
	return ret;
}

static int send_piece(struct connection *c, const uint8_t *data, size_t length)
{
	int ret = await_credit(c, length + PIECE_BYTES);

	return ret < 0 ? ret : relay_send(c->relay, PEER_BYTES + c->number, data, length);
}

int connection_flush(struct connection *c)
{
	size_t length = c->pending_bytes;

	c->pending_bytes = 0;
	return length == 0 ? 0 : send_piece(c, c->pending, length);
}

int connection_send(struct connection *c, const void *data, size_t length)
{
	const uint8_t *at = data;
	int ret = connection_flush(c);

	while (ret == 0 && length > 0) {
		size_t n = length < RELAY_WINDOW_BYTES / 4 ? length : RELAY_WINDOW_BYTES / 4;

		ret = send_piece(c, at, n);
		at += n;
		length -= n;
	}
	return ret;
}

int connection_put(struct connection *c, const void *data, size_t length)
{
	int ret = 0;

	if (length > RELAY_PENDING_BYTES - c->pending_bytes)
		ret = connection_flush(c);
	if (ret < 0 || length >= RELAY_PENDING_BYTES)
		return ret < 0 ? ret : connection_send(c, data, length);
	memcpy(c->pending + c->pending_bytes, data, length);
	c->pending_bytes += length;
	return 0;
}

int connection_fence(struct connection *c, uint32_t epoch, bool last)
{
	uint8_t numbers[8];
	int ret = connection_flush(c);

	peer_numbers_encode((const uint32_t[]){epoch, last}, 2, numbers);
	return ret < 0 ? ret
		       : relay_send(c->relay, PEER_FENCE + c->number, numbers, sizeof(numbers));
}

int relay_copy(struct connection *c)
{
	uint8_t *buffer = malloc(COPY_BYTES);
	ssize_t n;

	if (buffer == NULL)
		return relay_fail(c->relay, -ENOMEM, "no memory for a connection");
	do {
		n = connection_recv(c, buffer, COPY_BYTES, vmferry_now() + WAIT_NS);
		if (n > 0)
			n = connection_send(c, buffer, (size_t)n) < 0 ? relay_error(c->relay) : n;
	} while (n > 0 || n == -EINTR);
	free(buffer);
	return (int)n;
}

/* Reads and drops what QEMU still sends to a relay that is over, until it closes. */
static void drain(struct connection *c)
{
	static const uint64_t limit = 600 * NS_PER_S;
	uint64_t deadline = vmferry_now() + limit;
	uint8_t buffer[4096];
	ssize_t n;

	c->drains = true;
	do
		n = connection_recv(c, buffer, sizeof(buffer), vmferry_now() + NS_PER_S);
	while (vmferry_now() < deadline && (n > 0 || n == -EINTR) && !atomic_load(&c->relay->stop));
}

static void *read_main(void *arg)
{
	struct connection *c = arg;
	struct relay *relay = c->relay;
	int ret = relay->ops->read != NULL ? relay->ops->read(relay->ctx, c) : relay_copy(c);

	if (ret == 0)
		ret = connection_flush(c);
	if (ret == 0)
		relay_send(relay, PEER_CLOSE + c->number, NULL, 0);
	pthread_mutex_lock(&relay->lock);
	c->ended_here = true;
	pthread_cond_broadcast(&relay->changed);
	ret = relay->lenient ? relay_error(relay) : 0;
	pthread_mutex_unlock(&relay->lock);
	if (ret < 0)
		drain(c);
	pthread_mutex_lock(&relay->lock);
	c->read_over = true;
	pthread_cond_broadcast(&relay->changed);
	pthread_mutex_unlock(&relay->lock);
	return NULL;
}

/* ---- to QEMU --------------------------------------------------------------------------------- */

static void piece_free(struct piece *piece)
{
	free(piece->data);
	free(piece);
}

/*
 * A peer that does not keep within its window, or goes on behind a CLOSE, would fill this process'
 * memory.
 */
static int enqueue(struct connection *c, struct piece *piece)
{
	bool fits;

	pthread_mutex_lock(&c->relay->lock);
	c->unpaid += piece->length + PIECE_BYTES;
	fits = !c->closed_there && c->unpaid <= RELAY_WINDOW_BYTES + FREE_PIECES * PIECE_BYTES;
	c->closed_there |= piece->type == PEER_CLOSE;
	if (fits) {
		*c->last = piece;
		c->last = &piece->next;
		pthread_cond_broadcast(&c->relay->changed);
	}
	pthread_mutex_unlock(&c->relay->lock);
	if (fits)
		return 0;
	piece_free(piece);
	return relay_fail(c->relay, -EPROTO, "the other end sends more than it may");
}

static int queue(struct connection *c, uint32_t type, struct vmferry_message *m)
{
	struct piece *piece = calloc(1, sizeof(*piece));

	if (piece == NULL)
		return relay_fail(c->relay, -ENOMEM, "no memory for a message");
	piece->type = type;
	if (type == PEER_FENCE && c->relay->ops->fence == NULL) {
		free(piece);
		return relay_fail(c->relay, -EPROTO, "a fence from the destination");
	}
	if (type == PEER_FENCE && peer_numbers_decode(m->data, m->length, piece->fence, 2) < 0) {
		free(piece);
		return relay_fail(c->relay, -EPROTO, "a fence without a number");
	}
	if (type == PEER_BYTES) {
		piece->data = m->data;
		piece->length = m->length;
		m->data = NULL;
		m->length = 0;
	}
	return enqueue(c, piece);
}

static int take_credit(struct connection *c, const struct vmferry_message *m)
{
	uint32_t bytes = 0;
	int ret = peer_numbers_decode(m->data, m->length, &bytes, 1);

	pthread_mutex_lock(&c->relay->lock);
	if (ret == 0 && bytes > c->owed)
		ret = -EPROTO;
	if (ret == 0)
		c->owed -= bytes;
	pthread_cond_broadcast(&c->relay->changed);
	pthread_mutex_unlock(&c->relay->lock);
	return ret < 0 ? relay_fail(c->relay, ret, "more credit than there is to give") : 0;
}

int connection_message(struct connection *c, struct vmferry_message *m)
{
	uint32_t type = m->type & PEER_MASK;

	return type == PEER_CREDIT ? take_credit(c, m) : queue(c, type, m);
}

/* The next piece, NULL when the relay is over. */
static struct piece *next_piece(struct connection *c)
{
	struct relay *relay = c->relay;
	struct piece *piece;

	pthread_mutex_lock(&relay->lock);
	while (c->first == NULL && relay_error(relay) == 0)
		relay_await(relay, vmferry_now() + WAIT_NS);
	piece = relay_error(relay) == 0 ? c->first : NULL;
	if (piece != NULL) {
		c->first = piece->next;
		if (c->first == NULL)
			c->last = &c->first;
	}
	pthread_mutex_unlock(&relay->lock);
	return piece;
}

/*
 * All of it, or as much as QEMU takes: a QEMU that has closed is told to the peer by the reading
 * thread.
 */
static int give(struct connection *c, const struct piece *piece)
{
	size_t at = 0;

	while (at < piece->length) {
		ssize_t n = send(c->fd, piece->data + at, piece->length - at,
				 MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n >= 0) {
			at += (size_t)n;
			atomic_fetch_add_explicit(&c->bytes_out, (uint64_t)n, memory_order_relaxed);
			continue;
		}
		if (errno != EAGAIN && errno != EINTR) {
			atomic_store(&c->lost, true);
			return 0;
		}
		if (relay_error(c->relay) != 0)
			return relay_error(c->relay);
		n = await(c, POLLOUT, vmferry_now() + WAIT_NS);
		if (n < 0 && n != -EINTR)
			return (int)n;
	}
	return 0;
}

static int give_credit(struct connection *c, uint32_t *bytes)
{
	uint8_t number[4];
	bool worth;

	pthread_mutex_lock(&c->relay->lock);
	worth = *bytes > 0 && (c->first == NULL || *bytes >= CREDIT_BYTES);
	if (worth)
		c->unpaid -= *bytes;
	pthread_mutex_unlock(&c->relay->lock);
	if (!worth)
		return 0;
	peer_numbers_encode(bytes, 1, number);
	*bytes = 0;
	return relay_send(c->relay, PEER_CREDIT + c->number, number, sizeof(number));
}

static int handle(struct connection *c, const struct piece *piece, uint32_t *credit)
{
	int ret = 0;

	switch (piece->type) {
	case PEER_BYTES:
		ret = give(c, piece);
		*credit += (uint32_t)piece->length + PIECE_BYTES;
		break;
	case PEER_FENCE:
		ret = c->relay->ops->fence(c->relay->ctx, piece->fence[0], piece->fence[1] != 0);
		pthread_mutex_lock(&c->relay->lock);
		c->unpaid -= PIECE_BYTES;
		pthread_mutex_unlock(&c->relay->lock);
		break;
	default:
		/*
		 * As the peer's QEMU did: both directions at once. What was written before stays
		 * readable.
		 */
		shutdown(c->fd, SHUT_RDWR);
		break;
	}
	return ret < 0 ? ret : give_credit(c, credit);
}

static void *write_main(void *arg)
{
	struct connection *c = arg;
	struct piece *piece;
	uint32_t credit = 0;
	bool closed = false;
	int ret = 0;

	while (ret == 0 && !closed && (piece = next_piece(c)) != NULL) {
		ret = handle(c, piece, &credit);
		closed = piece->type == PEER_CLOSE;
		piece_free(piece);
	}
	pthread_mutex_lock(&c->relay->lock);
	c->ended_there = closed;
	pthread_cond_broadcast(&c->relay->changed);
	pthread_mutex_unlock(&c->relay->lock);
	return NULL;
}

int connection_start(struct connection *c)
{
	int ret = pthread_create(&c->writer, NULL, write_main, c);

	c->has_writer = ret == 0;
	if (ret == 0) {
		ret = pthread_create(&c->reader, NULL, read_main, c);
		c->has_reader = ret == 0;
	}
	return ret == 0 ? 0
			: relay_fail(c->relay, -ret, "a thread cannot be started: %s",
				     strerror(ret));
}

void connection_join(struct connection *c)
{
	if (c->has_reader)
		pthread_join(c->reader, NULL);
	if (c->has_writer)
		pthread_join(c->writer, NULL);
}
