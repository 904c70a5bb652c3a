/* SPDX-License-Identifier: MIT */
/* Which RDMA ports the tests run over. */
#ifndef TEST_RAILS_H
#define TEST_RAILS_H

#include <vmferry/transport.h>

/*
 * Options for RDMA over the first @count rails of VMFERRY_RAILS, addresses with a space between;
 * the test fails without.
 */
struct vmferry_transport_options rails_options(unsigned int count);

#endif
