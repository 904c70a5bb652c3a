/* SPDX-License-Identifier: MIT */
/*
 * The ports of this host's devices. Nothing is logged: who asks wants to know, and to have no
 * device is no failure.
 */
#include <errno.h>
#include <infiniband/verbs.h>
#include <stdio.h>

#include <vmferry/rdma.h>

#include "transport/rdma/rdma.h"
#include "transport/rdma/sysfs.h"

static void fill_device(struct vmferry_rdma_port *port, const struct ibv_device_attr_ex *attr)
{
	port->odp = rdma_has_odp(&attr->odp_caps);
	port->max_qp_wr = attr->orig_attr.max_qp_wr > 0 ? (uint32_t)attr->orig_attr.max_qp_wr : 0;
	port->max_mr_size = attr->orig_attr.max_mr_size;
}

static void fill_port(struct vmferry_rdma_port *port, struct ibv_context *context)
{
	struct ibv_port_attr attr;
	int error = ibv_query_port(context, (uint8_t)port->port, &attr);

	if (error != 0) {
		port->error = -error;
		return;
	}
	port->active_mtu = 128u << attr.active_mtu;
	port->max_mtu = 128u << attr.max_mtu;
	port->max_msg = attr.max_msg_sz;
}

static void tell(struct vmferry_rdma_port *port, vmferry_rdma_port_fn fn, void *ctx)
{
	rdma_sysfs_port(RDMA_CLASS, port);
	fn(ctx, port);
}

/* One port is told of a device that cannot be opened: how many it has is not known. */
static int tell_closed(struct vmferry_rdma_port *port, int error, vmferry_rdma_port_fn fn,
		       void *ctx)
{
	port->port = 1;
	port->error = error;
	tell(port, fn, ctx);
	return 1;
}

static int tell_device(struct ibv_device *device, vmferry_rdma_port_fn fn, void *ctx)
{
	struct vmferry_rdma_port port = {.size = sizeof(port)};
	struct ibv_device_attr_ex attr = {0};
	struct ibv_context *context;
	int count;
	int error;

	snprintf(port.device, sizeof(port.device), "%s", ibv_get_device_name(device));
	/* iWARP cannot say that writes are placed; others have no reliable connections at all. */
	if (device->transport_type != IBV_TRANSPORT_IB)
		return tell_closed(&port, -EOPNOTSUPP, fn, ctx);
	errno = 0;
	context = ibv_open_device(device);
	if (context == NULL)
		return tell_closed(&port, errno == 0 ? -EIO : -errno, fn, ctx);
	error = ibv_query_device_ex(context, NULL, &attr);
	count = error != 0 ? tell_closed(&port, -error, fn, ctx) : attr.orig_attr.phys_port_cnt;
	for (int i = 1; error == 0 && i <= count; i++) {
		struct vmferry_rdma_port one = port;

		one.port = (unsigned int)i;
		fill_device(&one, &attr);
		fill_port(&one, context);
		tell(&one, fn, ctx);
	}
	ibv_close_device(context);
	return count;
}

int vmferry_rdma_ports(vmferry_rdma_port_fn fn, void *ctx)
{
	struct ibv_device **list;
	int found = 0;
	int count = 0;

	errno = 0;
	list = ibv_get_device_list(&count);
	if (list == NULL)
		return errno == 0 ? -ENODEV : -errno;
	for (int i = 0; i < count; i++)
		found += tell_device(list[i], fn, ctx);
	ibv_free_device_list(list);
	return found == 0 ? -ENODEV : found;
}

int vmferry_rdma_gids(const char *device, unsigned int port, vmferry_rdma_gid_fn fn, void *ctx)
{
	return rdma_sysfs_gids(RDMA_CLASS, device, port, fn, ctx);
}
