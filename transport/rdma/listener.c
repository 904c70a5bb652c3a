/* SPDX-License-Identifier: MIT */
/*
 * The destination's listener: it listens at each of its rails' addresses for connection requests of
 * rdma_cm. A request carries the lane's proof as private data, and what does not prove itself is
 * rejected with the reason before anything is made for it.
 */
#include <errno.h>
#include <fcntl.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>

#include "common/log.h"
#include "common/wire.h"
#include "transport/options.h"
#include "transport/rdma/listener.h"
#include "transport/rdma/rdma.h"

#define BACKLOG 64

struct lane_listener {
	struct rdma_event_channel *events;
	struct rdma_cm_id *ids[VMFERRY_RAILS_MAX]; /* listening */
	struct lane_addresses address;
};

/* ---- the hello in the private data ----------------------------------------------------------- */

static const uint8_t magic[4] = {'V', 'M', 'F', 'R'};

/* magic 4, version 2, number 2, session 16, mac 32 */
void rdma_hello_encode(const struct hello_lane *hello, uint8_t bytes[RDMA_HELLO_BYTES])
{
	memcpy(bytes, magic, sizeof(magic));
	wire_put_u16(bytes + 4, PROTOCOL_VERSION);
	wire_put_u16(bytes + 6, (uint16_t)hello->number);
	memcpy(bytes + 8, hello->session, SESSION_ID_BYTES);
	memcpy(bytes + 24, hello->mac, MAC_BYTES);
}

int rdma_hello_decode(const uint8_t bytes[RDMA_HELLO_BYTES], struct hello_lane *hello)
{
	if (memcmp(bytes, magic, sizeof(magic)) != 0 || wire_get(bytes + 4, 2) != PROTOCOL_VERSION)
		return -EPROTO;
	hello->number = (uint32_t)wire_get(bytes + 6, 2);
	memcpy(hello->session, bytes + 8, SESSION_ID_BYTES);
	memcpy(hello->mac, bytes + 24, MAC_BYTES);
	return 0;
}

/* ---- opening --------------------------------------------------------------------------------- */

/* Where no device has the address, binding fails or leaves the identifier without one. */
static int bind_rail(struct lane_listener *listener, const struct address *rail,
		     struct rdma_cm_id **id)
{
	struct address copy = *rail;
	int ret = 0;

	if (rdma_create_id(listener->events, id, NULL, RDMA_PS_TCP) != 0)
		return -errno;
	if (rdma_bind_addr(*id, (struct sockaddr *)&copy.storage) != 0)
		ret = errno == EADDRNOTAVAIL ? -ENODEV : -errno;
	else if ((*id)->verbs == NULL)
		ret = -ENODEV;
	else if (rdma_listen(*id, BACKLOG) != 0)
		ret = -errno;
	if (ret < 0)
		rdma_destroy_id(*id);
	return ret;
}

static int add_rail(struct lane_listener *listener, struct address rail)
{
	unsigned int i = listener->address.rail_count;
	struct sockaddr_in *v4 = (void *)&rail.storage; /* the port is where v6 has it */
	char text[ADDRESS_TEXT_MAX];
	int ret = bind_rail(listener, &rail, &listener->ids[i]);

	address_text(&rail, text, sizeof(text));
	if (ret < 0) {
		log_line(ret == -ENODEV ? VMFERRY_LOG_DEBUG : VMFERRY_LOG_WARN,
			 "RDMA listener: lanes cannot arrive at %s: %s", text, strerror(-ret));
		return ret;
	}
	v4->sin_port = rdma_get_src_port(listener->ids[i]);
	listener->address.rails[i] = rail;
	listener->address.rail_count++;
	return 0;
}

static int add_given(struct lane_listener *listener,
		     const struct vmferry_transport_options *options)
{
	for (unsigned int i = 0; i < options->rail_count; i++) {
		struct address rail;
		int ret = rail_parse(options->rails[i], &rail);

		if (ret == 0)
			ret = add_rail(listener, rail);
		if (ret < 0) {
			log_error("rail %s: lanes cannot arrive there: %s: give the address of an "
				  "RDMA port of this host, see vmferry check",
				  options->rails[i], strerror(-ret));
			return ret;
		}
	}
	return 0;
}

