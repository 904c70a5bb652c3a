/* SPDX-License-Identifier: MIT */
/*
 * What the benchmarks measure other processes with: their CPU time without the vCPUs, their memory,
 * and how they are started so that none of them outlives its measurement. Everything here ends the
 * program when it fails: a figure that could not be taken is no figure.
 */
#ifndef PERF_MEASURE_H
#define PERF_MEASURE_H

#include <stdint.h>
#include <sys/types.h>

#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)

uint64_t now_ns(void);
void sleep_ns(uint64_t ns);

/* CPU time of the calling process, of all its threads. */
uint64_t process_cpu_ns(void);

__attribute__((noreturn, format(printf, 1, 2))) void die(const char *fmt, ...);

/* A size with K, M or G behind it, of 1024. */
uint64_t parse_size(const char *text);

/*
 * A real-time priority for the calling thread, where that is allowed: what takes the time must not
 * wait for the measured.
 */
void be_prompt(void);

/*
 * Touches so many bytes of free memory; 0: none. Free memory of a virtual machine may have been
 * given back to its host, and its first touch takes ten times as long then: whoever is measured
 * first would pay for it.
 */
void touch_free_memory(uint64_t bytes);

/*
 * Starts @argv, its standard output silenced; it is killed when this program ends. Fds without
 * FD_CLOEXEC go with it.
 */
pid_t spawn(char *const argv[]);

/*
 * From here on SIGINT and SIGTERM end the program by exit(), with all that was registered by
 * atexit().
 */
void exit_on_signals(void);

/* Asks for nothing any more: kills and reaps. */
void reap(pid_t pid);

/* Stops (or continues) the process, and waits until it is stopped. */
void freeze(pid_t pid);
void thaw(pid_t pid);

struct cpu_time {
	uint64_t all_ns;
	uint64_t vcpus_ns;
};

/*
 * Of a process since it began; ended threads are in all_ns. A thread whose name has @vcpu in it is
 * a vCPU.
 */
struct cpu_time cpu_time(pid_t pid, const char *vcpu);

/*
 * The exit status of a measurement that only has to be taken again (EX_TEMPFAIL): perf/figures.bash
 * knows it, too.
 */
#define MEASURE_AGAIN 75

/*
 * What the process used between the two, its vCPUs not counted. A vCPU's thread that has ended in
 * between took its time along: then this ends the program with MEASURE_AGAIN.
 */
uint64_t cpu_used(struct cpu_time from, struct cpu_time to);

struct memory_use {
	uint64_t rss;	/* of the whole process */
	uint64_t guest; /* allocated in its memfds */
	/* bytes of those pages of the memfds that are not all zero; only if asked for */
	uint64_t nonzero;
};

/* @scan: count the non-zero pages, too, which reads all that is allocated. */
struct memory_use memory_use(pid_t pid, int scan);

#endif
