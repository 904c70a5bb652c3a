/* SPDX-License-Identifier: MIT */
#include "transport/options.h"

#include <errno.h>
#include <netdb.h>
#include <stdint.h>
#include <string.h>

#include "common/log.h"

/*
 * Long enough that the cost of a request does not matter (1.5 million a second at 800 Gb/s), short
 * enough that a doorbell is rung for many of them and that what is sent again after a loss is
 * little.
 */
#define WRITE_BYTES (64u << 10)
/* What 400 Gb/s and 150 us need; more only delays what comes behind it. */
#define WINDOW_BYTES (8u << 20)
#define PAGE	     4096u

static int bad(const char *what, unsigned long long value, const char *remedy)
{
	log_error("transport options: %s is %llu: %s", what, value, remedy);
	return -EINVAL;
}

int rail_parse(const char *text, struct address *address)
{
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	struct addrinfo *found;

	if (text == NULL || getaddrinfo(text, NULL, &hints, &found) != 0) {
		log_error("rail '%.100s': not a numeric address: give the IP address of an RDMA "
			  "port, see vmferry check",
			  text == NULL ? "" : text);
		return -EINVAL;
	}
	*address = (struct address){.length = found->ai_addrlen};
	memcpy(&address->storage, found->ai_addr, found->ai_addrlen);
	freeaddrinfo(found);
	return 0;
}

static int check_rails(const struct vmferry_transport_options *o)
{
	struct address address;
	int ret = 0;

	if (o->rail_count > VMFERRY_RAILS_MAX)
		return bad("rail_count", o->rail_count, "at most 8 rails are possible");
	for (unsigned int i = 0; ret == 0 && i < o->rail_count; i++)
		ret = rail_parse(o->rails[i], &address);
	return ret;
}

static int complete_rdma(struct vmferry_transport_options *o)
{
	if (o->write_bytes == 0)
		o->write_bytes = WRITE_BYTES;
	if (o->window_bytes == 0)
		o->window_bytes =
			o->write_bytes > WINDOW_BYTES / 8 ? 8 * o->write_bytes : WINDOW_BYTES;
	if (o->write_bytes % PAGE != 0 || o->write_bytes > (64u << 20))
		return bad("write_bytes", o->write_bytes, "choose a multiple of 4096 up to 64 MiB");
	if (o->window_bytes < o->write_bytes || o->window_bytes > (1u << 30))
		return bad("window_bytes", o->window_bytes,
			   "choose from one write, see write_bytes, to 1 GiB");
	if (o->tos > UINT8_MAX)
		return bad("tos", o->tos, "it is one byte");
	return check_rails(o);
}

int options_complete(const struct vmferry_transport_options *given,
		     struct vmferry_transport_options *options)
{
	*options = (struct vmferry_transport_options){.size = sizeof(*options)};
	if (given == NULL)
		given = options;
	/* Version 0.1 is the first: a structure that is shorter was never filled in. */
	if (given->size < sizeof(*options))
		return bad("size", given->size,
			   "set it to sizeof(struct vmferry_transport_options)");
	memmove(options, given, sizeof(*options));
	if (options->lanes > VMFERRY_LANES_MAX && options->lanes != VMFERRY_LANES_NONE)
		return bad("lanes", options->lanes, "at most 64 are possible");
	if (options->transport > VMFERRY_TRANSPORT_RDMA)
		return bad("transport", options->transport, "there is no such transport");
	return complete_rdma(options);
}
