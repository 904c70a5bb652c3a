/* SPDX-License-Identifier: MIT */
/* Saving and loading the VM's own state, with and without in-kernel interrupt chips. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <common/wire.h>

#include "rig.h"

static struct vmferry_blob *save(const struct rig *rig)
{
	struct vmferry_blob *blob;

	cr_assert_eq(vmferry_blob_new(&blob), 0);
	cr_assert_eq(vmferry_kvm_save_vm(rig->vm, blob), 0);
	return blob;
}

static int load(const struct rig *rig, const struct vmferry_blob *blob)
{
	return vmferry_kvm_load_vm(rig->vm, vmferry_blob_data(blob), vmferry_blob_size(blob));
}

static void fill(const struct rig *rig)
{
	struct kvm_irqchip chip = {.chip_id = KVM_IRQCHIP_IOAPIC};
	struct kvm_pit_state2 pit;

	rig_ioctl(rig->vm, KVM_GET_IRQCHIP, &chip);
	chip.chip.ioapic.redirtbl[4].bits = 0x100000000000034;
	rig_ioctl(rig->vm, KVM_SET_IRQCHIP, &chip);
	chip.chip_id = KVM_IRQCHIP_PIC_SLAVE;
	rig_ioctl(rig->vm, KVM_GET_IRQCHIP, &chip);
	chip.chip.pic.imr = 0xa5;
	chip.chip.pic.irq_base = 0x70;
	rig_ioctl(rig->vm, KVM_SET_IRQCHIP, &chip);
	rig_ioctl(rig->vm, KVM_GET_PIT2, &pit);
	pit.channels[2].mode = 3;
	pit.channels[2].count = 0x4321;
	rig_ioctl(rig->vm, KVM_SET_PIT2, &pit);
}

static uint8_t *without_clock(const struct vmferry_blob *blob, uint64_t *clock)
{
	uint8_t *copy = rig_copy(blob);
	uint32_t size;
	uint8_t *at = rig_section(copy, vmferry_blob_size(blob), VM_CLOCK, &size);

	cr_assert(at != NULL);
	*clock = wire_get(at, 8);
	memset(at, 0, size);
	return copy;
}

static void round_trip(bool irqchip)
{
	struct vmferry_blob *before;
	struct vmferry_blob *after;
	struct rig source;
	struct rig destination;
	uint64_t clock[2];
	uint8_t *bytes[2];

	rig_open(&source, irqchip);
	if (irqchip)
		fill(&source);
	before = save(&source);
	rig_open(&destination, irqchip);
	cr_assert_eq(load(&destination, before), 0);
	after = save(&destination);
	cr_assert_eq(vmferry_blob_size(before), vmferry_blob_size(after));
	bytes[0] = without_clock(before, &clock[0]);
	bytes[1] = without_clock(after, &clock[1]);
	cr_expect_arr_eq(bytes[0], bytes[1], vmferry_blob_size(before));
	/* It goes on from where it stood: a few milliseconds at the most have passed. */
	cr_expect_geq(clock[1], clock[0]);
	cr_expect_lt(clock[1] - clock[0], 2000000000ull);
	free(bytes[0]);
	free(bytes[1]);
	vmferry_blob_free(&before);
	vmferry_blob_free(&after);
	rig_close(&source);
	rig_close(&destination);
}

Test(vm, save_load_save_with_irqchip__same_bytes, .timeout = 300)
{
	round_trip(true);
}

Test(vm, save_load_save_without_irqchip__same_bytes, .timeout = 300)
{
	round_trip(false);
}

Test(vm, load_chips_without_irqchip__refused, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig source;
	struct rig destination;

	rig_open(&source, true);
	blob = save(&source);
	rig_open(&destination, false);
	cr_expect_eq(load(&destination, blob), -ENXIO);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

Test(vm, load_chip_under_another_name__refused, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig rig;
	uint32_t size;
	uint8_t *copy;

	rig_open(&rig, true);
	blob = save(&rig);
	copy = rig_copy(blob);
	wire_put_u32(rig_section(copy, vmferry_blob_size(blob), VM_IOAPIC, &size),
		     KVM_IRQCHIP_PIC_MASTER);
	cr_expect_eq(vmferry_kvm_load_vm(rig.vm, copy, vmferry_blob_size(blob)), -EPROTO);
	free(copy);
	vmferry_blob_free(&blob);
	rig_close(&rig);
}

Test(vm, load_cut_at_any_length__refused, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig rig;

	rig_open(&rig, true);
	blob = save(&rig);
	for (size_t n = 0; n < vmferry_blob_size(blob); n++)
		cr_assert_eq(vmferry_kvm_load_vm(rig.vm, vmferry_blob_data(blob), n), -EPROTO);
	vmferry_blob_free(&blob);
	rig_close(&rig);
}

Test(vm, load_state_of_a_vcpu__refused, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig rig;

	rig_open(&rig, true);
	cr_assert_eq(vmferry_blob_new(&blob), 0);
	cr_assert_eq(vmferry_kvm_save_vcpu(rig.vcpu, rig.vm, blob), 0);
	cr_expect_eq(load(&rig, blob), -EPROTO);
	vmferry_blob_free(&blob);
	rig_close(&rig);
}
