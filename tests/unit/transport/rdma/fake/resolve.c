/* SPDX-License-Identifier: MIT */
#include <arpa/inet.h>
#include <errno.h>
#include <string.h>

#include "nic.h"

#define CM_TIMEOUT 19 /* the CM's own choice: 2.1 s */

/* ---- addresses ------------------------------------------------------------------------------- */

bool nic_address_read(const struct sockaddr *address, struct in6_addr *ip, uint16_t *port)
{
	const struct sockaddr_in *v4 = (const void *)address;
	const struct sockaddr_in6 *v6 = (const void *)address;

	memset(ip, 0, sizeof(*ip));
	if (address->sa_family == AF_INET6) {
		*ip = v6->sin6_addr;
		*port = ntohs(v6->sin6_port);
		return true;
	}
	if (address->sa_family != AF_INET)
		return false;
	*port = ntohs(v4->sin_port);
	/* The wildcard of both families is the same here. */
	if (v4->sin_addr.s_addr != 0) {
		memset(&ip->s6_addr[10], 0xff, 2);
		memcpy(&ip->s6_addr[12], &v4->sin_addr, 4);
	}
	return true;
}

static void address_write(struct sockaddr_storage *to, sa_family_t family,
			  const struct in6_addr *ip, uint16_t port)
{
	struct sockaddr_in *v4 = (void *)to;
	struct sockaddr_in6 *v6 = (void *)to;

	memset(to, 0, sizeof(*to));
	to->ss_family = family;
	if (family == AF_INET6) {
		v6->sin6_addr = *ip;
		v6->sin6_port = htons(port);
	} else {
		memcpy(&v4->sin_addr, &ip->s6_addr[12], 4);
		v4->sin_port = htons(port);
	}
}

static bool is_loopback(const struct in6_addr *ip)
{
	return IN6_IS_ADDR_LOOPBACK(ip) || (IN6_IS_ADDR_V4MAPPED(ip) && ip->s6_addr[12] == 127);
}

static bool is_any(const struct in6_addr *ip)
{
	return IN6_IS_ADDR_UNSPECIFIED(ip);
}

static bool overlap(const struct in6_addr *a, const struct in6_addr *b)
{
	return is_any(a) || is_any(b) || IN6_ARE_ADDR_EQUAL(a, b);
}

/* The first identifier that is at this address, or listens there. */
static struct nic_id *id_at(const struct in6_addr *ip, uint16_t port, bool listening)
{
	struct nic_id *id;

	TAILQ_FOREACH(id, &nic.ids, link)
	{
		struct in6_addr its_ip;
		uint16_t its_port;

		if ((listening && id->step != STEP_LISTENING) ||
		    !nic_address_read(&id->cm.route.addr.src_addr, &its_ip, &its_port))
			continue;
		if (its_port == port && overlap(&its_ip, ip))
			return id;
	}
	return NULL;
}

struct nic_id *nic_listener_at(const struct sockaddr *address)
{
	struct in6_addr ip;
	uint16_t port;

	return nic_address_read(address, &ip, &port) ? id_at(&ip, port, true) : NULL;
}

static void set_device(struct nic_id *id, struct nic_device *device)
{
	nic_device_get(device);
	id->device = device;
	id->cm.verbs = &device->context->extended.context;
	id->cm.port_num = 1;
}

static int bind_to(struct nic_id *id, const struct sockaddr *address)
{
	struct nic_device *device = NULL;
	struct in6_addr ip;
	uint16_t port;

	if (id->step != STEP_IDLE || !nic_address_read(address, &ip, &port))
		return EINVAL;
	if (!is_any(&ip)) {
		device = nic_device_of(&ip);
		if (device == NULL)
			return is_loopback(&ip) ? ENODEV : EADDRNOTAVAIL;
	}
	if (port != 0 && id_at(&ip, port, false) != NULL)
		return EADDRINUSE;
	while (port == 0 || id_at(&ip, port, false) != NULL)
		port = nic.next_port++;
	address_write(&id->cm.route.addr.src_storage, address->sa_family, &ip, port);
	if (device != NULL)
		set_device(id, device);
	id->step = STEP_BOUND;
	return 0;
}

int rdma_bind_addr(struct rdma_cm_id *id, struct sockaddr *address)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_BIND_ADDR);
	if (error == 0)
		error = bind_to(nic_id_of(id), address);
	return nic_minus(error);
}

int rdma_listen(struct rdma_cm_id *id, int backlog)
{
	struct nic_id *our = nic_id_of(id);
	int error;

	nic_lock();
	error = nic_scripted(FAKE_LISTEN);
	if (error == 0 && our->step != STEP_BOUND)
		error = EINVAL;
	if (error == 0) {
		our->step = STEP_LISTENING;
		our->backlog = backlog > 0 ? backlog : 1024;
	}
	return nic_minus(error);
}

__be16 rdma_get_src_port(struct rdma_cm_id *id)
{
	return ((struct sockaddr_in *)(void *)&id->route.addr.src_storage)->sin_port;
}

__be16 rdma_get_dst_port(struct rdma_cm_id *id)
{
	return ((struct sockaddr_in *)(void *)&id->route.addr.dst_storage)->sin_port;
}

/* ---- resolving ------------------------------------------------------------------------------- */

