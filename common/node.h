/* SPDX-License-Identifier: MIT */
/* Threads and NUMA nodes. */
#ifndef COMMON_NODE_H
#define COMMON_NODE_H

/*
 * Keeps the calling thread, which must be the library's own, to the processors of this node, as far as it may use them already: what
 * somebody has kept the process from stays so. Does nothing for a node that is negative or unknown, or of which no processor is left: it
 * is faster there, and correct anywhere.
 */
void thread_stay_near(int node);

#endif
