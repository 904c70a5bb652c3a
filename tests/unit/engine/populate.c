/* SPDX-License-Identifier: MIT */
/*
 * Populating memory: all of it, and from where. The host has nodes 0 and 1, with one processor
 * each, whatever this one has (--wrap).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <numa.h>
#include <numaif.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "migrator/engine/populate.h"

#define MIB   (1ull << 20)
#define PAGE  4096ull
#define STEPS 64

/* The linker makes these names. */
int __wrap_numa_node_to_cpus(int node, struct bitmask *cpus);
long __wrap_get_mempolicy(int *mode, unsigned long *nodes, unsigned long maxnode, void *address,
			  unsigned int flags);
int __real_madvise(void *address, size_t length, int advice);
int __wrap_madvise(void *address, size_t length, int advice);

/* Three regions: bound to node 0, bound to node 1, bound to none. */
#define REGION (24 * MIB)
static char *memory;

static int region_of(const void *address)
{
	return (int)((uint64_t)((const char *)address - memory) / REGION);
}

int __wrap_numa_node_to_cpus(int node, struct bitmask *cpus)
{
	numa_bitmask_clearall(cpus);
	numa_bitmask_setbit(cpus, (unsigned int)node);
	return 0;
}

long __wrap_get_mempolicy(int *mode, unsigned long *nodes, unsigned long maxnode, void *address,
			  unsigned int flags)
{
	int node = region_of(address);

	cr_assert_eq(flags, MPOL_F_ADDR);
	cr_assert_gt(maxnode, 2);
	*mode = node < 2 ? MPOL_BIND : MPOL_DEFAULT;
	if (node < 2)
		nodes[0] |= 1ul << node;
	return 0;
}

struct step {
	int region;
	cpu_set_t cpus; /* where the thread could be */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct step steps[STEPS];
static unsigned int step_count;

int __wrap_madvise(void *address, size_t length, int advice)
{
	if (advice == MADV_POPULATE_WRITE) {
		struct step step = {.region = region_of(address)};

		cr_assert_eq(sched_getaffinity(0, sizeof(step.cpus), &step.cpus), 0);
		pthread_mutex_lock(&lock);
		cr_assert_lt(step_count, STEPS);
		steps[step_count++] = step;
		pthread_mutex_unlock(&lock);
	}
	return __real_madvise(address, length, advice);
}

static void set_up(void)
{
	memory = mmap(NULL, 3 * REGION, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	cr_assert_neq(memory, MAP_FAILED);
}

static void tear_down(void)
{
	munmap(memory, 3 * REGION);
}

TestSuite(populate, .timeout = 30, .init = set_up, .fini = tear_down);

static bool is_present(uint64_t offset)
{
	unsigned char there = 0;

	cr_assert_eq(mincore(memory + offset, PAGE, &there), 0);
	return (there & 1) != 0;
}

static void populate_all(const struct populate_range *ranges, unsigned int count)
{
	struct populate *populate;

	cr_assert_eq(populate_start(ranges, count, &populate), 0);
	cr_expect_eq(populate_wait(populate, vmferry_now() + 20 * NS_PER_S), 0);
	cr_expect_gt(populate_ns(populate), 0);
	populate_finish(&populate);
	cr_expect_null(populate);
}

Test(populate, ranges__they_and_nothing_else)
{
	const struct populate_range ranges[] = {{memory + PAGE, 17 * MIB},
						{memory + 30 * MIB, PAGE}};

	populate_all(ranges, 2);
	cr_expect_not(is_present(0));
	for (uint64_t offset = PAGE; offset < 17 * MIB + PAGE; offset += PAGE)
		cr_assert(is_present(offset), "at %llu", (unsigned long long)offset);
	cr_expect_not(is_present(17 * MIB + PAGE));
	cr_expect(is_present(30 * MIB));
	cr_expect_not(is_present(30 * MIB + PAGE));
}

Test(populate, bound_memory__from_its_node_and_the_rest_from_anywhere)
{
	const struct populate_range ranges[] = {
		{memory, REGION}, {memory + REGION, REGION}, {memory + 2 * REGION, REGION}};
	cpu_set_t before;
	cpu_set_t after;

	if (numa_available() < 0)
		cr_skip_test("this kernel has no NUMA");
	cr_assert_eq(sched_getaffinity(0, sizeof(before), &before), 0);
	if (!CPU_ISSET(0, &before) || !CPU_ISSET(1, &before))
		cr_skip_test("processors 0 and 1 are not there or may not be used");
	populate_all(ranges, 3);
	cr_assert_eq(step_count, 9);
	for (unsigned int i = 0; i < step_count; i++) {
		const struct step *step = &steps[i];

		if (step->region == 2) {
			cr_expect(CPU_EQUAL(&step->cpus, &before), "step %u", i);
			continue;
		}
		cr_expect_eq(CPU_COUNT(&step->cpus), 1, "step %u", i);
		cr_expect(CPU_ISSET(step->region, &step->cpus), "step %u", i);
	}
	cr_assert_eq(sched_getaffinity(0, sizeof(after), &after), 0);
	cr_expect(CPU_EQUAL(&after, &before), "the caller's thread was moved");
}

Test(populate, nothing__over_at_once)
{
	struct populate *populate;

	cr_assert_eq(populate_start(NULL, 0, &populate), 0);
	cr_expect_eq(populate_wait(populate, vmferry_now() + NS_PER_S), 0);
	populate_finish(&populate);
	populate_finish(&populate);
}
