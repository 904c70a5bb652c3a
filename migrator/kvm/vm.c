/* SPDX-License-Identifier: MIT */
/*
 * The state of a VM apart from its vCPUs: PIT, PICs and IOAPIC where they are in the kernel,
 * and the clock.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>

#include <common/log.h>
#include <vmferry/kvm.h>

#include "parts.h"

static uint32_t chip_of(enum section_id id)
{
	switch (id) {
	case VM_PIC_MASTER:
		return KVM_IRQCHIP_PIC_MASTER;
	case VM_PIC_SLAVE:
		return KVM_IRQCHIP_PIC_SLAVE;
	default:
		return KVM_IRQCHIP_IOAPIC;
	}
}

static int save_chip(const struct part *part, const struct machine *m)
{
	struct kvm_irqchip chip = {.chip_id = chip_of(part->id)};
	int e = kvm_ioctl(m->fd, part->get, &chip);

	if (e < 0)
		return -e == part->absent ? 0 : part_failed(part, m, "save", e);
	return section_append(m->blob, part->id, &chip, sizeof(chip));
}

static int load_chip(const struct part *part, const struct machine *m, const struct section *s)
{
	struct kvm_irqchip chip;

	memcpy(&chip, s->data, sizeof(chip));
	if (chip.chip_id != chip_of(part->id)) {
		log_error("vm state: section %s: holds chip %u", section_name(part->id),
			  chip.chip_id);
		return -EPROTO;
	}
	return part_set(part, m, &chip);
}

static int save_pit(const struct part *part, const struct machine *m)
{
	struct kvm_pit_state2 pit = {0};
	int e = kvm_ioctl(m->fd, part->get, &pit);

	if (e < 0)
		return -e == part->absent ? 0 : part_failed(part, m, "save", e);
	/*
	 * This host's time, which means nothing elsewhere; the kernel takes its own when it is
	 * loaded.
	 */
	for (unsigned int i = 0; i < 3; i++)
		pit.channels[i].count_load_time = 0;
	return section_append(m->blob, part->id, &pit, sizeof(pit));
}

/*
 * The clock goes on from where it stood, as the TSCs do. KVM_CLOCK_REALTIME would let it jump
 * by the time that has passed, and by what the wall clocks of the two hosts differ, while the
 * TSCs stand.
 */
static int load_clock(const struct part *part, const struct machine *m, const struct section *s)
{
	struct kvm_clock_data saved;
	struct kvm_clock_data clock = {0};

	memcpy(&saved, s->data, sizeof(saved));
	clock.clock = saved.clock;
	return part_set(part, m, &clock);
}

static const struct part parts[] = {
	{.id = VM_PIT2,
	 .get = KVM_GET_PIT2,
	 .set = KVM_SET_PIT2,
	 .absent = ENXIO,
	 .save = save_pit},
	{.id = VM_PIC_MASTER,
	 .get = KVM_GET_IRQCHIP,
	 .set = KVM_SET_IRQCHIP,
	 .absent = ENXIO,
	 .save = save_chip,
	 .load = load_chip},
	{.id = VM_PIC_SLAVE,
	 .get = KVM_GET_IRQCHIP,
	 .set = KVM_SET_IRQCHIP,
	 .absent = ENXIO,
	 .save = save_chip,
	 .load = load_chip},
	{.id = VM_IOAPIC,
	 .get = KVM_GET_IRQCHIP,
	 .set = KVM_SET_IRQCHIP,
	 .absent = ENXIO,
	 .save = save_chip,
	 .load = load_chip},
	{.id = VM_CLOCK,
	 .get = KVM_GET_CLOCK,
	 .set = KVM_SET_CLOCK,
	 .cap = KVM_CAP_ADJUST_CLOCK,
	 .load = load_clock},
};

#define PART_COUNT (sizeof(parts) / sizeof(parts[0]))

/* The PIT raises its line when it is loaded: the chips come after it and have the last word. */
static const enum section_id load_order[PART_COUNT] = {
	VM_PIT2, VM_CLOCK, VM_PIC_MASTER, VM_PIC_SLAVE, VM_IOAPIC,
};

int vmferry_kvm_save_vm(int vm_fd, struct vmferry_blob *blob)
{
	struct machine m = {.object = "vm", .fd = vm_fd, .vm_fd = vm_fd, .blob = blob};

	return parts_save(parts, PART_COUNT, &m);
}

int vmferry_kvm_load_vm(int vm_fd, const void *data, size_t length)
{
	struct machine m = {.object = "vm", .fd = vm_fd, .vm_fd = vm_fd};
	struct sections found;
	int e = sections_parse(SECTIONS_VM, data, length, &found);

	return e < 0 ? e : parts_load(parts, PART_COUNT, load_order, &m, &found);
}
