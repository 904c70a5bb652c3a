/* SPDX-License-Identifier: MIT */
/* The options of how memory travels, which both sides of a migration have. */
#include "settings.h"

#include <netdb.h>

static const char *const transport_choices[] = {"auto", "tcp", "rdma", NULL};

#define AT(member) offsetof(struct transport_settings, member)

static const struct option_spec transport_specs[] = {
	OPTION("transport", "KIND", "auto",
	       "How memory travels: rdma; tcp; or auto, RDMA where both sides have it and may pin "
	       "the memory, else TCP.",
	       OPTION_CHOICE, AT(kind), .choices = transport_choices),
	OPTION("rail", "ADDR", NULL,
	       "Address of an RDMA port of this side, an IPv4 or IPv6 address as vmferry check "
	       "shows it. May be repeated: lanes are spread over all rails. Without it a source "
	       "takes the port that leads to the other side, and a receiver that of the address "
	       "where it listens, else its first.",
	       OPTION_LIST, AT(rails), .max = VMFERRY_RAILS_MAX),
	OPTION("odp", NULL, "no", "Do not pin memory for RDMA where the device can page on demand.",
	       OPTION_SWITCH, AT(odp)),
	OPTION("tos", "N", "0",
	       "IP type of service of RDMA packets, as the fabric's configuration wants it; 0 is "
	       "the system's.",
	       OPTION_COUNT, AT(tos), .max = UINT8_MAX),
	{.name = NULL},
};

#undef AT

const struct option_group transport_group = {"Transport options", transport_specs};

static bool is_address(const char *text)
{
	const struct addrinfo hints = {.ai_flags = AI_NUMERICHOST};
	struct addrinfo *found;

	if (getaddrinfo(text, NULL, &hints, &found) != 0)
		return false;
	freeaddrinfo(found);
	return true;
}

const char *transport_check(const struct transport_settings *transport)
{
	for (unsigned int i = 0; i < transport->rails.count; i++)
		if (!is_address(transport->rails.items[i]))
			return "--rail: not a numeric address: vmferry check shows those of the "
			       "RDMA ports";
	return NULL;
}

void transport_options(const struct transport_settings *transport,
		       struct vmferry_transport_options *options)
{
	*options = (struct vmferry_transport_options){
		.size = sizeof(*options),
		.transport = (enum vmferry_transport)transport->kind,
		.rail_count = transport->rails.count,
		.odp = transport->odp,
		.tos = (unsigned int)transport->tos,
	};
	for (unsigned int i = 0; i < transport->rails.count; i++)
		options->rails[i] = transport->rails.items[i];
}