/* Whether the script's failure is one of the step that has come to this. */
static bool is_its_failure(enum rdma_cm_event_type good, enum rdma_cm_event_type bad)
{
	switch (good) {
	case RDMA_CM_EVENT_ADDR_RESOLVED:
		return bad == RDMA_CM_EVENT_ADDR_ERROR;
	case RDMA_CM_EVENT_ROUTE_RESOLVED:
		return bad == RDMA_CM_EVENT_ROUTE_ERROR;
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		return bad == RDMA_CM_EVENT_CONNECT_ERROR || bad == RDMA_CM_EVENT_UNREACHABLE ||
		       bad == RDMA_CM_EVENT_REJECTED;
	default:
		return false;
	}
}

bool nic_step_done(struct nic_id *id, enum rdma_cm_event_type good, enum nic_step step)
{
	bool bad = nic.script.cm_at > 0 && is_its_failure(good, nic.script.cm_event) &&
		   --nic.script.cm_at == 0;

	id->step = bad ? STEP_FAILED : step;
	if (bad) {
		nic_event_post(nic_event_new(id, nic.script.cm_event, nic.script.cm_status));
	} else if (good != RDMA_CM_EVENT_CONNECT_REQUEST) {
		nic_event_post(nic_event_new(id, good, 0));
	}
	return !bad;
}

void fake_cm_error(enum rdma_cm_event_type event, int status)
{
	fake_cm_error_at(1, event, status);
}

void fake_cm_error_at(unsigned int nth, enum rdma_cm_event_type event, int status)
{
	nic_lock();
	nic.script.cm_event = event;
	nic.script.cm_at = nth;
	nic.script.cm_status = status;
	nic_unlock();
}

/* The address that a device has in this family, for who does not say where from. */
static int pick_source(struct nic_id *id, sa_family_t family, struct nic_device *device)
{
	for (unsigned int i = 0; i < device->address_count; i++) {
		struct sockaddr_storage source;

		if (!!IN6_IS_ADDR_V4MAPPED(&device->addresses[i]) != (family == AF_INET))
			continue;
		address_write(&source, family, &device->addresses[i], 0);
		return bind_to(id, (struct sockaddr *)&source);
	}
	return ENODEV;
}

/* Without a device and a source address of its own so far. */
static int route_from(struct nic_id *id, sa_family_t family, const struct in6_addr *to)
{
	struct nic_device *device = nic_device_towards(to);

	if (id->device != NULL)
		return 0;
	if (device == NULL)
		return ENODEV;
	id->step = STEP_IDLE;
	return pick_source(id, family, device);
}

static int resolve(struct nic_id *id, const struct sockaddr *source, const struct sockaddr *target)
{
	struct in6_addr ip;
	uint16_t port;
	int error = 0;

	if (!nic_address_read(target, &ip, &port) || is_any(&ip) ||
	    (source != NULL && source->sa_family != target->sa_family))
		return EINVAL;
	if (source != NULL && id->step == STEP_IDLE)
		error = bind_to(id, source);
	if (error != 0)
		return error;
	if (id->step != STEP_IDLE && id->step != STEP_BOUND)
		return EINVAL;
	address_write(&id->cm.route.addr.dst_storage, target->sa_family, &ip, port);
	error = route_from(id, target->sa_family, &ip);
	/* No neighbour of that name. */
	if (error == 0 && nic_device_of(&ip) == NULL)
		error = ETIMEDOUT;
	if (error != 0) {
		id->step = STEP_FAILED;
		nic_event_post(nic_event_new(id, RDMA_CM_EVENT_ADDR_ERROR, -error));
	} else {
		nic_step_done(id, RDMA_CM_EVENT_ADDR_RESOLVED, STEP_ADDRESS);
	}
	return 0;
}

int rdma_resolve_addr(struct rdma_cm_id *id, struct sockaddr *source, struct sockaddr *target,
		      int timeout_ms)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_RESOLVE_ADDR);
	if (error == 0 && timeout_ms <= 0)
		error = EINVAL;
	if (error == 0)
		error = resolve(nic_id_of(id), source, target);
	return nic_minus(error);
}

int rdma_resolve_route(struct rdma_cm_id *id, int timeout_ms)
{
	struct nic_id *our = nic_id_of(id);
	int error;

	nic_lock();
	error = nic_scripted(FAKE_RESOLVE_ROUTE);
	if (error == 0 && (our->step != STEP_ADDRESS || timeout_ms <= 0))
		error = EINVAL;
	if (error == 0) {
		our->timeout = our->timeout_set ? our->timeout_option : CM_TIMEOUT;
		nic_step_done(our, RDMA_CM_EVENT_ROUTE_RESOLVED, STEP_ROUTE);
	}
	return nic_minus(error);
}

static int set_option(struct nic_id *id, int level, int name, const void *value, size_t length)
{
	if (level != RDMA_OPTION_ID)
		return ENOSYS;
	switch (name) {
	case RDMA_OPTION_ID_TOS:
		return length == 1 ? 0 : EINVAL;
	case RDMA_OPTION_ID_REUSEADDR:
	case RDMA_OPTION_ID_AFONLY:
		return length == sizeof(int) ? 0 : EINVAL;
	case RDMA_OPTION_ID_ACK_TIMEOUT:
		if (length != 1 || *(const uint8_t *)value > 31)
			return EINVAL;
		id->timeout_set = true;
		id->timeout_option = *(const uint8_t *)value;
		return 0;
	default:
		return ENOSYS;
	}
}

int rdma_set_option(struct rdma_cm_id *id, int level, int name, void *value, size_t length)
{
	int error;

	nic_lock();
	error = nic_scripted(FAKE_SET_OPTION);
	if (error == 0)
		error = set_option(nic_id_of(id), level, name, value, length);
	return nic_minus(error);
}
