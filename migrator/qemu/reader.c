/* SPDX-License-Identifier: MIT */
#include "reader.h"

#include <errno.h>
#include <string.h>

#include "moment.h"

#define WAIT_NS (10 * NS_PER_S)
/* Below this the rest of a segment is not worth a system call. */
#define READ_MIN (2ul * STREAM_PAYLOAD_MAX)

static int next_segment(struct reader *r)
{
	const uint8_t *rest = reader_data(r);
	size_t length = reader_left(r);
	int ret = ring_next(r->ring);

	if (ret < 0)
		return ret;
	memcpy(ring_segment(r->ring), rest, length);
	r->at = 0;
	r->have = length;
	return 0;
}

int reader_fill(struct reader *r)
{
	size_t fill = ring_segment_fill(r->ring);
	ssize_t n;
	int ret = ring_flush(r->ring);

	if (ret == 0)
		ret = connection_flush(r->connection);
	/* A segment of which nothing has gone to lanes is simply longer. */
	if (ret == 0 && r->at > 0 && (r->at >= fill || PEER_SEGMENT_BYTES - r->have < READ_MIN))
		ret = next_segment(r);
	if (ret < 0)
		return ret;
	do
		n = connection_recv(r->connection, ring_segment(r->ring) + r->have,
				    PEER_SEGMENT_BYTES - r->have, vmferry_now() + WAIT_NS);
	while (n == -EINTR);
	if (n > 0)
		r->have += (size_t)n;
	return n > 0 ? 1 : (int)n;
}

int reader_need(struct reader *r, size_t length)
{
	int ret = 1;

	while (ret > 0 && reader_left(r) < length)
		ret = reader_fill(r);
	return ret;
}

int reader_copy(struct reader *r)
{
	int ret = connection_send(r->connection, reader_data(r), reader_left(r));

	r->at = r->have;
	return ret < 0 ? ret : relay_copy(r->connection);
}
