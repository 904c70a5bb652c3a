/* SPDX-License-Identifier: MIT */
/* What a session over RDMA consists of, and the table that makes the kind known. */
#include <errno.h>
#include <ifaddrs.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/options.h"
#include "transport/rdma/listener.h"
#include "transport/rdma/rdma.h"

#define LANES_PER_RAIL 2
#define DRAIN_NS       NS_PER_S
#define BYE_NS	       (50 * NS_PER_MS)
/* What was lost on the way is sent again after 200 ms at the earliest. */
#define LAST_WORDS_NS (300 * NS_PER_MS)

/* ENOSYS: of a kernel without RDMA, as most are. */
bool rdma_has_device(void)
{
	int count = 0;
	struct ibv_device **list = ibv_get_device_list(&count);

	if (list == NULL) {
		if (errno != ENOSYS)
			log_warn("RDMA devices cannot be listed: %s: see whether ibv_devices can",
				 strerror(errno));
		return false;
	}
	ibv_free_device_list(list);
	return count > 0;
}

/*
 * Two queue pairs fill what one cannot: they are hashed to different paths, and one works while the
 * other waits.
 */
static unsigned int default_lanes(const struct address *peer,
				  const struct vmferry_transport_options *options)
{
	(void)peer;
	return LANES_PER_RAIL * (options->rail_count > 0 ? options->rail_count : 1);
}

/* ---- a session ------------------------------------------------------------------------------- */

static bool is_local(const struct ifaddrs *list, const struct address *address)
{
	for (const struct ifaddrs *i = list; i != NULL; i = i->ifa_next)
		if (i->ifa_addr != NULL &&
		    address_same_host(i->ifa_addr, (const struct sockaddr *)&address->storage))
			return true;
	return false;
}

/*
 * The control connection is held to loopback by its address; lanes that leave this host would go
 * around that.
 */
static int check_secure(struct vmferry_session *session, const struct lane_addresses *addresses)
{
	char text[ADDRESS_TEXT_MAX];
	struct ifaddrs *list;
	int ret = 0;

	if (getifaddrs(&list) < 0)
		return -errno;
	for (unsigned int i = 0; ret == 0 && i < addresses->rail_count; i++) {
		if (is_local(list, &addresses->rails[i]))
			continue;
		address_text(&addresses->rails[i], text, sizeof(text));
		snprintf(session->reason, sizeof(session->reason),
			 "rail %s is not of this host and nothing would be encrypted", text);
		log_error("session %s: %s: say insecure if the network is trusted", session->name,
			  session->reason);
		ret = -EPERM;
	}
	freeifaddrs(list);
	return ret;
}

static int take_rails(struct rdma_session *r, const struct vmferry_transport_options *options)
{
	int ret = 0;

	/* The destination has its listener for that. */
	for (unsigned int i = 0; r->session->is_source && ret == 0 && i < options->rail_count; i++)
		ret = rail_parse(options->rails[i], &r->local[r->local_count++]);
	/* The strings are the caller's and may be gone soon. */
	memset(r->options.rails, 0, sizeof(r->options.rails));
	return ret;
}

static void detach(struct vmferry_session *session)
{
	struct rdma_session *r = rdma_session_of(session);

	rdma_registrar_free(r);
	rdma_mailbox_free(r);
	rdma_keys_free(r);
	rdma_rails_free(r);
	pthread_mutex_destroy(&r->poll_lock);
	free(r);
	session->kind = NULL;
}