/*
 * How much better than nothing an address is: the one that was bound to, then IPv4, then IPv6; 0:
 * of no use.
 */
static unsigned int rank(const struct ifaddrs *i, const struct address *bound)
{
	const struct sockaddr_in6 *v6 = (const void *)i->ifa_addr;

	if (i->ifa_addr == NULL || (i->ifa_flags & (IFF_UP | IFF_LOOPBACK)) != IFF_UP)
		return 0;
	if (i->ifa_addr->sa_family != AF_INET && i->ifa_addr->sa_family != AF_INET6)
		return 0;
	if (address_same_host(i->ifa_addr, (const struct sockaddr *)&bound->storage))
		return 3;
	if (i->ifa_addr->sa_family == AF_INET)
		return 2;
	/* A link-local address means something else on each host. */
	return IN6_IS_ADDR_LINKLOCAL(&v6->sin6_addr) ? 0 : 1;
}

/* The best of this host's addresses that has a device; -ENODEV if lanes can arrive at none. */
static int add_default(struct lane_listener *listener, const struct address *bound)
{
	struct ifaddrs *list;
	int ret = -ENODEV;

	if (getifaddrs(&list) < 0)
		return -errno;
	for (unsigned int wanted = 3; ret < 0 && wanted > 0; wanted--) {
		for (const struct ifaddrs *i = list; ret < 0 && i != NULL; i = i->ifa_next) {
			struct address rail = {.length = sizeof(struct sockaddr_in)};

			if (rank(i, bound) != wanted)
				continue;
			if (i->ifa_addr->sa_family == AF_INET6)
				rail.length = sizeof(struct sockaddr_in6);
			memcpy(&rail.storage, i->ifa_addr, rail.length);
			ret = add_rail(listener, rail);
		}
	}
	freeifaddrs(list);
	return ret < 0 ? -ENODEV : 0;
}

void rdma_listener_close(struct lane_listener *listener)
{
	for (unsigned int i = 0; i < listener->address.rail_count; i++)
		rdma_destroy_id(listener->ids[i]);
	if (listener->events != NULL)
		rdma_destroy_event_channel(listener->events);
	free(listener);
}

/* Without the CM's device file there are no connections, whatever devices there are. */
static int no_manager(int error)
{
	log_warn("RDMA listener: no connections: %s: load the module rdma_ucm, and allow this "
		 "process /dev/infiniband/rdma_cm and enough open files",
		 strerror(error));
	return -ENODEV;
}

int rdma_listener_open(const struct vmferry_transport_options *options, const struct address *bound,
		       struct lane_listener **listener)
{
	struct lane_listener *d;
	int ret;

	if (!rdma_has_device())
		return -ENODEV;
	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return -ENOMEM;
	d->events = rdma_create_event_channel();
	if (d->events == NULL || fcntl(d->events->fd, F_SETFL, O_NONBLOCK) < 0)
		ret = no_manager(errno);
	else
		ret = options->rail_count > 0 ? add_given(d, options) : add_default(d, bound);
	if (ret < 0) {
		rdma_listener_close(d);
		return ret;
	}
	*listener = d;
	return 0;
}

int rdma_listener_fd(const struct lane_listener *listener)
{
	return listener->events->fd;
}

void rdma_listener_describe(const struct lane_listener *listener, struct lane_addresses *address)
{
	*address = listener->address;
}

/* ---- who comes ------------------------------------------------------------------------------- */

static unsigned int rail_of(const struct lane_listener *listener,
			    const struct rdma_cm_id *listening)
{
	unsigned int i = 0;

	while (i < listener->address.rail_count && listener->ids[i] != listening)
		i++;
	return i;
}

