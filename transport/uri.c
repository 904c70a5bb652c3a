/* SPDX-License-Identifier: MIT */
#include <vmferry/transport.h>

#include "transport/uri.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/log.h"

#define SCHEME "tcp:"

static int bad(const char *text, const char *what)
{
	log_error("uri '%.300s': %s: write for example tcp:127.0.0.1:4444 or tcp:[::1]:4444", text,
		  what);
	return -EINVAL;
}

static bool valid_port(const char *port)
{
	unsigned int value = 0;
	size_t length = strlen(port);

	if (length == 0 || length > 5 || strspn(port, "0123456789") != length)
		return false;
	for (size_t i = 0; i < length; i++)
		value = value * 10 + (unsigned int)(port[i] - '0');
	return value <= UINT16_MAX;
}

/*
 * Splits "[HOST]:PORT" or "HOST:PORT" and returns the port's text, NULL with @what set if it is
 * neither.
 */
static const char *split(const char *text, const char **host, size_t *length, bool *bracket,
			 const char **what)
{
	const char *end;

	*bracket = *text == '[';
	*host = text + (*bracket ? 1 : 0);
	end = strchr(*host, *bracket ? ']' : ':');
	if (end == NULL) {
		*what = *bracket ? "the bracket is not closed" : "the port is missing";
		return NULL;
	}
	*length = (size_t)(end - *host);
	end += *bracket ? 1 : 0;
	if (*end != ':') {
		*what = "the port is missing";
		return NULL;
	}
	if (!*bracket && strchr(end + 1, ':') != NULL) {
		*what = "more than one colon: an IPv6 address belongs in brackets";
		return NULL;
	}
	return end + 1;
}

int uri_parse(const char *text, struct uri *uri)
{
	const char *what = NULL;
	const char *host;
	const char *port;
	size_t length;

	if (text == NULL)
		return bad("", "there is none");
	if (strncmp(text, SCHEME, strlen(SCHEME)) != 0)
		return bad(text, "it does not begin with 'tcp:'");
	port = split(text + strlen(SCHEME), &host, &length, &uri->numeric, &what);
	if (port == NULL)
		return bad(text, what);
	if (length == 0)
		return bad(text, "the host is missing");
	if (length > URI_HOST_MAX)
		return bad(text, "the host is too long");
	if (!valid_port(port))
		return bad(text, "the port is not a number from 0 to 65535");
	memcpy(uri->host, host, length);
	uri->host[length] = '\0';
	if (uri->numeric && strchr(uri->host, ':') == NULL)
		return bad(text, "brackets are for IPv6 addresses");
	snprintf(uri->port, sizeof(uri->port), "%s", port);
	return 0;
}

int vmferry_uri_check(const char *uri)
{
	struct uri parsed;

	return uri_parse(uri, &parsed);
}

static int resolve_error(const struct uri *uri, int error)
{
	const char *cause = error == EAI_SYSTEM ? strerror(errno) : gai_strerror(error);

	log_error(
		"uri host '%s': cannot be resolved: %s: check the name, or give a numeric address",
		uri->host, cause);
	if (error == EAI_MEMORY)
		return -ENOMEM;
	return uri->numeric ? -EINVAL : -ENOENT;
}

int uri_resolve(const struct uri *uri, bool listening, bool insecure, struct addrinfo **list)
{
	const struct addrinfo hints = {
		.ai_family = uri->numeric ? AF_INET6 : AF_UNSPEC,
		.ai_socktype = SOCK_STREAM,
		.ai_flags = AI_NUMERICSERV | (listening ? AI_PASSIVE : 0) |
			    (uri->numeric ? AI_NUMERICHOST : 0),
	};
	struct addrinfo *found;
	int ret = getaddrinfo(uri->host, uri->port, &hints, &found);

	if (ret != 0)
		return resolve_error(uri, ret);
	for (const struct addrinfo *a = found; a != NULL && !insecure; a = a->ai_next) {
		if (address_is_loopback(a->ai_addr))
			continue;
		log_error(
			"uri host '%s': refused: the address is not loopback and nothing would be "
			"authenticated or encrypted: use 127.0.0.1 or [::1], or say insecure if "
			"the network is trusted",
			uri->host);
		freeaddrinfo(found);
		return -EPERM;
	}
	*list = found;
	return 0;
}

static bool is_wildcard(const struct address *address)
{
	const struct sockaddr_in *v4 = (const void *)&address->storage;
	const struct sockaddr_in6 *v6 = (const void *)&address->storage;

	if (address->storage.ss_family == AF_INET)
		return v4->sin_addr.s_addr == htonl(INADDR_ANY);
	return IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr);
}

void uri_format(const struct address *address, char *text, size_t room)
{
	const struct sockaddr_in *v4 =
		(const void *)&address->storage; /* the port is where v6 has it */
	char numeric[ADDRESS_TEXT_MAX];
	char host[URI_HOST_MAX + 1] = "";

	/* Nobody can connect to "any address" from elsewhere: name this host. */
	if (is_wildcard(address) && gethostname(host, sizeof(host) - 1) == 0) {
		snprintf(text, room, SCHEME "%s:%u", host, ntohs(v4->sin_port));
		return;
	}
	address_text(address, numeric, sizeof(numeric));
	snprintf(text, room, SCHEME "%s", numeric);
}
