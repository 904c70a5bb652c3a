/* SPDX-License-Identifier: MIT */
/* A description against the host that made it, as it is and with one thing changed. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <common/wire.h>
#include <migrator/kvm/cpuid.h>
#include <migrator/kvm/msrs.h>

#include "rig.h"

struct description {
	struct rig rig;
	struct vmferry_blob *blob;
	struct vmferry_problems *problems;
	uint8_t *bytes;
	size_t size;
};

static void describe(struct description *d)
{
	rig_open(&d->rig, true);
	cr_assert_eq(vmferry_blob_new(&d->blob), 0);
	cr_assert_eq(vmferry_problems_new(&d->problems), 0);
	cr_assert_eq(vmferry_kvm_describe(d->rig.kvm, d->rig.vm, d->rig.vcpu, d->blob), 0);
	d->bytes = rig_copy(d->blob);
	d->size = vmferry_blob_size(d->blob);
}

static void discard(struct description *d)
{
	free(d->bytes);
	vmferry_problems_free(&d->problems);
	vmferry_blob_free(&d->blob);
	rig_close(&d->rig);
}

static int check(struct description *d)
{
	return vmferry_kvm_check(d->rig.kvm, d->bytes, d->size, d->problems);
}

static uint8_t *section(const struct description *d, enum section_id id)
{
	uint32_t size;
	uint8_t *at = rig_section(d->bytes, d->size, id, &size);

	cr_assert(at != NULL && size > 0);
	return at;
}

static void expect_only(struct description *d, const char *part)
{
	cr_assert_eq(check(d), 0);
	cr_assert_eq(vmferry_problems_count(d->problems), 1, "%zu problems",
		     vmferry_problems_count(d->problems));
	cr_expect(strstr(vmferry_problems_get(d->problems, 0), part) != NULL, "%s",
		  vmferry_problems_get(d->problems, 0));
}

Test(check, own_host__no_problem, .timeout = 300)
{
	struct description d;

	describe(&d);
	cr_assert_eq(check(&d), 0);
	for (size_t i = 0; i < vmferry_problems_count(d.problems); i++)
		cr_expect(false, "%s", vmferry_problems_get(d.problems, i));
	discard(&d);
}

/* The entry of leaf 7.0 in the description. */
static struct kvm_cpuid_entry2 *leaf_7(const struct description *d)
{
	uint32_t size;
	uint8_t *at = rig_section(d->bytes, d->size, DESC_CPUID, &size);
	struct kvm_cpuid_entry2 e;

	for (uint32_t i = 0; i < size; i += sizeof(e)) {
		memcpy(&e, at + i, sizeof(e));
		if (e.function == 7 && e.index == 0)
			return (struct kvm_cpuid_entry2 *)(at + i);
	}
	cr_skip_test("a processor without leaf 7: no bit to force");
	return NULL;
}

/* avx512er, avx512pf, pcommit: no processor has all three. */
static unsigned int bit_that_host_lacks(const struct description *d, uint32_t guest)
{
	static const unsigned int candidates[] = {27, 26, 22};
	struct kvm_cpuid2 *host;
	uint32_t has;

	cr_assert_eq(cpuid_query(d->rig.kvm, KVM_GET_SUPPORTED_CPUID, &host), 0);
	has = guest | cpuid_find(host, 7, 0)->ebx;
	free(host);
	for (size_t i = 0; i < 3; i++)
		if (!(has & 1u << candidates[i]))
			return candidates[i];
	cr_assert(false, "this host has every bit");
	return 0;
}

Test(check, bit_forced_that_host_lacks__that_problem_only, .timeout = 300)
{
	struct description d;
	struct kvm_cpuid_entry2 e;
	struct kvm_cpuid_entry2 *at;
	unsigned int bit;
	char name[32];

	describe(&d);
	at = leaf_7(&d);
	memcpy(&e, at, sizeof(e));
	bit = bit_that_host_lacks(&d, e.ebx);
	e.ebx |= 1u << bit;
	memcpy(at, &e, sizeof(e));
	cr_assert_not_null(cpuid_bit_name(7, 0, CPUID_EBX, bit, name));
	expect_only(&d, name);
	discard(&d);
}

Test(check, xsave_larger__told, .timeout = 300)
{
	struct description d;

	describe(&d);
	wire_put_u32(section(&d, DESC_XSAVE_SIZE), 1u << 20);
	expect_only(&d, "xsave: the guest's state has 1048576 bytes");
	discard(&d);
}

Test(check, msr_unknown__named, .timeout = 300)
{
	struct description d;

	describe(&d);
	wire_put_u32(section(&d, DESC_MSRS), 0x12345678);
	expect_only(&d, "msr 0x12345678");
	discard(&d);
}

/* A value that no processor has, in an MSR that KVM itself would take it for. */
Test(check, immunity_that_host_lacks__told, .timeout = 300)
{
	struct description d;
	uint8_t *at;
	uint32_t size;

	describe(&d);
	at = rig_section(d.bytes, d.size, DESC_MSRS, &size);
	for (uint32_t i = 0; i < size; i += sizeof(struct kvm_msr_entry)) {
		if (wire_get(at + i, 4) != MSR_ARCH_CAPABILITIES)
			continue;
		wire_put_u64(at + i + 8, wire_get(at + i + 8, 8) | 1ull << 63);
		expect_only(&d, "(arch_capabilities): the guest counts on bits 0x8000000000000000");
		discard(&d);
		return;
	}
	discard(&d);
	cr_skip_test("this processor has no arch_capabilities");
}

Test(check, tsc_of_another_frequency__told_unless_scaled, .timeout = 300)
{
	struct description d;
	uint8_t *at;
	uint32_t khz;

	describe(&d);
	if (ioctl(d.rig.vm, KVM_CHECK_EXTENSION, KVM_CAP_TSC_CONTROL) > 0)
		cr_skip_test("this host scales the TSC: every frequency is right");
	at = section(&d, DESC_TSC_KHZ);
	khz = (uint32_t)wire_get(at, 4);
	wire_put_u32(at, khz + khz / 5000); /* 200 ppm */
	cr_assert_eq(check(&d), 0);
	cr_expect_eq(vmferry_problems_count(d.problems), 0);
	wire_put_u32(at, khz + khz / 1000);
	expect_only(&d, "tsc: the guest's runs at");
	discard(&d);
}

Test(check, capability_unknown__told, .timeout = 300)
{
	struct description d;

	describe(&d);
	wire_put_u32(section(&d, DESC_CAPS), 0x7ffffff0);
	expect_only(&d, "kvm capability 2147483632");
	discard(&d);
}

Test(check, cut_at_any_length__refused, .timeout = 300)
{
	struct description d;

	describe(&d);
	for (size_t n = 0; n < d.size; n++)
		cr_assert_eq(vmferry_kvm_check(d.rig.kvm, d.bytes, n, d.problems), -EPROTO);
	cr_expect_eq(vmferry_problems_count(d.problems), 0);
	discard(&d);
}
