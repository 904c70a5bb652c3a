/* SPDX-License-Identifier: MIT */
#include "transport/options.h"

#include <errno.h>
#include <string.h>

#include "common/log.h"

int options_complete(const struct vmferry_transport_options *given,
		     struct vmferry_transport_options *options)
{
	*options = (struct vmferry_transport_options){.size = sizeof(*options)};
	if (given == NULL)
		given = options;
	/* Version 0.1 is the first: a structure that is shorter was never filled in. */
	if (given->size < sizeof(*options)) {
		log_error("transport options: size is %zu: set it to sizeof(struct "
			  "vmferry_transport_options)",
			  given->size);
		return -EINVAL;
	}
	memmove(options, given, sizeof(*options));
	if (options->lanes > VMFERRY_LANES_MAX && options->lanes != VMFERRY_LANES_NONE) {
		log_error("transport options: %u lanes: at most %d are possible", options->lanes,
			  VMFERRY_LANES_MAX);
		return -EINVAL;
	}
	switch (options->transport) {
	case VMFERRY_TRANSPORT_AUTO:
	case VMFERRY_TRANSPORT_TCP:
		options->transport = VMFERRY_TRANSPORT_TCP;
		return 0;
	case VMFERRY_TRANSPORT_RDMA:
		log_error("transport options: rdma is not in this version: choose tcp or auto");
		return -ENOTSUP;
	}
	log_error("transport options: there is no transport %d", (int)options->transport);
	return -EINVAL;
}
