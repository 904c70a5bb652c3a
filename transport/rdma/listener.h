/* SPDX-License-Identifier: MIT */
/*
 * Where the destination's connections arrive: the functions of rdma_ops with these names, see
 * transport/ops.h.
 */
#ifndef RDMA_LISTENER_H
#define RDMA_LISTENER_H

#include "transport/ops.h"

int rdma_listener_open(const struct vmferry_transport_options *options, const struct address *bound,
		       struct lane_listener **listener);
int rdma_listener_fd(const struct lane_listener *listener);
void rdma_listener_describe(const struct lane_listener *listener, struct lane_addresses *address);
void rdma_listener_event(struct lane_listener *listener, const struct lane_admission *admission);
void rdma_listener_close(struct lane_listener *listener);

#endif
