/* SPDX-License-Identifier: MIT */
/* A lane's own table of the destination's keys, see lane.h. */
#include <errno.h>

#include "common/clock.h"
#include "transport/rdma/lane.h"

static struct lane_key *slot_of(struct lane_keys *keys, uint64_t address)
{
	return &keys->slots[(address >> keys->shift) % LANE_KEYS];
}

static const struct lane_key *keep(struct lane_keys *keys, const struct lane_key *found)
{
	struct lane_key *slot;

	while (keys->shift < 63 && found->length > 1ull << keys->shift)
		keys->shift++;
	slot = slot_of(keys, found->start);
	*slot = *found;
	return slot;
}

static int fetch(struct rdma_lane *l, uint64_t address, uint64_t deadline, struct lane_key *found)
{
	uint64_t end = address;
	int ret = rdma_remote_key(l->rdma, lane_rail(l->rdma, l->lane.number), address, deadline,
				  &found->key, &end);

	/* An end of 0 is the end of all addresses: the difference is right then too. */
	found->length = end - address;
	return ret;
}

static int fetch_late(struct rdma_lane *l, uint64_t address, uint64_t deadline,
		      struct lane_key *found)
{
	uint64_t begun = vmferry_now();
	int ret = lane_ring(l);

	if (ret == 0)
		ret = fetch(l, address, deadline, found);
	counter_add(&l->lane.counters.stall_ns, vmferry_now() - begun);
	return ret;
}

int lane_remote_key(struct rdma_lane *l, uint64_t address, uint64_t deadline,
		    const struct lane_key **key)
{
	struct lane_keys *keys = &l->out.keys;
	struct lane_key found = {.start = address};
	/*
	 * Before the key is looked up: should it become invalid meanwhile, it is forgotten next
	 * time.
	 */
	uint64_t generation = rdma_remote_generation(l->rdma);
	int ret;

	if (keys->generation != generation)
		*keys = (struct lane_keys){.generation = generation};
	*key = slot_of(keys, address);
	if (address - (*key)->start < (*key)->length)
		return 0;
	ret = fetch(l, address, 0, &found);
	if (ret == -ETIMEDOUT && deadline > 0)
		ret = fetch_late(l, address, deadline, &found);
	if (ret == 0)
		*key = keep(keys, &found);
	return ret;
}
