/* SPDX-License-Identifier: MIT */
#include "transport/socket.h"

#include <errno.h>
#include <linux/sockios.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "common/clock.h"

void address_text(const struct address *address, char *text, size_t room)
{
	char host[64];
	char port[8];
	bool v6 = address->storage.ss_family == AF_INET6;

	if (getnameinfo((const struct sockaddr *)&address->storage, address->length, host,
			sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(text, room, "an unknown address");
	else
		snprintf(text, room, v6 ? "[%s]:%s" : "%s:%s", host, port);
}

static bool in_127(uint32_t network_order)
{
	return ntohl(network_order) >> 24 == 127;
}

bool address_is_loopback(const struct sockaddr *address)
{
	const struct in6_addr *v6;

	if (address->sa_family == AF_INET)
		return in_127(((const struct sockaddr_in *)(const void *)address)->sin_addr.s_addr);
	if (address->sa_family != AF_INET6)
		return false;
	v6 = &((const struct sockaddr_in6 *)(const void *)address)->sin6_addr;
	return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && in_127(v6->s6_addr32[3]));
}

bool address_same_host(const struct sockaddr *a, const struct sockaddr *b)
{
	if (a->sa_family != b->sa_family)
		return false;
	if (a->sa_family == AF_INET)
		return ((const struct sockaddr_in *)(const void *)a)->sin_addr.s_addr ==
		       ((const struct sockaddr_in *)(const void *)b)->sin_addr.s_addr;
	return a->sa_family == AF_INET6 &&
	       memcmp(&((const struct sockaddr_in6 *)(const void *)a)->sin6_addr,
		      &((const struct sockaddr_in6 *)(const void *)b)->sin6_addr, 16) == 0;
}

int socket_wait(int fd, short events, uint64_t deadline)
{
	struct pollfd p = {.fd = fd, .events = events};

	for (;;) {
		uint64_t now = vmferry_now();
		struct timespec left = deadline_timespec(deadline > now ? deadline - now : 0);
		int n = ppoll(&p, 1, &left, NULL);

		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/*
 * All ways in which a peer can be lost are one to the callers. ETIMEDOUT is TCP_USER_TIMEOUT or the
 * keepalive here, and must not be mistaken for a deadline.
 */
static ssize_t socket_errno(void)
{
	switch (errno) {
	case EAGAIN:
	case EINTR:
		return -EAGAIN;
	case EPIPE:
	case ETIMEDOUT:
	case ECONNABORTED:
	case EHOSTUNREACH:
	case ENETUNREACH:
		return -ECONNRESET;
	default:
		return -errno;
	}
}

ssize_t socket_send(int fd, const void *data, size_t length, bool more)
{
	ssize_t n = send(fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));

	return n >= 0 ? n : socket_errno();
}

ssize_t socket_recv(int fd, void *data, size_t length)
{
	ssize_t n = recv(fd, data, length, MSG_DONTWAIT);

	if (n == 0)
		return -ECONNRESET;
	return n > 0 ? n : socket_errno();
}

ssize_t socket_sendmsg(int fd, struct msghdr *msg)
{
	ssize_t n = sendmsg(fd, msg, MSG_DONTWAIT | MSG_NOSIGNAL);

	return n >= 0 ? n : socket_errno();
}

ssize_t socket_recvmsg(int fd, struct msghdr *msg)
{
	ssize_t n = recvmsg(fd, msg, MSG_DONTWAIT);

	if (n == 0)
		return -ECONNRESET;
	return n > 0 ? n : socket_errno();
}

int socket_send_all(int fd, const void *data, size_t length, uint64_t deadline)
{
	const char *at = data;

	while (length > 0) {
		ssize_t n = socket_send(fd, at, length, false);

		if (n == -EAGAIN)
			n = socket_wait(fd, POLLOUT, deadline);
		if (n < 0)
			return (int)n;
		at += n;
		length -= (size_t)n;
	}
	return 0;
}

int socket_recv_all(int fd, void *data, size_t length, uint64_t deadline)
{
	char *at = data;

	while (length > 0) {
		ssize_t n = socket_recv(fd, at, length);

		if (n == -EAGAIN)
			n = socket_wait(fd, POLLIN, deadline);
		if (n < 0)
			return (int)n;
		at += n;
		length -= (size_t)n;
	}
	return 0;
}

/*
 * On loopback bbr's pacing is nothing but delay: cubic was faster in every one of four pairs of
 * runs, by 1.2 to 1.8 with one lane and 1.2 to 1.3 with two. On a real link the choice stays the
 * administrator's. Fixed buffer sizes instead of the kernel's own showed no gain that was larger
 * than the noise.
 */
static void choose_congestion_control(int fd, const struct address *peer)
{
	static const char cubic[] = "cubic";

	if (address_is_loopback((const struct sockaddr *)&peer->storage))
		/* Where there is no cubic, what there is will do. */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, cubic, sizeof(cubic) - 1);
}

int socket_setup(int fd, const struct address *peer)
{
	const struct {
		int level, name, value;
	} options[] = {
		{IPPROTO_TCP, TCP_NODELAY, 1},
		{IPPROTO_TCP, TCP_USER_TIMEOUT, SOCKET_DEAD_MS},
		/*
		 * TCP_USER_TIMEOUT covers unacknowledged bytes only: an idle connection needs
		 * probes.
		 */
		{SOL_SOCKET, SO_KEEPALIVE, 1},
		{IPPROTO_TCP, TCP_KEEPIDLE, SOCKET_DEAD_MS / 2000},
		{IPPROTO_TCP, TCP_KEEPINTVL, 1},
	};

	for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++)
		if (setsockopt(fd, options[i].level, options[i].name, &options[i].value,
			       sizeof(options[i].value)) < 0)
			return -errno;
	choose_congestion_control(fd, peer);
	return 0;
}

static int connect_finish(int fd, uint64_t deadline)
{
	socklen_t length = sizeof(int);
	int error;
	int ret = socket_wait(fd, POLLOUT, deadline);

	if (ret < 0)
		return ret;
	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &length) < 0)
		return -errno;
	return -error;
}

int socket_connect(const struct address *address, uint64_t deadline, int *fd)
{
	int family = address->storage.ss_family;
	int s = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int ret;

	if (s < 0)
		return -errno;
	ret = socket_setup(s, address);
	if (ret < 0)
		goto err_close;
	if (connect(s, (const struct sockaddr *)&address->storage, address->length) < 0)
		ret = errno == EINPROGRESS ? connect_finish(s, deadline) : -errno;
	if (ret < 0)
		goto err_close;
	*fd = s;
	return 0;
err_close:
	close(s);
	return ret;
}

int socket_unsent(int fd)
{
	int queued = 0;

	return ioctl(fd, SIOCOUTQ, &queued) == 0 ? queued : 0;
}

/* Linux goes on counting what was not acknowledged when the connection was reset. */
static bool is_reset(int fd)
{
	struct tcp_info info;
	socklen_t length = sizeof(info);

	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &length) == 0 &&
	       info.tcpi_state == TCP_CLOSE;
}

void socket_drain(int fd, uint64_t deadline)
{
	const struct timespec nap = {.tv_nsec = NS_PER_MS};

	/* No event tells of acknowledgements. */
	while (socket_unsent(fd) > 0 && !is_reset(fd) && vmferry_now() < deadline)
		nanosleep(&nap, NULL);
}
