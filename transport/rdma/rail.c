/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "transport/rdma/rdma.h"
#include "transport/rdma/sysfs.h"

/*
 * Work requests in a queue: more than this brings nothing, less than that leaves no room for the
 * mailbox.
 */
#define MAX_WR	 512u
#define MIN_WR	 32u
#define MTU_GOOD IBV_MTU_4096

static int failed(const struct rdma_rail *rail, const char *what, int error, const char *remedy)
{
	log_error("rail %s: %s: %s: %s", rail->name, what, strerror(error), remedy);
	return -error;
}

static void note_mtu(const struct rdma_rail *rail, const struct ibv_port_attr *port)
{
	if (port->link_layer == IBV_LINK_LAYER_ETHERNET && port->active_mtu < MTU_GOOD)
		log_warn("rail %s: the MTU of its packets is %u: set the interface's to 4200 or "
			 "more for the full speed",
			 rail->name, 128u << port->active_mtu);
}

/* A device without the extended query has no on-demand paging either. */
static bool can_odp(struct ibv_context *context)
{
	struct ibv_device_attr_ex attr = {0};

	return ibv_query_device_ex(context, NULL, &attr) == 0 && rdma_has_odp(&attr.odp_caps);
}

static uint8_t reads(int device_max)
{
	/* As many as hide a round trip; the field in the CM's messages is a byte. */
	return (uint8_t)(device_max > 16 ? 16 : device_max < 0 ? 0 : device_max);
}

static int query(struct rdma_rail *rail, uint8_t port_number)
{
	struct rdma_limits *l = &rail->limits;
	struct ibv_device_attr device;
	struct ibv_port_attr port;
	int error = ibv_query_device(rail->context, &device);

	if (error == 0)
		error = ibv_query_port(rail->context, port_number, &port);
	if (error != 0)
		return failed(rail, "cannot be queried", error, "see whether ibv_devinfo can");
	if (device.max_qp_wr < (int)MIN_WR || device.max_cqe <= (int)MIN_WR)
		return failed(rail, "its queues are too short", EOPNOTSUPP, "use another device");
	*l = (struct rdma_limits){
		.max_wr = (uint32_t)device.max_qp_wr < MAX_WR ? (uint32_t)device.max_qp_wr : MAX_WR,
		.max_cqe = (uint32_t)device.max_cqe,
		.max_message = port.max_msg_sz,
		.max_mr = device.max_mr_size,
		.max_reads_in = reads(device.max_qp_rd_atom),
		.max_reads_out = reads(device.max_qp_init_rd_atom),
		.odp = rail->session->options.odp && can_odp(rail->context),
	};
	if (rail->session->options.odp && !l->odp)
		log_warn("rail %s: the device has no on-demand paging: memory is pinned",
			 rail->name);
	if (rail->context->device->transport_type == IBV_TRANSPORT_IWARP)
		return failed(rail, "iWARP cannot say that writes are placed", EOPNOTSUPP,
			      "use InfiniBand, RoCE or the transport tcp");
	note_mtu(rail, &port);
	return 0;
}

static void id_free(struct rdma_cm_id *id, struct rdma_event_channel *events)
{
	rdma_destroy_id(id);
	if (events != NULL)
		rdma_destroy_event_channel(events);
}

/*
 * librdmacm closes the context of a device that was removed with the last of its identifiers
 * (rdma-core 44, librdmacm/cma.c, ucma_put_device()), whatever was made of it: memory, protection
 * domain and channels must be gone by then. One identifier is enough.
 */
void rdma_rail_retire(struct rdma_rail *rail, struct rdma_cm_id *id,
		      struct rdma_event_channel *events)
{
	if (rail->context_ref != NULL) {
		id_free(id, events);
		return;
	}
	rail->context_ref = id;
	rail->context_ref_events = events;
}

static void rail_free(struct rdma_rail *rail)
{
	int error;

	if (rail->channel != NULL)
		ibv_destroy_comp_channel(rail->channel);
	error = rail->pd == NULL ? 0 : ibv_dealloc_pd(rail->pd);
	/* EIO: the device was removed, and what was made of it is gone. */
	if (error != 0 && error != EIO)
		log_error("rail %s: its protection domain stays: %s: deregister all memory before "
			  "the session is closed",
			  rail->name, strerror(error));
	if (rail->context_ref != NULL)
		id_free(rail->context_ref, rail->context_ref_events);
	free(rail);
}

static int make(struct rdma_rail *rail, uint8_t port)
{
	int ret = query(rail, port);

	if (ret < 0)
		return ret;
	rail->node = rdma_sysfs_node(RDMA_CLASS, rail->name);
	rail->pd = ibv_alloc_pd(rail->context);
	if (rail->pd == NULL)
		return failed(rail, "no protection domain", errno,
			      "close what else uses the device");
	rail->channel = ibv_create_comp_channel(rail->context);
	if (rail->channel == NULL)
		return failed(rail, "no completion channel", errno,
			      "raise the limit of open files");
	if (fcntl(rail->channel->fd, F_SETFL, O_NONBLOCK) < 0)
		return failed(rail, "completion channel", errno, "report this");
	return 0;
}

/*
 * The source's rails are its devices, in the order of their first use; the destination's are those
 * of its listener.
 */
static unsigned int place_of(const struct rdma_session *session, unsigned int listener_rail,
			     const struct ibv_context *context)
{
	unsigned int i = 0;

	if (!session->session->is_source)
		return listener_rail;
	while (i < session->rail_count && session->rails[i]->context != context)
		i++;
	return i;
}

int rdma_rail_get(struct rdma_session *session, unsigned int listener_rail,
		  struct ibv_context *context, uint8_t port, struct rdma_rail **rail)
{
	unsigned int place = place_of(session, listener_rail, context);
	struct rdma_rail *r;
	int ret;

	if (place >= VMFERRY_RAILS_MAX)
		return -ENOSPC;
	if (session->rails[place] != NULL) {
		*rail = session->rails[place];
		return session->rails[place]->context == context ? 0 : -EXDEV;
	}
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return -ENOMEM;
	r->session = session;
	r->context = context;
	r->index = place;
	snprintf(r->name, sizeof(r->name), "%s", ibv_get_device_name(context->device));
	ret = make(r, port);
	if (ret < 0) {
		rail_free(r);
		return ret;
	}
	session->rails[place] = r;
	if (session->rail_count <= place)
		session->rail_count = place + 1;
	*rail = r;
	return 0;
}

void rdma_rails_free(struct rdma_session *session)
{
	while (session->rail_count > 0) {
		struct rdma_rail *rail = session->rails[--session->rail_count];

		/* A session that is given up while it is made may have gaps. */
		if (rail != NULL)
			rail_free(rail);
	}
}
