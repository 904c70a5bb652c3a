/* SPDX-License-Identifier: MIT */
/*
 * Messages over a byte stream: {u32 type, u32 length}, little-endian, then the bytes. The stream
 * lies behind a small ops table, so that something that encrypts can be put under it.
 *
 * THREADS  Sending and receiving are independent; each is one thread's at a time.
 */
#ifndef TRANSPORT_CHANNEL_H
#define TRANSPORT_CHANNEL_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <vmferry/transport.h>

#define CHANNEL_HEADER 8
/* Above the callers' types are those of the transport's own. */
#define CHANNEL_TYPE_MAX (2 * VMFERRY_MESSAGE_TYPE_MAX + 1)

struct channel;

/*
 * One attempt each that does not block: bytes moved (more than 0), -EAGAIN, -ECONNRESET, or another
 * error.
 */
struct channel_ops {
	/* With @more, something follows at once and this may wait for it. */
	ssize_t (*send_some)(struct channel *channel, const void *data, size_t length, bool more);
	ssize_t (*recv_some)(struct channel *channel, void *data, size_t length);
};

struct channel {
	const struct channel_ops *ops;
	int fd;		   /* owned */
	uint32_t type_max; /* CHANNEL_TYPE_MAX where the transport has messages of its own */

	/* The message that is coming in; it survives a receive that timed out. */
	uint8_t header[CHANNEL_HEADER];
	size_t have; /* of header, then of the data */
	bool in_data;
	struct vmferry_message message;
};

/* A channel over a plain socket; takes the fd, which must not block. */
void channel_init(struct channel *channel, int fd);

/* Ends the connection so that every wait on it ends. Any thread. */
void channel_shutdown(struct channel *channel);
void channel_close(struct channel *channel);

/*
 * -ETIMEDOUT: nothing was sent. -ETIME: the deadline came when a part was sent, which leaves the
 * stream unusable.
 */
int channel_send(struct channel *channel, uint32_t type, const void *data, size_t length,
		 uint64_t deadline);

/*
 * -ETIMEDOUT loses nothing. -EMSGSIZE, -EPROTO: the peer broke the protocol; the stream is
 * unusable.
 */
int channel_recv(struct channel *channel, struct vmferry_message *message, uint64_t deadline);

#endif
