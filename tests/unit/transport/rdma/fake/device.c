/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nic.h"

/* Addresses that agree in this many bytes are on one network: 24 bits of IPv4, 64 of IPv6. */
#define NETWORK_BYTES_V4 15
#define NETWORK_BYTES_V6 8

static void fill_attributes(struct ibv_device_attr *attr)
{
	const struct fake_limits *limits = &nic.limits;

	memset(attr, 0, sizeof(*attr));
	strcpy(attr->fw_ver, "0.0");
	attr->max_mr_size = limits->max_mr_size;
	attr->page_size_cap = 4096;
	attr->max_qp = 1024;
	attr->max_qp_wr = (int)limits->max_qp_wr;
	attr->max_sge = (int)limits->max_sge;
	attr->max_sge_rd = (int)limits->max_sge;
	attr->max_cq = 1024;
	attr->max_cqe = (int)limits->max_cqe;
	attr->max_mr = (int)limits->max_mr;
	attr->max_pd = 1024;
	attr->max_qp_rd_atom = limits->max_reads_in;
	attr->max_res_rd_atom = limits->max_reads_in;
	attr->max_qp_init_rd_atom = limits->max_reads_out;
	attr->max_pkeys = 1;
	attr->local_ca_ack_delay = 15;
	attr->phys_port_cnt = 1;
}

static int query_device_ex(struct ibv_context *context,
			   const struct ibv_query_device_ex_input *input,
			   struct ibv_device_attr_ex *attr, size_t size)
{
	int error;

	(void)input;
	nic_lock();
	error = nic_scripted(FAKE_QUERY_DEVICE);
	if (error == 0 && nic_gone(context))
		error = EIO;
	if (error == 0) {
		memset(attr, 0, size);
		fill_attributes(&attr->orig_attr);
		if (nic.limits.on_demand) {
			attr->odp_caps.general_caps = IBV_ODP_SUPPORT;
			attr->odp_caps.per_transport_caps.rc_odp_caps =
				IBV_ODP_SUPPORT_SEND | IBV_ODP_SUPPORT_RECV |
				IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
		}
	}
	nic_unlock();
	return error;
}

static struct nic_context *context_new(struct nic_device *device)
{
	struct nic_context *context = nic_alloc(1, sizeof(*context));

	context->device = device;
	context->extended.context.device = &device->ibv;
	context->extended.context.ops.poll_cq = nic_poll_cq;
	context->extended.context.ops.req_notify_cq = nic_req_notify_cq;
	context->extended.context.ops.post_send = fake_post_send;
	context->extended.context.ops.post_recv = fake_post_recv;
	context->extended.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	context->extended.sz = sizeof(context->extended);
	context->extended.query_device_ex = query_device_ex;
	context->extended.context.cmd_fd = -1;
	context->extended.context.num_comp_vectors = 2;
	pthread_mutex_init(&context->extended.context.mutex, NULL);
	TAILQ_INIT(&context->events);
	latch_open(&context->latch);
	context->extended.context.async_fd = context->latch.fd;
	LIST_INSERT_HEAD(&device->contexts, context, link);
	return context;
}

static void context_free(struct nic_context *context)
{
	struct nic_async *event;

	while ((event = TAILQ_FIRST(&context->events)) != NULL) {
		TAILQ_REMOVE(&context->events, event, link);
		free(event);
	}
	LIST_REMOVE(context, link);
	latch_close(&context->latch);
	pthread_mutex_destroy(&context->extended.context.mutex);
	free(context);
}

static unsigned int device_make(void)
{
	unsigned int number = nic.device_count++;
	struct nic_device *device = &nic.devices[number];

	if (number >= NIC_DEVICES)
		nic_misuse("too many devices");
	memset(device, 0, sizeof(*device));
	device->number = number;
	LIST_INIT(&device->contexts);
	device->ibv.node_type = IBV_NODE_CA;
	device->ibv.transport_type = IBV_TRANSPORT_IB;
	snprintf(device->ibv.name, sizeof(device->ibv.name), "fake%u", number);
	snprintf(device->ibv.dev_name, sizeof(device->ibv.dev_name), "ufake%u", number);
	snprintf(device->ibv.ibdev_path, sizeof(device->ibv.ibdev_path),
		 "/sys/class/infiniband/fake%u", number);
	device->context = context_new(device);
	return number;
}

