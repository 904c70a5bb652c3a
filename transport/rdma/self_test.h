/* SPDX-License-Identifier: MIT */
/* The parts of vmferry_rdma_self_test(), which know nothing of RDMA. */
#ifndef RDMA_SELF_TEST_H
#define RDMA_SELF_TEST_H

#include <vmferry/rdma.h>
#include <vmferry/transport.h>

/* As vmferry_rdma_self_test(), over whatever the options say. */
int self_test_run(const struct vmferry_transport_options *options, uint64_t deadline,
		  struct vmferry_rdma_self_test *result);

/* Every word says where it belongs and of which @round it is. */
void self_test_fill(uint64_t *words, size_t count, uint64_t round);

/* The first word that is not as filled; @count: there is none. */
size_t self_test_compare(const uint64_t *words, size_t count, uint64_t round);

#endif