static int attach(struct vmferry_session *session, const struct vmferry_transport_options *options,
		  const struct lane_addresses *addresses)
{
	struct rdma_session *r;
	int ret = session->is_source && !options->insecure ? check_secure(session, addresses) : 0;

	if (ret < 0)
		return ret;
	r = calloc(1, sizeof(*r));
	if (r == NULL)
		return -ENOMEM;
	pthread_mutex_init(&r->poll_lock, NULL);
	r->session = session;
	r->options = *options;
	r->addresses = *addresses;
	session->kind = r;
	session->control.type_max = CHANNEL_TYPE_MAX;
	ret = take_rails(r, options);
	if (ret == 0)
		ret = rdma_registrar_new(r);
	if (ret == 0 && session->is_source)
		ret = rdma_keys_new(r);
	if (ret < 0)
		detach(session);
	return ret;
}

static int lane_connect(struct vmferry_session *session, const struct hello_lane *hello,
			uint64_t deadline, struct lane **lane)
{
	if (hello->number == LANE_MAILBOX)
		return rdma_mailbox_connect(rdma_session_of(session), hello, deadline);
	return rdma_lane_connect(session, hello, deadline, lane);
}

static void wake(struct vmferry_session *session)
{
	struct rdma_session *r = rdma_session_of(session);

	rdma_keys_wake(r);
	rdma_mailbox_wake(r);
	rdma_service_wake(r);
}

static void drain(struct vmferry_session *session)
{
	struct rdma_session *r = rdma_session_of(session);

	/*
	 * A source that gives up before it is ready has said nothing, and the destination expects
	 * nothing.
	 */
	if (r->service == NULL || r->mailbox == NULL || session_error(session) != 0)
		return;
	rdma_mailbox_drain(r, vmferry_now() + DRAIN_NS);
	/* If it does not get through, the peer will only be surprised. */
	session_send_control(session, RDMA_CONTROL_BYE, NULL, 0, vmferry_now() + BYE_NS);
	/* The end of the connections goes another way, and would overtake what was said last. */
	socket_drain(session->control.fd, vmferry_now() + LAST_WORDS_NS);
}

static void quiesce(struct vmferry_session *session)
{
	/*
	 * Their threads may be about to end the session, which wakes lanes and mailbox: not when
	 * those are gone.
	 */
	rdma_service_stop(rdma_session_of(session));
	rdma_registrar_free(rdma_session_of(session));
}

/* What is under way to the mailbox still arrives. */
static int revoke(struct vmferry_session *session)
{
	int ret = 0;

	for (unsigned int i = 0; i < session->lane_count; i++) {
		int error = rdma_connection_break(rdma_lane_connection(session->lanes[i]));

		if (error == 0)
			continue;
		log_error(
			"session %s: lane %u cannot be broken off, the source may still write: %s: "
			"see the kernel's log",
			session->name, i, strerror(-error));
		ret = -EIO;
	}
	return ret;
}

const struct transport_ops rdma_ops = {
	.name = "rdma",
	.kind = VMFERRY_TRANSPORT_RDMA,
	.has_mailbox = true,
	.default_lanes = default_lanes,
	.attach = attach,
	.detach = detach,
	.ready = rdma_service_start,
	.connect = lane_connect,
	.listener_open = rdma_listener_open,
	.listener_fd = rdma_listener_fd,
	.listener_describe = rdma_listener_describe,
	.listener_event = rdma_listener_event,
	.listener_close = rdma_listener_close,
	.write = rdma_lane_write,
	.fence = rdma_lane_fence,
	.fence_wait = rdma_lane_fence_wait,
	.probe = rdma_lane_probe,
	.read = rdma_lane_read,
	.fd = rdma_lane_fd,
	.node = rdma_lane_node,
	.register_memory = rdma_memory_register,
	.deregister_memory = rdma_memory_deregister,
	.prepare = rdma_memory_prepare,
	.discard = rdma_memory_discard,
	.registration_stats = rdma_registration_stats,
	.send_mailbox = rdma_mailbox_send,
	.poll = rdma_poll,
	.busy_poll = rdma_busy_poll,
	.wake = wake,
	.drain = drain,
	.quiesce = quiesce,
	.revoke = revoke,
	.shutdown = rdma_lane_shutdown,
	.close = rdma_lane_close,
};
