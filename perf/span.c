/* SPDX-License-Identifier: MIT */
/*
 * To be preloaded into perftest's client: tells the CPU time of its transfer alone, without its
 * start and its end, which take more than what is looked for. perftest talks to its server over a
 * socket before and after the transfer and not during it: so of the times between two read() calls
 * the longest is the transfer. Printed to standard error when the program ends, as perf-lanes does.
 */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

struct moment {
	double wall;
	double user;
	double system;
};

static struct moment last, longest;

static struct moment now(void)
{
	struct timespec ts;
	struct rusage usage;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	getrusage(RUSAGE_SELF, &usage);
	return (struct moment){
		(double)ts.tv_sec + (double)ts.tv_nsec * 1e-9,
		(double)usage.ru_utime.tv_sec + (double)usage.ru_utime.tv_usec * 1e-6,
		(double)usage.ru_stime.tv_sec + (double)usage.ru_stime.tv_usec * 1e-6};
}

static void look(void)
{
	struct moment at = now();

	if (last.wall > 0 && at.wall - last.wall > longest.wall)
		longest = (struct moment){at.wall - last.wall, at.user - last.user,
					  at.system - last.system};
}

__attribute__((visibility("default"))) ssize_t read(int fd, void *buffer, size_t count)
{
	static ssize_t (*real)(int, void *, size_t);
	ssize_t n;

	if (real == NULL)
		*(void **)&real = dlsym(RTLD_NEXT, "read");
	look();
	n = real(fd, buffer, count);
	last = now();
	return n;
}

__attribute__((destructor)) static void tell(void)
{
	look();
	fprintf(stderr, "span_seconds %.6f\nspan_user_seconds %.6f\nspan_system_seconds %.6f\n",
		longest.wall, longest.user, longest.system);
}
