/* SPDX-License-Identifier: MIT */
/*
 * Where the destination's connections arrive: the functions of rdma_ops with these names, see
 * transport/ops.h.
 */
#ifndef RDMA_DOOR_H
#define RDMA_DOOR_H

#include "transport/ops.h"

int rdma_door_open(const struct vmferry_transport_options *options, const struct address *bound,
		   struct lane_door **door);
int rdma_door_fd(const struct lane_door *door);
void rdma_door_describe(const struct lane_door *door, struct door_address *address);
void rdma_door_event(struct lane_door *door, const struct door_guard *guard);
void rdma_door_close(struct lane_door *door);

#endif
