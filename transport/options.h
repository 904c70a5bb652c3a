/* SPDX-License-Identifier: MIT */
/* Checks the options of a listener or session and completes them from defaults. */
#ifndef TRANSPORT_OPTIONS_H
#define TRANSPORT_OPTIONS_H

#include <vmferry/transport.h>

/* @given may be NULL. -EINVAL, or -ENOTSUP for a transport that this version has not, with the reason logged. */
int options_complete(const struct vmferry_transport_options *given,
		     struct vmferry_transport_options *options);

#endif
