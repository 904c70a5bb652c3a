/* SPDX-License-Identifier: MIT */
/* The human monitor's texts, as QEMU 7.2 and 10.0 write them. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "fixture.h"
#include "migrator/qemu/placement_parts.h"

static uint64_t gpa;
static uint64_t offset;

Test(ask, ramblock__has_addresses_since_8_0)
{
	char *old = fixture_text("7.2-memfd-nodes.ramblock");
	char *new = fixture_text("10.0-private.ramblock");

	cr_expect_eq(placement_ramblock_address(old, "m0"), 0);
	cr_expect_eq(placement_ramblock_address(new, "pc.ram"), 0x7fa227e00000);
	cr_expect_eq(placement_ramblock_address(new, "/rom@etc/acpi/rsdp"), 0x7fa226800000);
	cr_expect_eq(placement_ramblock_address(new, "pc"), 0);
	cr_expect_eq(placement_ramblock_address("", "pc"), 0);
	free(old);
	free(new);
}

Test(ask, mtree__names_an_address_of_each_block)
{
	char *text = fixture_text("7.2-memfd-nodes.mtree");

	cr_assert(placement_mtree_find(text, "m0", &gpa, &offset));
	cr_expect_eq(gpa, 0);
	cr_expect_eq(offset, 0);
	cr_assert(placement_mtree_find(text, "m1", &gpa, &offset));
	cr_expect_eq(gpa, 256 * MIB);
	cr_expect_eq(offset, 0);
	cr_expect_not(placement_mtree_find(text, "m", &gpa, &offset));
	/* It is there, but not as RAM. */
	cr_expect_not(placement_mtree_find(text, "pc.bios", &gpa, &offset));
	cr_expect_not(placement_mtree_find("", "m0", &gpa, &offset));
	free(text);
}

Test(ask, mtree__offsets_and_what_kvm_adds)
{
	static const char text[] =
		"FlatView #1\n AS \"memory\", root: system\n Root memory region: system\n"
		"  0000000000100000-000000000fffffff (prio 0, ram): pc.ram @0000000000100000 KVM\n"
		"  0000000010000000-000000001fffffff (prio 0, ram): node KVM\n";

	cr_assert(placement_mtree_find(text, "pc.ram", &gpa, &offset));
	cr_expect_eq(gpa, MIB);
	cr_expect_eq(offset, MIB);
	cr_assert(placement_mtree_find(text, "node", &gpa, &offset));
	cr_expect_eq(offset, 0);
}

/* The same address of another address space is another memory's. */
Test(ask, mtree__only_of_the_address_space_memory)
{
	static const char text[] = "FlatView #0\n AS \"I/O\", root: io\n"
				   "  0000000000000000-000000000fffffff (prio 0, ram): m0\n"
				   "FlatView #1\n AS \"cpu-smm-0\", root: memory\n"
				   "  0000000000000000-000000000fffffff (prio 0, ram): m0\n";

	cr_expect_not(placement_mtree_find(text, "m0", &gpa, &offset));
}

Test(ask, gpa2hva__must_name_the_block)
{
	static const char text[] = "Host virtual address for 0x10000000 (m1) is 0x7f315bc00000\n";

	cr_expect_eq(placement_gpa2hva_address(text, "m1"), 0x7f315bc00000);
	cr_expect_eq(placement_gpa2hva_address(text, "m0"), 0);
	cr_expect_eq(placement_gpa2hva_address("No memory is mapped at address 0x10000000\n", "m1"),
		     0);
	cr_expect_eq(placement_gpa2hva_address("", "m1"), 0);
}
