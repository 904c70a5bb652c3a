/* SPDX-License-Identifier: MIT */
/*
 * The source's half of reading: one request at a time, its bytes received straight into the memory.
 */
#include <errno.h>
#include <string.h>

#include "transport/tcp/tcp.h"

static int await_data(struct tcp_lane *l, uint64_t deadline)
{
	for (;;) {
		int ret = tcp_hear(l);

		if (ret == 0)
			ret = socket_wait(l->fd, POLLIN, deadline);
		if (ret != 0)
			return ret < 0 ? ret : 0;
	}
}

static int read_some(struct tcp_lane *l, uint8_t *to, uint64_t address, uint64_t length,
		     uint64_t deadline)
{
	uint8_t extent[FRAME_EXTENT];
	int ret;

	wire_put_u64(extent, address);
	wire_put_u64(extent + 8, length);
	tcp_begin_frame(l, &(struct frame_head){.kind = FRAME_READ, .count = 1}, extent);
	l->out.reading = length;
	ret = tcp_flush(l, deadline);
	if (ret == 0)
		ret = await_data(l, deadline);
	if (ret == 0)
		ret = socket_recv_all(l->fd, to, length, deadline);
	l->out.reading = 0;
	if (ret == 0)
		return 0;
	/*
	 * The answer, or the rest of it, would come when nobody expects it: the lane cannot be used
	 * any more.
	 */
	return session_fail(l->lane.session, ret, "lane %u: cannot read 0x%llx bytes at 0x%llx: %s",
			    l->lane.number, (unsigned long long)length, (unsigned long long)address,
			    strerror(-ret));
}

int tcp_read(struct lane *lane, uint8_t *to, uint64_t address, uint64_t length, uint64_t deadline)
{
	struct tcp_lane *l = tcp_lane_of(lane);
	int ret = tcp_flush(l, deadline);

	while (ret == 0 && length > 0) {
		uint64_t n = length < READ_MAX ? length : READ_MAX;

		ret = read_some(l, to, address, n, deadline);
		to += n;
		address += n;
		length -= n;
	}
	return ret;
}
