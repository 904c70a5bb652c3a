/* SPDX-License-Identifier: MIT */
/*
 * Processes between the two ends of a link that do nothing but hand bytes on, between a unix socket
 * and TCP: the least that an adaptor between two programs can cost.
 */
#ifndef PERF_HOPS_H
#define PERF_HOPS_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Starts a process that hands on what comes from here to @fds, or what comes from @fds to here when
 * @inward, one thread for each of @count sockets. @fds become this end's unix sockets. The CPU time
 * that it used goes to @cpu_ns, which is shared memory, before it ends, which it does when the
 * bytes end. @bytes: of one system call.
 */
void hop_start(int *fds, unsigned int count, bool inward, bool splices, uint64_t bytes,
	       uint64_t *cpu_ns);

#endif
