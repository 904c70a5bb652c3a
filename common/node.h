/* SPDX-License-Identifier: MIT */
/* Threads and NUMA nodes. */
#ifndef COMMON_NODE_H
#define COMMON_NODE_H

/*
 * Keeps the calling thread, which must be the library's own, to the processors of this node, as far
 * as it may use them already: what somebody has kept the process from stays so. Does nothing for a
 * node that is negative or unknown, or of which no processor is left: it is faster there, and
 * correct anywhere.
 */
void thread_stay_near(int node);

/*
 * The same for a thread that works near one node after the other: where it may be at all is kept.
 */
struct thread_home {
	struct bitmask *allowed; /* NULL: not known, and it stays where it is */
	int node;		 /* that it is near, -1: anywhere */
};

void thread_home_init(struct thread_home *home);
void thread_home_free(struct thread_home *home);

/* -1: anywhere again. Cheap for the node where the thread is already. */
void thread_go_near(struct thread_home *home, int node);

/*
 * The only node that whoever mapped the memory at @address has its pages come from, by mbind(2);
 * -1: there is none, or several.
 */
int memory_node(const void *address);

#endif
