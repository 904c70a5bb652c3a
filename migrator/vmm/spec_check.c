/* SPDX-License-Identifier: MIT */
/* Whether this host can be home to a machine: every lack is named, with numbers and what to do. */
#include <errno.h>
#include <fcntl.h>
#include <numa.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <vmferry/kvm.h>

#include "log.h"
#include "spec.h"

#define HUGE_POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"

__attribute__((format(printf, 3, 4))) static void add(struct vmferry_problems *problems,
						      const char *remedy, const char *fmt, ...)
{
	char text[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	vmferry_problems_add(problems, text, remedy);
}

/* The number behind @key in the first line of @path that begins with it. */
static int read_number(const char *path, const char *key, uint64_t *value)
{
	FILE *f = fopen(path, "re");
	size_t length = strlen(key);
	char line[128], *end;
	int err = -ENODATA;

	while (f && err && fgets(line, sizeof(line), f)) {
		if (strncmp(line, key, length) != 0)
			continue;
		*value = strtoull(line + length, &end, 10);
		err = end == line + length ? -ENODATA : 0;
	}
	if (f)
		fclose(f);
	return err;
}

static int memory_available(uint64_t *bytes)
{
	uint64_t kib;
	int err = read_number("/proc/meminfo", "MemAvailable:", &kib);

	if (err)
		vmm_error("arrival: /proc/meminfo does not say how much memory is available");
	else
		*bytes = kib * 1024;
	return err;
}

static uint64_t huge_available(void)
{
	uint64_t pages;

	return read_number(HUGE_POOL, "", &pages) ? 0 : pages * HUGE_PAGE_BYTES;
}

static void check_huge(const struct spec *spec, struct vmferry_problems *problems)
{
	uint64_t pool = huge_available();

	if (spec->memory > pool)
		add(problems,
		    "raise /proc/sys/vm/nr_hugepages, or run the guest without huge pages",
		    "the guest's %llu MiB are huge pages, of which %llu MiB are free here",
		    (unsigned long long)(spec->memory / MIB), (unsigned long long)(pool / MIB));
}

static int check_memory(const struct spec *spec, uint64_t limit, struct vmferry_problems *problems)
{
	uint64_t available = limit;
	int err = 0;

	if (spec->memory < VMM_MEMORY_MIN || spec->memory > VMM_MEMORY_MAX ||
	    spec->memory % HUGE_PAGE_BYTES) {
		add(problems, "use the same version of vmferry on both hosts",
		    "a guest of %llu bytes of memory is not possible here",
		    (unsigned long long)spec->memory);
		return 0;
	}
	if (spec->pages == VMM_PAGES_HUGE)
		check_huge(spec, problems);
	else if (!limit)
		err = memory_available(&available);
	if (!err && available && spec->memory > available)
		add(problems, limit ? "raise the limit" : "free memory here or choose another host",
		    "the guest has %llu MiB of memory, %s %llu MiB",
		    (unsigned long long)(spec->memory / MIB),
		    limit ? "the limit here is" : "available here are",
		    (unsigned long long)(available / MIB));
	return err;
}

static void check_vcpus(const struct spec *spec, int kvm_fd, struct vmferry_problems *problems)
{
	int most = kvm_fd < 0 ? 0 : ioctl(kvm_fd, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS);

	if (most <= 0 || most > VMM_VCPUS_MAX)
		most = VMM_VCPUS_MAX;
	if (spec->vcpus == 0 || spec->vcpus > (unsigned int)most)
		add(problems, "give the guest fewer",
		    "the guest has %u vcpus, 1 to %d are possible here", spec->vcpus, most);
}

static void check_node(int node, struct vmferry_problems *problems)
{
	if (node >= 0 && (numa_available() < 0 || node > numa_max_node()))
		add(problems, "leave the node out", "there is no NUMA node %d here", node);
}

int spec_check(const struct spec *spec, const struct vmm_arrival *arrival,
	       struct vmferry_problems *problems)
{
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int err;

	if (kvm_fd < 0)
		add(problems,
		    "enable virtualization, load kvm_intel or kvm_amd, join the group kvm",
		    "/dev/kvm cannot be opened: %s", strerror(errno));
	check_vcpus(spec, kvm_fd, problems);
	check_node(arrival->numa_node, problems);
	err = check_memory(spec, arrival->memory_limit, problems);
	if (kvm_fd < 0)
		return err;
	if (!err)
		err = vmferry_kvm_check(kvm_fd, spec->kvm, spec->kvm_length, problems);
	close(kvm_fd);
	return err;
}