static void address_add(unsigned int number, const char *text)
{
	struct nic_device *device = &nic.devices[number];
	struct in6_addr *address = &device->addresses[device->address_count++];

	if (number >= nic.device_count || device->address_count > NIC_ADDRESSES)
		nic_misuse("no such device, or it has too many addresses");
	memset(address, 0, sizeof(*address));
	if (inet_pton(AF_INET6, text, address) == 1)
		return;
	memset(&address->s6_addr[10], 0xff, 2);
	if (inet_pton(AF_INET, text, &address->s6_addr[12]) != 1)
		nic_misuse("not an address");
}

void nic_devices_make(void)
{
	nic.device_count = 0;
	device_make();
	address_add(0, "10.99.0.1");
	address_add(0, "fd99::1");
	device_make();
	address_add(1, "10.99.1.1");
}

void nic_devices_free(void)
{
	for (unsigned int i = 0; i < nic.device_count; i++)
		context_free(nic.devices[i].context);
}

unsigned int fake_device_add(void)
{
	unsigned int number;

	nic_lock();
	number = device_make();
	nic_unlock();
	return number;
}

void fake_address_add(unsigned int device, const char *address)
{
	nic_lock();
	address_add(device, address);
	nic_unlock();
}

static struct nic_device *device_matching(const struct in6_addr *address, size_t bytes)
{
	for (unsigned int i = 0; i < nic.device_count; i++) {
		struct nic_device *device = &nic.devices[i];

		for (unsigned int j = 0; j < device->address_count && !device->removed; j++)
			if (memcmp(&device->addresses[j], address, bytes) == 0)
				return device;
	}
	return NULL;
}

struct nic_device *nic_device_of(const struct in6_addr *address)
{
	return device_matching(address, sizeof(*address));
}

struct nic_device *nic_device_towards(const struct in6_addr *address)
{
	bool v4 = IN6_IS_ADDR_V4MAPPED(address);

	return device_matching(address, v4 ? NETWORK_BYTES_V4 : NETWORK_BYTES_V6);
}

bool nic_gone(const struct ibv_context *context)
{
	const struct nic_context *our = nic_context_of(context);

	if (our->device->closed && our == our->device->context)
		nic_misuse("a context used that librdmacm has closed");
	return our->device->removed;
}

int nic_destroyed(const struct ibv_context *context)
{
	return nic_gone(context) ? EIO : 0;
}

void nic_context_use(const struct ibv_context *context)
{
	nic_context_of(context)->objects++;
}

void nic_context_drop(const struct ibv_context *context)
{
	nic_gone(context);
	nic_context_of(context)->objects--;
}

void nic_device_get(struct nic_device *device)
{
	device->users++;
}

void nic_device_put(struct nic_device *device)
{
	if (--device->users > 0 || !device->removed)
		return;
	/*
	 * The real one does so when it has seen that the device is gone, which any other thread may
	 * make it look for.
	 */
	if (device->context->objects > 0)
		nic_misuse("the last identifier of a removed device destroyed before what was made "
			   "of its context");
	device->closed = true;
}

/* ---- libibverbs ------------------------------------------------------------------------------ */

struct ibv_device **ibv_get_device_list(int *count)
{
	struct ibv_device **list;
	int found = 0;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_GET_DEVICES);
	if (error != 0)
		return nic_null(error);
	list = nic_alloc(NIC_DEVICES + 1, sizeof(struct ibv_device *));
	for (unsigned int i = 0; i < nic.device_count; i++)
		if (!nic.devices[i].removed)
			list[found++] = &nic.devices[i].ibv;
	if (count != NULL)
		*count = found;
	nic.counts.live.device_lists++;
	nic_unlock();
	return list;
}

void ibv_free_device_list(struct ibv_device **list)
{
	nic_lock();
	nic.counts.live.device_lists--;
	nic_unlock();
	free(list);
}

const char *ibv_get_device_name(struct ibv_device *device)
{
	return device->name;
}

__be64 ibv_get_device_guid(struct ibv_device *device)
{
	return htobe64(0x5054000000000000 + container(device, struct nic_device, ibv)->number);
}

