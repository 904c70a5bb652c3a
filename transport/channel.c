/* SPDX-License-Identifier: MIT */
#include "transport/channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/wire.h"
#include "transport/socket.h"

static ssize_t plain_send(struct channel *channel, const void *data, size_t length, bool more)
{
	return socket_send(channel->fd, data, length, more);
}

static ssize_t plain_recv(struct channel *channel, void *data, size_t length)
{
	return socket_recv(channel->fd, data, length);
}

static const struct channel_ops plain_ops = {
	.send_some = plain_send,
	.recv_some = plain_recv,
};

void channel_init(struct channel *channel, int fd)
{
	*channel =
		(struct channel){.ops = &plain_ops, .fd = fd, .type_max = VMFERRY_MESSAGE_TYPE_MAX};
}

void channel_shutdown(struct channel *channel)
{
	shutdown(channel->fd, SHUT_RDWR);
}

void channel_close(struct channel *channel)
{
	vmferry_message_free(&channel->message);
	if (channel->fd >= 0)
		close(channel->fd);
	channel->fd = -1;
}

void vmferry_message_free(struct vmferry_message *message)
{
	free(message->data);
	*message = (struct vmferry_message){0};
}

/* Sends all of it; @sent counts what was, also on error. */
static int send_all(struct channel *channel, const uint8_t *data, size_t length, bool more,
		    uint64_t deadline, size_t *sent)
{
	size_t at = 0;

	while (at < length) {
		ssize_t n = channel->ops->send_some(channel, data + at, length - at, more);

		if (n == -EAGAIN)
			n = socket_wait(channel->fd, POLLOUT, deadline);
		if (n < 0)
			return (int)n;
		at += (size_t)n;
		*sent += (size_t)n;
	}
	return 0;
}

int channel_send(struct channel *channel, uint32_t type, const void *data, size_t length,
		 uint64_t deadline)
{
	uint8_t first[1024]; /* a small message goes out in one piece */
	size_t inlined = length <= sizeof(first) - CHANNEL_HEADER ? length : 0;
	size_t sent = 0;
	int ret;

	wire_put_u32(first, type);
	wire_put_u32(first + 4, (uint32_t)length);
	if (inlined > 0)
		memcpy(first + CHANNEL_HEADER, data, inlined);
	ret = send_all(channel, first, CHANNEL_HEADER + inlined, inlined < length, deadline, &sent);
	if (ret == 0 && inlined < length)
		ret = send_all(channel, data, length, false, deadline, &sent);
	if (ret == -ETIMEDOUT && sent > 0)
		return -ETIME;
	return ret;
}

/* The header is complete: judge it before anything is allocated for it. */
static int begin_data(struct channel *channel)
{
	struct vmferry_message *m = &channel->message;
	uint32_t length = (uint32_t)wire_get(channel->header + 4, 4);

	m->type = (uint32_t)wire_get(channel->header, 4);
	if (m->type > channel->type_max)
		return -EPROTO;
	if (length > VMFERRY_MESSAGE_MAX)
		return -EMSGSIZE;
	if (length > 0) {
		m->data = malloc(length);
		if (m->data == NULL)
			return -ENOMEM;
	}
	m->length = length;
	channel->have = 0;
	channel->in_data = true;
	return 0;
}

static bool complete(const struct channel *channel)
{
	return channel->in_data && channel->have == channel->message.length;
}

static int recv_step(struct channel *channel)
{
	uint8_t *to = channel->in_data ? channel->message.data : channel->header;
	size_t size = channel->in_data ? channel->message.length : CHANNEL_HEADER;
	ssize_t n = channel->ops->recv_some(channel, to + channel->have, size - channel->have);

	if (n < 0)
		return (int)n;
	channel->have += (size_t)n;
	if (!channel->in_data && channel->have == CHANNEL_HEADER)
		return begin_data(channel);
	return 0;
}

int channel_recv(struct channel *channel, struct vmferry_message *message, uint64_t deadline)
{
	while (!complete(channel)) {
		int ret = recv_step(channel);

		if (ret == -EAGAIN)
			ret = socket_wait(channel->fd, POLLIN, deadline);
		if (ret < 0)
			return ret;
	}
	*message = channel->message;
	channel->message = (struct vmferry_message){0};
	channel->have = 0;
	channel->in_data = false;
	return 0;
}
