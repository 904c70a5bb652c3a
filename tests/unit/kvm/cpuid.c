/* SPDX-License-Identifier: MIT */
/* Comparing CPUID tables, with made-up processors. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <migrator/kvm/cpuid.h>

enum { LEAF_VENDOR, LEAF_1, LEAF_7, LEAF_D0, LEAF_D2, LEAF_KVM, LEAF_KVM_BITS, LEAF_PHYS, LEAVES };

static struct kvm_cpuid2 *guest;
static struct kvm_cpuid2 *host;
static struct vmferry_problems *problems;

static void make_table(struct kvm_cpuid2 **c)
{
	static const struct kvm_cpuid_entry2 leaves[LEAVES] = {
		[LEAF_VENDOR] = {.function = 0,
				 .eax = 0x16,
				 .ebx = 0x756e6547,
				 .ecx = 0x6c65746e,
				 .edx = 0x49656e69},
		[LEAF_1] = {.function = 1, .eax = 0x50657, .ecx = 0x80202001, .edx = 0x078bfbff},
		[LEAF_7] = {.function = 7, .flags = 1, .ebx = 0x20, .ecx = 4},
		[LEAF_D0] = {.function = 0xd, .flags = 1, .eax = 7, .ebx = 0x240, .ecx = 0x340},
		[LEAF_D2] = {.function = 0xd, .index = 2, .flags = 1, .eax = 0x100, .ebx = 0x240},
		[LEAF_KVM] = {.function = 0x40000000,
			      .eax = 0x40000001,
			      .ebx = 0x4b4d564b,
			      .ecx = 0x564b4d56,
			      .edx = 0x4d},
		[LEAF_KVM_BITS] = {.function = 0x40000001, .eax = 0x3},
		[LEAF_PHYS] = {.function = 0x80000008, .eax = 0x302e, .ebx = 0x1000},
	};

	cr_assert_eq(cpuid_new(LEAVES, leaves, c), 0);
}

static void make(void)
{
	make_table(&guest);
	make_table(&host);
	cr_assert_eq(vmferry_problems_new(&problems), 0);
}

static void drop(void)
{
	free(guest);
	free(host);
	vmferry_problems_free(&problems);
}

TestSuite(cpuid, .init = make, .fini = drop, .timeout = 300);

static void expect_one(const char *part)
{
	const char *text;

	cpuid_compare(guest, host, problems);
	cr_assert_eq(vmferry_problems_count(problems), 1, "%zu problems",
		     vmferry_problems_count(problems));
	text = vmferry_problems_get(problems, 0);
	cr_expect(strstr(text, part) != NULL, "\"%s\" lacks \"%s\"", text, part);
}

static void expect_none(void)
{
	cpuid_compare(guest, host, problems);
	cr_expect_eq(vmferry_problems_count(problems), 0, "%s",
		     vmferry_problems_count(problems) ? vmferry_problems_get(problems, 0) : "");
}

Test(cpuid, same__no_problem)
{
	expect_none();
}

Test(cpuid, host_has_more__no_problem)
{
	host->entries[LEAF_1].ecx = ~0u;
	host->entries[LEAF_7].ebx = ~0u;
	host->entries[LEAF_VENDOR].eax = 0x1f;
	host->entries[LEAF_D0].ecx = 0x1000;
	host->entries[LEAF_PHYS].eax = 0x3934;
	expect_none();
}

Test(cpuid, bit_missing__named_with_remedy)
{
	guest->entries[LEAF_7].ecx |= 1u << 11;
	expect_one("avx512_vnni (leaf 0x7.0, ecx, bit 11)");
	cr_expect(strstr(vmferry_problems_get(problems, 0), "avx512_vnni masked") != NULL);
}

Test(cpuid, bit_without_a_name_missing__told_by_position)
{
	guest->entries[LEAF_7].ecx |= 1u << 17;
	expect_one("(leaf 0x7.0, ecx, bit 17)");
}

Test(cpuid, each_bit_of_leaf_7_missing__told_once_each)
{
	for (unsigned int bit = 0; bit < 32; bit++) {
		char where[40];

		drop();
		make();
		if (host->entries[LEAF_7].ebx & 1u << bit)
			continue;
		guest->entries[LEAF_7].ebx |= 1u << bit;
		snprintf(where, sizeof(where), "leaf 0x7.0, ebx, bit %u)", bit);
		expect_one(where);
	}
}

Test(cpuid, several_missing__one_line_each)
{
	guest->entries[LEAF_1].ecx |= 1u << 25 | 1u << 28;
	guest->entries[LEAF_7].edx |= 1u << 26;
	cpuid_compare(guest, host, problems);
	cr_assert_eq(vmferry_problems_count(problems), 3);
	cr_expect(strstr(vmferry_problems_get(problems, 0), "aes") != NULL);
	cr_expect(strstr(vmferry_problems_get(problems, 1), "avx") != NULL);
	cr_expect(strstr(vmferry_problems_get(problems, 2), "spec_ctrl") != NULL);
}

Test(cpuid, bits_that_mirror_registers_or_topology__free)
{
	guest->entries[LEAF_1].ecx |= 1u << 27;
	guest->entries[LEAF_1].edx |= 1u << 28;
	guest->entries[LEAF_1].eax = 0x806f8;
	guest->entries[LEAF_1].ebx = 0x03040800;
	guest->entries[LEAF_7].ecx |= 1u << 4;
	guest->entries[LEAF_D0].ebx = 0x340;
	expect_none();
}

Test(cpuid, other_vendor__both_named)
{
	host->entries[LEAF_VENDOR].ebx = 0x68747541;
	host->entries[LEAF_VENDOR].edx = 0x69746e65;
	host->entries[LEAF_VENDOR].ecx = 0x444d4163;
	expect_one("the guest has \"GenuineIntel\", this host \"AuthenticAMD\"");
}

Test(cpuid, highest_leaf_greater__told)
{
	guest->entries[LEAF_VENDOR].eax = 0x1f;
	expect_one("highest basic leaf");
}

Test(cpuid, xsave_area_larger__told)
{
	guest->entries[LEAF_D0].ecx = 0xa88;
	expect_one("size of the xsave area");
}

Test(cpuid, xcr0_bit_missing__named)
{
	guest->entries[LEAF_D0].eax |= 1u << 5;
	expect_one("xcr0_opmask");
}

Test(cpuid, xsave_component_elsewhere__told)
{
	guest->entries[LEAF_D2].ebx = 0x300;
	expect_one("offset of an xsave component");
}

Test(cpuid, physical_bits_greater__told_as_numbers)
{
	guest->entries[LEAF_PHYS].eax = 0x3034;
	expect_one("physical address bits (leaf 0x80000008.0, eax): the guest has 0x34, this host "
		   "0x2e");
}

Test(cpuid, linear_bits_greater__told)
{
	guest->entries[LEAF_PHYS].eax = 0x392e;
	expect_one("linear address bits");
}

Test(cpuid, leaf_that_host_lacks__its_bits_are_missing)
{
	host->entries[LEAF_7].function = 0x0fffffff;
	guest->entries[LEAF_7].ecx = 0;
	expect_one("avx2");
}

Test(cpuid, kvm_feature_missing__named)
{
	guest->entries[LEAF_KVM_BITS].eax |= 1u << 5;
	expect_one("kvm_steal_time");
}

Test(cpuid, other_hypervisors_leaves__free)
{
	guest->entries[LEAF_KVM].ebx = 0x7263694d;
	guest->entries[LEAF_KVM_BITS].eax = 0x31237648;
	expect_none();
}

Test(cpuid, caches_and_topology__free)
{
	guest->entries[LEAF_7] = (struct kvm_cpuid_entry2){
		.function = 0xb, .flags = 1, .eax = 1, .ebx = 2, .ecx = 0x100, .edx = 5};
	guest->entries[LEAF_D2] = (struct kvm_cpuid_entry2){
		.function = 4, .flags = 1, .eax = 0x4000121, .ebx = 0x1c0003f, .ecx = 0x3f};
	expect_none();
}

Test(cpuid, merge__adds_bits_and_leaves_not_numbers)
{
	guest->entries[LEAF_7].ecx |= 1u << 11;
	guest->entries[LEAF_PHYS].eax = 0x3934;
	guest->entries[LEAF_D2].index = 9;
	cr_assert_eq(cpuid_merge(&host, guest), 0);
	cr_expect_eq(host->nent, LEAVES + 1);
	cr_expect_eq(cpuid_find(host, 7, 0)->ecx, 4 | 1u << 11);
	cr_expect_eq(cpuid_find(host, 0x80000008, 0)->eax, 0x302e);
	cr_expect_not_null(cpuid_find(host, 0xd, 9));
}

Test(cpuid, same_but_for_osxsave__same)
{
	guest->entries[LEAF_1].ecx |= 1u << 27;
	cr_expect(cpuid_same(guest, host));
	guest->entries[LEAF_1].ecx |= 1u << 26;
	cr_expect_not(cpuid_same(guest, host));
}