int ibv_get_device_index(struct ibv_device *device)
{
	return (int)container(device, struct nic_device, ibv)->number;
}

struct ibv_context *ibv_open_device(struct ibv_device *device)
{
	struct nic_device *our = container(device, struct nic_device, ibv);
	struct nic_context *context;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_OPEN_DEVICE);
	if (error == 0 && our->removed)
		error = ENODEV;
	if (error != 0)
		return nic_null(error);
	context = context_new(our);
	nic.counts.live.contexts++;
	nic_unlock();
	return &context->extended.context;
}

int ibv_close_device(struct ibv_context *context)
{
	struct nic_context *our = nic_context_of(context);

	nic_lock();
	if (our == our->device->context)
		nic_misuse("closing librdmacm's context");
	context_free(our);
	nic.counts.live.contexts--;
	nic_unlock();
	return 0;
}

int ibv_query_device(struct ibv_context *context, struct ibv_device_attr *attr)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_QUERY_DEVICE);
	if (error == 0 && nic_gone(context))
		error = EIO;
	if (error == 0)
		fill_attributes(attr);
	nic_unlock();
	return error;
}

/*
 * The inline function of the header has cleared all of a struct ibv_port_attr, which begins like
 * the old one.
 */
int ibv_query_port(struct ibv_context *context, uint8_t number, struct _compat_ibv_port_attr *old)
{
	struct ibv_port_attr *attr = (struct ibv_port_attr *)old;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_QUERY_PORT);
	if (error == 0 && nic_gone(context))
		error = EIO;
	if (error == 0 && number != 1)
		error = EINVAL;
	if (error == 0) {
		attr->state = nic.limits.state;
		attr->max_mtu = IBV_MTU_4096;
		attr->active_mtu = nic.limits.active_mtu;
		attr->gid_tbl_len = NIC_ADDRESSES;
		attr->max_msg_sz = nic.limits.max_message;
		attr->pkey_tbl_len = 1;
		attr->active_width = 2; /* four lanes of 25 Gb/s */
		attr->active_speed = 32;
		attr->phys_state = 5;
		attr->link_layer = IBV_LINK_LAYER_ETHERNET;
	}
	nic_unlock();
	return error;
}

int ibv_query_gid(struct ibv_context *context, uint8_t port, int index, union ibv_gid *gid)
{
	const struct nic_device *device = nic_context_of(context)->device;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_QUERY_GID);
	if (error == 0 && (port != 1 || index < 0 || index >= NIC_ADDRESSES))
		error = EINVAL;
	if (error == 0) {
		memset(gid, 0, sizeof(*gid));
		if ((unsigned int)index < device->address_count)
			memcpy(gid->raw, &device->addresses[index], sizeof(gid->raw));
	}
	return nic_minus(error);
}

int ibv_fork_init(void)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_FORK_INIT);
	if (error == 0 && nic.limits.forking == IBV_FORK_DISABLED)
		nic.limits.forking = IBV_FORK_ENABLED;
	nic_unlock();
	return error;
}

enum ibv_fork_status ibv_is_fork_initialized(void)
{
	enum ibv_fork_status status;

	nic_lock();
	status = nic.limits.forking;
	nic_unlock();
	return status;
}

/* ---- librdmacm's list ------------------------------------------------------------------------ */

struct ibv_context **rdma_get_devices(int *count)
{
	struct ibv_context **list;
	int found = 0;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_GET_DEVICES);
	if (error != 0)
		return nic_null(error);
	list = nic_alloc(NIC_DEVICES + 1, sizeof(struct ibv_context *));
	for (unsigned int i = 0; i < nic.device_count; i++) {
		if (nic.devices[i].removed)
			continue;
		nic_device_get(&nic.devices[i]);
		list[found++] = &nic.devices[i].context->extended.context;
	}
	if (count != NULL)
		*count = found;
	nic.counts.live.device_lists++;
	nic_unlock();
	return list;
}

void rdma_free_devices(struct ibv_context **list)
{
	nic_lock();
	for (unsigned int i = 0; list[i] != NULL; i++)
		nic_device_put(nic_context_of(list[i])->device);
	nic.counts.live.device_lists--;
	nic_unlock();
	free(list);
}
