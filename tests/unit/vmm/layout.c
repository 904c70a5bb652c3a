/* SPDX-License-Identifier: MIT */
/* Where guest memory lies, and machines that cannot be made. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>
#include <errno.h>

#include "migrator/vmm/internal.h"
#include "quiet.h"

TestSuite(layout, .init = quiet, .timeout = 300);

static unsigned int lay_out(uint64_t memory, struct vmferry_region *regions)
{
	unsigned int count = memory_layout(memory, regions);
	uint64_t sum = 0;

	for (unsigned int i = 0; i < count; i++) {
		cr_assert_eq(regions[i].slot, i);
		cr_assert_eq(regions[i].address % HUGE_PAGE_BYTES, 0);
		sum += regions[i].size;
	}
	cr_assert_eq(sum, memory);
	return count;
}

Test(layout, up_to_3_gib__one_region)
{
	struct vmferry_region r[VMM_REGIONS_MAX];

	cr_assert_eq(lay_out(1 * GIB, r), 1);
	cr_assert_eq(r[0].address, 0);
	cr_assert_eq(lay_out(3 * GIB, r), 1);
	cr_assert_eq(r[0].size, 3 * GIB);
}

Test(layout, more__the_rest_above_4_gib)
{
	struct vmferry_region r[VMM_REGIONS_MAX];

	cr_assert_eq(lay_out(5 * GIB, r), 2);
	cr_assert_eq(r[0].size, 3 * GIB);
	cr_assert_eq(r[1].address, 4 * GIB);
	cr_assert_eq(r[1].size, 2 * GIB);
	cr_assert_eq(lay_out(3 * GIB + HUGE_PAGE_BYTES, r), 2);
	cr_assert_eq(r[1].size, HUGE_PAGE_BYTES);
}

static struct vmm_config good_config(void)
{
	return (struct vmm_config){
		.memory = 32 * MIB,
		.vcpus = 1,
		.numa_node = -1,
		.console_fd = -1,
	};
}

static void refused(const struct vmm_config *config)
{
	struct vmm *vmm = NULL;

	cr_assert_eq(vmm_new(config, &vmm), -EINVAL);
	cr_assert_null(vmm);
	cr_assert_str_neq(last_line(), "");
}

Test(layout, impossible_config__einval_with_the_reason)
{
	struct vmm_config config = good_config();

	config.memory = VMM_MEMORY_MIN - HUGE_PAGE_BYTES;
	refused(&config);
	config.memory = 33 * MIB;
	refused(&config);
	config.memory = VMM_MEMORY_MAX + HUGE_PAGE_BYTES;
	refused(&config);
	config = good_config();
	config.vcpus = 0;
	refused(&config);
	config.vcpus = VMM_VCPUS_MAX + 1;
	refused(&config);
	config = good_config();
	config.pages = (enum vmm_pages)7;
	refused(&config);
	config = good_config();
	config.tracker = (enum vmferry_tracker)7;
	refused(&config);
}

Test(layout, free_of_null__nothing)
{
	struct vmm *vmm = NULL;

	vmm_free(&vmm);
	cr_assert_null(vmm);
}
