/* SPDX-License-Identifier: MIT */
/*
 * URIs of the transport, "tcp:HOST:PORT" and "tcp:[IPV6]:PORT", and the addresses that they stand
 * for.
 */
#ifndef TRANSPORT_URI_H
#define TRANSPORT_URI_H

#include <netdb.h>
#include <stdbool.h>

#include "transport/socket.h"

#define URI_HOST_MAX 255

struct uri {
	char host[URI_HOST_MAX + 1];
	char port[6];
	bool numeric; /* an IPv6 address in brackets: never looked up */
};

/* -EINVAL with what is wrong, and a right example, logged. */
int uri_parse(const char *text, struct uri *uri);

/*
 * The addresses of a URI, for freeaddrinfo(). -EPERM if one of them is not loopback and @insecure
 * is not set, -ENOENT if there are none.
 */
int uri_resolve(const struct uri *uri, bool listening, bool insecure, struct addrinfo **list);

/* Writes the URI under which @address is reached. */
void uri_format(const struct address *address, char *text, size_t room);

#endif
