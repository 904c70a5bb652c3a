/* SPDX-License-Identifier: MIT */
/*
 * The public functions of lanes: they check the caller's arguments and pass on to the kind of lane
 * that there is.
 */
#include <errno.h>

#include "common/log.h"
#include "transport/session.h"

/* The lane, or NULL with the reason in @ret. */
static struct lane *find_lane(const struct vmferry_session *session, unsigned int number,
			      bool as_source, int *ret)
{
	*ret = session_error(session);
	if (*ret < 0)
		return NULL;
	if (number < session->lane_count && (!as_source || session->is_source))
		return session->lanes[number];
	log_error("session %s: lane %u: %s", session->name, number,
		  number < session->lane_count ? "only the source may use it so"
					       : "there is no such lane");
	*ret = number < session->lane_count ? -EINVAL : -ENOENT;
	return NULL;
}

static int check_range(const struct vmferry_session *session, unsigned int number,
		       const struct vmferry_memory *memory, uint64_t offset, uint64_t length,
		       uint64_t address)
{
	if (memory != NULL && memory->session == session && length > 0 &&
	    memory_holds(memory, offset, length) && length - 1 <= UINT64_MAX - address)
		return 0;
	log_error("session %s: lane %u: offset 0x%llx, 0x%llx bytes, leave the memory that they "
		  "are said to be in",
		  session->name, number, (unsigned long long)offset, (unsigned long long)length);
	return -EINVAL;
}

int vmferry_lane_write(struct vmferry_session *session, unsigned int lane,
		       const struct vmferry_write *writes, unsigned int count, uint64_t deadline)
{
	int ret;
	struct lane *l = find_lane(session, lane, true, &ret);

	if (l == NULL || count == 0)
		return ret;
	if (count > INT32_MAX)
		count = INT32_MAX;
	for (unsigned int i = 0; i < count; i++) {
		const struct vmferry_write *w = &writes[i];

		ret = check_range(session, lane, w->memory, w->offset, w->length, w->address);
		if (ret < 0)
			return ret;
	}
	return session->ops->write(l, writes, count, deadline);
}

int vmferry_lane_fence(struct vmferry_session *session, unsigned int lane, uint32_t epoch,
		       uint64_t deadline)
{
	int ret;
	struct lane *l = find_lane(session, lane, true, &ret);

	return l == NULL ? ret : session->ops->fence(l, epoch, deadline);
}

int vmferry_lane_fence_wait(struct vmferry_session *session, unsigned int lane, uint32_t epoch,
			    uint64_t deadline)
{
	int ret;
	struct lane *l = find_lane(session, lane, true, &ret);

	return l == NULL ? ret : session->ops->fence_wait(l, epoch, deadline);
}

int vmferry_lane_probe(struct vmferry_session *session, unsigned int lane)
{
	int ret;
	struct lane *l = find_lane(session, lane, true, &ret);

	return l == NULL || session->ops->probe == NULL ? ret : session->ops->probe(l);
}

int vmferry_lane_read(struct vmferry_session *session, unsigned int lane,
		      struct vmferry_memory *memory, uint64_t offset, uint64_t address,
		      uint64_t length, uint64_t deadline)
{
	int ret;
	struct lane *l = find_lane(session, lane, true, &ret);

	if (l == NULL)
		return ret;
	ret = check_range(session, lane, memory, offset, length, address);
	if (ret < 0)
		return ret;
	return session->ops->read(l, memory->base + offset, address, length, deadline);
}

int vmferry_lane_fd(const struct vmferry_session *session, unsigned int lane)
{
	if (lane >= session->lane_count)
		return -ENOENT;
	return session->ops->fd(session->lanes[lane]);
}

int vmferry_lane_numa_node(const struct vmferry_session *session, unsigned int lane)
{
	if (lane >= session->lane_count || session->ops->node == NULL)
		return -1;
	return session->ops->node(session->lanes[lane]);
}

int vmferry_lane_stats(const struct vmferry_session *session, unsigned int lane,
		       struct vmferry_lane_stats *stats)
{
	const struct lane_counters *c;

	if (lane >= session->lane_count)
		return -ENOENT;
	c = &session->lanes[lane]->counters;
	*stats = (struct vmferry_lane_stats){
		.bytes = counter_get(&c->bytes),
		.wire_bytes = counter_get(&c->wire_bytes),
		.placed_bytes = counter_get(&c->placed_bytes),
		.writes = counter_get(&c->writes),
		.submissions = counter_get(&c->submissions),
		.stall_ns = counter_get(&c->stall_ns),
		.cpu_ns = counter_get(&c->cpu_ns),
		.requests = counter_get(&c->requests),
		.signals = counter_get(&c->signals),
		.sleeps = counter_get(&c->sleeps),
	};
	return 0;
}