static int accept_connection(struct rdma_session *session, const struct hello_lane *hello,
			     struct rdma_cm_id *id)
{
	if (hello->number == LANE_MAILBOX)
		return rdma_mailbox_accept(session, id);
	return rdma_lane_accept(session, hello->number, id,
				&session->session->lanes[hello->number]);
}

/* What keeps a lane out that has proved itself. */
static const char *check(const struct rdma_session *session, const struct hello_lane *hello,
			 unsigned int rail)
{
	unsigned int number = hello->number == LANE_MAILBOX ? 0 : hello->number;

	if (hello->number == LANE_MAILBOX && session->mailbox != NULL)
		return "the mailbox has joined already";
	if (rail != number % session->addresses.rail_count)
		return "it came over another rail than its own";
	return NULL;
}

static void reject(struct rdma_cm_id *id, const char *why)
{
	char text[ADDRESS_TEXT_MAX];
	struct address peer = {.length = sizeof(peer.storage)};

	memcpy(&peer.storage, rdma_get_peer_addr(id), sizeof(peer.storage));
	if (peer.storage.ss_family == AF_INET)
		peer.length = sizeof(struct sockaddr_in);
	address_text(&peer, text, sizeof(text));
	log_warn("RDMA listener: connection from %s rejected: %s", text, why);
	rdma_reject(id, why, (uint8_t)(strlen(why) + 1));
}

/* The identifier is the connection's if this is 0, else it has to be destroyed. */
static int handle_request(struct lane_listener *listener, const struct rdma_cm_event *event,
			  const struct lane_admission *admission)
{
	const struct rdma_conn_param *conn = &event->param.conn;
	const char *why = "it does not speak this version of vmferry";
	struct vmferry_session *session = NULL;
	struct hello_lane hello;
	int ret;

	if (conn->private_data != NULL && conn->private_data_len >= RDMA_HELLO_BYTES &&
	    rdma_hello_decode(conn->private_data, &hello) == 0)
		session = admission->admit(admission->ctx, &hello, &why);
	if (session != NULL)
		why = check(rdma_session_of(session), &hello, rail_of(listener, event->listen_id));
	if (session == NULL || why != NULL) {
		reject(event->id, why);
		return -EACCES;
	}
	ret = accept_connection(rdma_session_of(session), &hello, event->id);
	if (ret < 0)
		reject(event->id, "the destination cannot make a connection of it");
	return ret;
}

static unsigned int access_for(const struct rdma_connection *conn)
{
	return conn == rdma_mailbox_connection(conn->rail->session) ? 0 : IBV_ACCESS_REMOTE_WRITE;
}

/*
 * Of a connection that was let in. The event is acknowledged by then: moving its identifier to
 * another channel waits for that.
 */
static void handle_connection(struct rdma_connection *conn, enum rdma_cm_event_type type,
			      const struct lane_admission *admission)
{
	struct vmferry_session *session = conn->rail->session->session;

	if (type != RDMA_CM_EVENT_ESTABLISHED)
		admission->failed(admission->ctx, session, rdma_event_str(type));
	else if (rdma_connection_settle(conn, access_for(conn)) < 0)
		admission->failed(admission->ctx, session, "an RDMA connection cannot be set up");
	else
		admission->joined(admission->ctx, session);
}

void rdma_listener_event(struct lane_listener *listener, const struct lane_admission *admission)
{
	struct rdma_cm_event *event;
	enum rdma_cm_event_type type;
	struct rdma_cm_id *id;
	int ret = 0;

	if (rdma_get_cm_event(listener->events, &event) != 0)
		return;
	type = event->event;
	id = event->id;
	if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
		ret = handle_request(listener, event, admission);
	rdma_ack_cm_event(event);
	if (ret < 0)
		rdma_destroy_id(id);
	else if (type == RDMA_CM_EVENT_CONNECT_REQUEST)
		return;
	/* The listening identifiers have no context. */
	else if (id->context == NULL)
		log_warn("RDMA listener: %s at an address that lanes arrive at",
			 rdma_event_str(type));
	else if (type != RDMA_CM_EVENT_TIMEWAIT_EXIT)
		handle_connection(id->context, type, admission);
}
