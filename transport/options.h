/* SPDX-License-Identifier: MIT */
/* Checks the options of a listener or session and completes them from defaults. */
#ifndef TRANSPORT_OPTIONS_H
#define TRANSPORT_OPTIONS_H

#include <vmferry/transport.h>

#include "transport/socket.h"

/* @given may be NULL. -EINVAL with the reason logged. */
int options_complete(const struct vmferry_transport_options *given,
		     struct vmferry_transport_options *options);

/* A rail's address, which must be numeric; port 0. */
int rail_parse(const char *text, struct address *address);

#endif
