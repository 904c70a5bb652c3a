/* SPDX-License-Identifier: MIT */
/*
 * The first and only process of the Linux guest that crosses in tests/qemu: four workloads, each a
 * thread, whose content checks itself. A wrong byte, a lost connection or a step of the clock is
 * an error line on the report port; progress is a line of counters every half second.
 */
#ifndef TESTS_QEMU_GUEST_WORK_H
#define TESTS_QEMU_GUEST_WORK_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NS_PER_MS 1000000ll
#define NS_PER_S  1000000000ll

/* Progress. A counter has one writer, its workload; the report reads them all. */
struct counters {
	_Atomic uint64_t writes;   /* pages of memory rewritten */
	_Atomic uint64_t checks;   /* pages of memory compared with what they must hold */
	_Atomic uint64_t passes;   /* times that all pages have been compared */
	_Atomic uint64_t files;	   /* files written and synced */
	_Atomic uint64_t reads;	   /* files read back from the disk and compared */
	_Atomic uint64_t sent;	   /* records sent to the peer */
	_Atomic uint64_t received; /* records of the peer's, in order and intact */
	_Atomic uint64_t ticks;	   /* looks at the clocks */
	_Atomic uint64_t gap_us;   /* longest time between two looks at the clocks */
	_Atomic uint64_t errors;
};

extern struct counters counters;

/* Each runs until the machine is switched off. */
void *memory_work(void *arg);
void *file_work(void *arg);
void *peer_work(void *arg);
void *clock_work(void *arg);

/* An error line. The workload goes on where it can, so that one fault does not hide the next. */
__attribute__((format(printf, 1, 2))) void report_error(const char *fmt, ...);

/* Prints why, and switches the machine off: what failed is this program's, not the migration's. */
__attribute__((format(printf, 1, 2), noreturn)) void die(const char *fmt, ...);

/* A number of the kernel's command line, "NAME=VALUE"; init gets these as its environment. */
unsigned long option(const char *name, unsigned long otherwise);

int64_t clock_ns(int clock);
void sleep_ns(int64_t ns);

/* Fills with bytes that only this seed gives; @length is a multiple of 8. */
void fill(void *bytes, size_t length, uint64_t seed);
/* The offset of the first byte that fill() would have made otherwise, or @length. */
size_t find_difference(const void *bytes, size_t length, uint64_t seed);
/* A different seed for each pair. */
uint64_t seed_of(uint64_t object, uint64_t version);

#endif
