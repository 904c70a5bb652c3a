/* SPDX-License-Identifier: MIT */
/* What the kernel tells of RDMA ports in files, also to those who may not open the device. */
#ifndef RDMA_SYSFS_H
#define RDMA_SYSFS_H

#include <vmferry/rdma.h>

#define RDMA_CLASS "/sys/class/infiniband"

/*
 * The NUMA node of a device below @class, -1 when none is told. Of soft-RoCE, which is no device
 * itself, it is that of the interface below it.
 */
int rdma_sysfs_node(const char *class, const char *device);

/* See vmferry_rdma_gids(); below @class. */
int rdma_sysfs_gids(const char *class, const char *device, unsigned int port,
		    vmferry_rdma_gid_fn fn, void *ctx);

/*
 * Fills in state, link, rate, GIDs, interface, address and NUMA node of @port->port of
 * @port->device, found below @class.
 */
void rdma_sysfs_port(const char *class, struct vmferry_rdma_port *port);

#endif
