/* SPDX-License-Identifier: MIT */
/*
 * Threads near nodes: on a host that has nodes 0 and 1, with one processor each, whatever this one
 * has.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#include "common/node.h"

/* The linker makes this name. */
int __wrap_numa_node_to_cpus(int node, struct bitmask *cpus);

int __wrap_numa_node_to_cpus(int node, struct bitmask *cpus)
{
	if (node > 1) {
		errno = EINVAL;
		return -1;
	}
	numa_bitmask_clearall(cpus);
	numa_bitmask_setbit(cpus, (unsigned int)node);
	return 0;
}

static cpu_set_t before;

static void setup(void)
{
	if (numa_available() < 0)
		cr_skip_test("this kernel has no NUMA");
	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	if (!CPU_ISSET(0, &before) || !CPU_ISSET(1, &before))
		cr_skip_test("processors 0 and 1 are not there or may not be used");
}

TestSuite(node, .init = setup, .timeout = 20);

static void expect_on(int cpu)
{
	cpu_set_t set;

	cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	cr_expect_eq(CPU_COUNT(&set), 1);
	cr_expect(CPU_ISSET(cpu, &set));
}

static void expect_as_before(void)
{
	cpu_set_t set;

	cr_assert_eq(sched_getaffinity(0, sizeof(set), &set), 0);
	cr_expect(CPU_EQUAL(&set, &before));
}

Test(node, known__there)
{
	thread_stay_near(1);
	expect_on(1);
}

static void *go_to_node_1(void *arg)
{
	thread_stay_near(1);
	expect_on(1);
	return arg;
}

Test(node, thread_goes__others_stay)
{
	pthread_t thread;

	cr_assert_eq(pthread_create(&thread, NULL, go_to_node_1, NULL), 0);
	pthread_join(thread, NULL);
	expect_as_before();
}

Test(node, not_known_or_not_there__anywhere)
{
	thread_stay_near(-1);
	thread_stay_near(2);
	expect_as_before();
}

/* Somebody has kept the process to processor 0. */
Test(node, none_of_its_processors_allowed__where_it_was)
{
	CPU_ZERO(&before);
	CPU_SET(0, &before);
	cr_assert_eq(sched_setaffinity(0, sizeof(before), &before), 0);
	thread_stay_near(1);
	expect_on(0);
}

Test(node, from_node_to_node__each_and_back)
{
	struct thread_home home;

	thread_home_init(&home);
	thread_go_near(&home, 0);
	expect_on(0);
	thread_go_near(&home, 1);
	expect_on(1);
	thread_go_near(&home, 1);
	expect_on(1);
	/* Where there is none it is at home, and not near the last one. */
	thread_go_near(&home, 2);
	expect_as_before();
	thread_go_near(&home, 0);
	expect_on(0);
	thread_go_near(&home, -1);
	expect_as_before();
	thread_home_free(&home);
	thread_go_near(&home, 1);
	expect_as_before();
}

#define PAGE 4096

static void bind_to_node_0(void *memory)
{
	struct bitmask *nodes = numa_allocate_nodemask();

	numa_bitmask_setbit(nodes, 0);
	cr_assert_eq(mbind(memory, PAGE, MPOL_BIND, nodes->maskp, nodes->size + 1, 0), 0);
	numa_free_nodemask(nodes);
}

/* Every host has node 0. Nothing is touched for the answer. */
Test(node, memory__the_node_that_it_is_bound_to)
{
	char *memory = mmap(NULL, (size_t)3 * PAGE, PROT_READ | PROT_WRITE,
			    MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	unsigned char there;

	cr_assert_neq(memory, MAP_FAILED);
	cr_expect_eq(memory_node(memory), -1);
	bind_to_node_0(memory + PAGE);
	cr_expect_eq(memory_node(memory), -1);
	cr_expect_eq(memory_node(memory + PAGE), 0);
	cr_expect_eq(memory_node(memory + 2 * PAGE), -1);
	cr_assert_eq(mincore(memory + PAGE, PAGE, &there), 0);
	cr_expect_eq(there & 1, 0);
	munmap(memory, (size_t)3 * PAGE);
	cr_expect_eq(memory_node(memory), -1);
}
