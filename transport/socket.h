/* SPDX-License-Identifier: MIT */
/*
 * Sockets as the transport uses them: never blocking, waits with deadlines, errors as -errno,
 * addresses as text.
 */
#ifndef TRANSPORT_SOCKET_H
#define TRANSPORT_SOCKET_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#define ADDRESS_TEXT_MAX 80

struct address {
	struct sockaddr_storage storage;
	socklen_t length;
};

/* "127.0.0.1:4242", "[::1]:4242". */
void address_text(const struct address *address, char *text, size_t room);
bool address_is_loopback(const struct sockaddr *address);

/* Whether both name the same host: family and IP address, whatever the ports. */
bool address_same_host(const struct sockaddr *a, const struct sockaddr *b);

/* Bytes that the peer's kernel has not acknowledged yet; 0 where that cannot be had. */
int socket_unsent(int fd);

/* Waits until there are none, the connection is reset, or for the deadline. */
void socket_drain(int fd, uint64_t deadline);

/* Waits for @events: 0 when there is one (or an error to be read), -ETIMEDOUT at the deadline. */
int socket_wait(int fd, short events, uint64_t deadline);

/*
 * One non-blocking attempt: bytes moved, -EAGAIN, -ECONNRESET (also for an orderly end), or what
 * else went wrong.
 */
ssize_t socket_send(int fd, const void *data, size_t length, bool more);
ssize_t socket_recv(int fd, void *data, size_t length);
ssize_t socket_sendmsg(int fd, struct msghdr *msg);
ssize_t socket_recvmsg(int fd, struct msghdr *msg);

/* All of it, or an error. After -ETIMEDOUT it is not known how much was moved. */
int socket_send_all(int fd, const void *data, size_t length, uint64_t deadline);
int socket_recv_all(int fd, void *data, size_t length, uint64_t deadline);

/* What every connection of ours has: no delay, and a dead host noticed within SOCKET_DEAD_MS. */
#define SOCKET_DEAD_MS 10000
int socket_setup(int fd, const struct address *peer);

/* Connects within the deadline; the fd does not block. */
int socket_connect(const struct address *address, uint64_t deadline, int *fd);

#endif
