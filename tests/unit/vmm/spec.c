/* SPDX-License-Identifier: MIT */
/* A machine's description: there and back, spoiled, and against what this host has. */
#include <criterion/criterion.h>
#include <errno.h>

#include "migrator/vmm/spec.h"
#include "quiet.h"

TestSuite(spec, .init = quiet, .timeout = 300);

static struct vmferry_blob *encoded(uint64_t memory, unsigned int vcpus, enum vmm_pages pages)
{
	struct vmm *vmm = aligned_alloc(64, (sizeof(*vmm) + 63) & ~63ul);
	struct vmferry_blob *kvm, *out;

	memset(vmm, 0, sizeof(*vmm));
	vmm->config = (struct vmm_config){
		.memory = memory, .vcpus = vcpus, .pages = pages, .tracker = VMFERRY_TRACKER_RING};
	vmm->ring_entries = 4096;
	cr_assert_eq(vmferry_blob_new(&kvm), 0);
	cr_assert_eq(vmferry_blob_append(kvm, "kvm part", 8), 0);
	cr_assert_eq(vmferry_blob_new(&out), 0);
	cr_assert_eq(spec_encode(vmm, kvm, out), 0);
	vmferry_blob_free(&kvm);
	free(vmm);
	return out;
}

static int decode(const struct vmferry_blob *b, struct spec *spec)
{
	return spec_decode(vmferry_blob_data(b), vmferry_blob_size(b), spec, NULL);
}

/* Encodes, replaces @from by @to of the same length, decodes; returns the problems. */
static size_t problems_with(const char *from, const char *to, int expect)
{
	struct vmferry_blob *b = encoded(32 * MIB, 2, VMM_PAGES_THP);
	size_t size = vmferry_blob_size(b), count;
	char *copy = memcpy(malloc(size), vmferry_blob_data(b), size);
	char *at = memmem(copy, size, from, strlen(from));
	struct vmferry_problems *problems;
	struct spec spec;

	cr_assert_eq(strlen(from), strlen(to));
	cr_assert(at, "no %s", from);
	memcpy(at, to, strlen(to));
	cr_assert_eq(vmferry_problems_new(&problems), 0);
	cr_assert_eq(spec_decode(copy, size, &spec, problems), expect, "%s", to);
	count = vmferry_problems_count(problems);
	vmferry_problems_free(&problems);
	free(copy);
	vmferry_blob_free(&b);
	return count;
}

static bool names(const struct vmferry_problems *problems, const char *what)
{
	for (size_t i = 0; vmferry_problems_get(problems, i); i++) {
		if (strstr(vmferry_problems_get(problems, i), what))
			return true;
	}
	return false;
}

Test(spec, round_trip__same_machine)
{
	struct vmferry_blob *b = encoded(5 * GIB, 3, VMM_PAGES_HUGE);
	struct spec spec;

	cr_assert_eq(decode(b, &spec), 0);
	cr_assert_eq(spec.memory, 5 * GIB);
	cr_assert_eq(spec.vcpus, 3);
	cr_assert_eq(spec.pages, VMM_PAGES_HUGE);
	cr_assert_eq(spec.tracker, VMFERRY_TRACKER_RING);
	cr_assert_eq(spec.ring_entries, 4096);
	cr_assert_eq(spec.kvm_length, 8);
	cr_assert_arr_eq(spec.kvm, "kvm part", 8);
	vmferry_blob_free(&b);
}

Test(spec, cut_anywhere__eproto)
{
	struct vmferry_blob *b = encoded(32 * MIB, 2, VMM_PAGES_THP);
	struct spec spec;

	for (size_t n = 0; n < vmferry_blob_size(b); n++) {
		void *cut = malloc(n ? n : 1);

		memcpy(cut, vmferry_blob_data(b), n);
		cr_assert_eq(spec_decode(cut, n, &spec, NULL), -EPROTO, "%zu bytes", n);
		free(cut);
	}
	vmferry_blob_free(&b);
}

Test(spec, nonsense__eproto)
{
	problems_with("\"vcpus\":2", "\"vcpus\":[", -EPROTO);
	problems_with("\"vcpus\":2", "\"vcpux\":2", -EPROTO);
	problems_with("\"pages\":\"thp\"", "\"pages\":12345", -EPROTO);
	problems_with("\"memory\":3", "\"memory\":-", -EPROTO);
}

Test(spec, what_only_a_newer_version_has__named)
{
	cr_assert_eq(problems_with("\"version\":1", "\"version\":2", 0), 1);
	cr_assert_eq(problems_with("\"heartbeat\"", "\"blinkenli\"", 0), 1);
	cr_assert_eq(problems_with("\"irqchip\":\"kvm\"", "\"irqchip\":\"two\"", 0), 1);
	cr_assert_eq(problems_with("\"pages\":\"thp\"", "\"pages\":\"xxl\"", 0), 1);
}

Test(spec, host_lacks_everything__all_in_one_list)
{
	struct spec spec = {.memory = 4096 * GIB, .vcpus = 999, .pages = VMM_PAGES_HUGE, .kvm = ""};
	struct vmm_arrival arrival = {.console_fd = -1, .numa_node = 1000, .memory_limit = GIB};
	struct vmferry_problems *problems;

	cr_assert_eq(vmferry_problems_new(&problems), 0);
	/*
	 * The empty KVM part is no description: whether that is an error is the library's affair.
	 */
	spec_check(&spec, &arrival, problems);
	cr_assert(names(problems, "999 vcpus"));
	cr_assert(names(problems, "NUMA node 1000"));
	cr_assert(names(problems, "huge pages"));
	cr_assert(names(problems, "4194304 MiB of memory, the limit here is 1024 MiB"));
	vmferry_problems_free(&problems);
}

Test(spec, more_memory_than_free__named_with_numbers)
{
	struct spec spec = {.memory = 4096 * GIB, .vcpus = 1, .kvm = ""};
	struct vmm_arrival arrival = {.console_fd = -1, .numa_node = -1};
	struct vmferry_problems *problems;

	cr_assert_eq(vmferry_problems_new(&problems), 0);
	spec_check(&spec, &arrival, problems);
	cr_assert(names(problems, "4194304 MiB of memory, available here are"));
	vmferry_problems_free(&problems);
}
