/* SPDX-License-Identifier: MIT */
/* The format of saved state: what is not sound is refused. */
#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>

#include <common/wire.h>
#include <migrator/kvm/sections.h>

static struct vmferry_blob *blob;

static void make(void)
{
	cr_assert_eq(vmferry_blob_new(&blob), 0);
}

static void drop(void)
{
	vmferry_blob_free(&blob);
}

TestSuite(sections, .init = make, .fini = drop, .timeout = 300);

static const struct kvm_clock_data clock_data = {.clock = 42};

static void add_clock(void)
{
	cr_assert_eq(section_append(blob, VM_CLOCK, &clock_data, sizeof(clock_data)), 0);
}

static int parse(struct sections *out)
{
	return sections_parse(SECTIONS_VM, vmferry_blob_data(blob), vmferry_blob_size(blob), out);
}

Test(sections, sound__found_with_their_bytes)
{
	struct sections s;

	add_clock();
	cr_assert_eq(sections_finish(blob), 0);
	cr_assert_eq(parse(&s), 0);
	cr_assert_eq(sections_at(&s, VM_CLOCK)->length, sizeof(clock_data));
	cr_expect_arr_eq(sections_at(&s, VM_CLOCK)->data, &clock_data, sizeof(clock_data));
	cr_expect_null(sections_at(&s, VM_PIT2)->data);
}

Test(sections, header__little_endian_golden_bytes)
{
	static const uint8_t golden[] = {0x04, 0x02, 0x01, 0x00, 0x30, 0x00, 0x00, 0x00};

	add_clock();
	cr_expect_arr_eq(vmferry_blob_data(blob), golden, sizeof(golden));
}

Test(sections, nothing_at_all__refused)
{
	struct sections s;

	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, no_end__refused)
{
	struct sections s;

	add_clock();
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, bytes_behind_the_end__refused)
{
	struct sections s;

	add_clock();
	sections_finish(blob);
	vmferry_blob_append(blob, "x", 1);
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, twice__refused)
{
	struct sections s;

	add_clock();
	add_clock();
	sections_finish(blob);
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, unknown_id__refused)
{
	struct sections s;

	section_append(blob, (enum section_id)0x2fe, NULL, 0);
	sections_finish(blob);
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, of_another_kind__refused)
{
	struct kvm_mp_state mp = {0};
	struct sections s;

	section_append(blob, VCPU_MP_STATE, &mp, sizeof(mp));
	sections_finish(blob);
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, short_or_long__refused)
{
	uint8_t bytes[sizeof(clock_data) + 1] = {0};
	struct sections s;

	for (size_t n = 0; n <= sizeof(bytes); n++) {
		if (n == sizeof(clock_data))
			continue;
		drop();
		make();
		section_append(blob, VM_CLOCK, bytes, n < sizeof(bytes) ? n : sizeof(bytes));
		sections_finish(blob);
		cr_expect_eq(parse(&s), -EPROTO, "%zu bytes", n);
	}
}

Test(sections, part_of_an_entry__refused)
{
	uint8_t bytes[sizeof(struct kvm_msr_entry) + 1] = {0};
	struct sections s;

	section_append(blob, DESC_MSRS, bytes, sizeof(bytes));
	sections_finish(blob);
	cr_expect_eq(sections_parse(SECTIONS_DESCRIPTION, vmferry_blob_data(blob),
				    vmferry_blob_size(blob), &s),
		     -EPROTO);
}

Test(sections, other_version__refused)
{
	struct sections s;

	add_clock();
	sections_finish(blob);
	wire_put_u16((uint8_t *)vmferry_blob_data(blob) + 2, SECTION_VERSION + 1);
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, length_of_four_gigabytes__refused)
{
	struct sections s;

	add_clock();
	sections_finish(blob);
	wire_put_u32((uint8_t *)vmferry_blob_data(blob) + 4, UINT32_MAX);
	cr_expect_eq(parse(&s), -EPROTO);
}

Test(sections, required_missing__refused)
{
	struct sections s;

	sections_finish(blob);
	cr_expect_eq(
		sections_parse(SECTIONS_VCPU, vmferry_blob_data(blob), vmferry_blob_size(blob), &s),
		-EPROTO);
}
