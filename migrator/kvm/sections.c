/* SPDX-License-Identifier: MIT */
/*
 * Writes and takes apart the sections of saved KVM state. The bytes may come from a peer: sizes
 * are checked here, once, so that whoever loads a section can take its length for granted.
 */
#include "sections.h"

#include <errno.h>
#include <linux/kvm.h>

#include <common/log.h>
#include <common/wire.h>

#include "description.h"

#define CPUID_ENTRIES_MAX 256u
#define MSR_ENTRIES_MAX	  4096u

struct section_spec {
	enum section_id id;
	const char *name;
	uint32_t min;
	uint32_t max;
	uint32_t unit; /* the length is a multiple of it */
	bool required;
};

#define ONE(i, n, type, required)                             \
	{                                                     \
		i, n, sizeof(type), sizeof(type), 1, required \
	}
#define MANY(i, n, type, most, required)                               \
	{                                                              \
		i, n, 0, (most) * sizeof(type), sizeof(type), required \
	}

static const struct section_spec specs[] = {
	ONE(VCPU_MP_STATE, "mp_state", struct kvm_mp_state, true),
	ONE(VCPU_REGS, "regs", struct kvm_regs, true),
	ONE(VCPU_SREGS2, "sregs2", struct kvm_sregs2, false),
	ONE(VCPU_SREGS, "sregs", struct kvm_sregs, false),
	{VCPU_XSAVE, "xsave", sizeof(struct kvm_xsave), 1u << 20, 1, true},
	ONE(VCPU_XCRS, "xcrs", struct kvm_xcrs, false),
	ONE(VCPU_DEBUGREGS, "debugregs", struct kvm_debugregs, false),
	ONE(VCPU_LAPIC, "lapic", struct kvm_lapic_state, false),
	ONE(VCPU_TSC_KHZ, "tsc_khz", uint32_t, false),
	MANY(VCPU_CPUID, "cpuid", struct kvm_cpuid_entry2, CPUID_ENTRIES_MAX, true),
	MANY(VCPU_MSRS, "msrs", struct kvm_msr_entry, MSR_ENTRIES_MAX, true),
	{VCPU_NESTED, "nested_state", sizeof(struct kvm_nested_state), 1u << 20, 1, false},
	ONE(VCPU_EVENTS, "vcpu_events", struct kvm_vcpu_events, false),

	ONE(VM_PIT2, "pit2", struct kvm_pit_state2, false),
	ONE(VM_PIC_MASTER, "pic_master", struct kvm_irqchip, false),
	ONE(VM_PIC_SLAVE, "pic_slave", struct kvm_irqchip, false),
	ONE(VM_IOAPIC, "ioapic", struct kvm_irqchip, false),
	ONE(VM_CLOCK, "clock", struct kvm_clock_data, false),

	MANY(DESC_CPUID, "cpuid", struct kvm_cpuid_entry2, CPUID_ENTRIES_MAX, true),
	MANY(DESC_MSRS, "msrs", struct kvm_msr_entry, MSR_ENTRIES_MAX, true),
	ONE(DESC_XSAVE_SIZE, "xsave_size", uint32_t, true),
	ONE(DESC_TSC_KHZ, "tsc_khz", uint32_t, true),
	MANY(DESC_CAPS, "caps", struct description_cap, 64u, true),
};

#define SPEC_COUNT (sizeof(specs) / sizeof(specs[0]))

static const struct section_spec *find_spec(unsigned int id)
{
	for (size_t i = 0; i < SPEC_COUNT; i++)
		if (specs[i].id == id)
			return &specs[i];
	return NULL;
}

static const char *kind_name(enum section_kind kind)
{
	switch (kind) {
	case SECTIONS_VCPU:
		return "vcpu state";
	case SECTIONS_VM:
		return "vm state";
	default:
		return "vm description";
	}
}

uint32_t section_size(enum section_id id)
{
	return find_spec(id)->min;
}

const char *section_name(enum section_id id)
{
	return find_spec(id)->name;
}

/* Adds one section to @out; NULL, or what is wrong with it. */
static const char *take_section(const struct section_spec *spec, unsigned int version,
				const void *data, uint32_t length, struct sections *out)
{
	struct section *s = &out->at[spec->id & 0xff];

	if (version != SECTION_VERSION)
		return "unknown version: both sides must run the same release";
	if (length < spec->min || length > spec->max || length % spec->unit != 0)
		return "wrong length";
	if (data == NULL)
		return "cut short";
	if (s->data != NULL)
		return "there twice";
	s->data = data;
	s->length = length;
	return NULL;
}

static int check_required(enum section_kind kind, const struct sections *found)
{
	for (size_t i = 0; i < SPEC_COUNT; i++) {
		const struct section_spec *spec = &specs[i];

		if ((spec->id & ~0xffu) != kind || !spec->required)
			continue;
		if (sections_at(found, spec->id)->data == NULL) {
			log_error("%s: section %s: missing", kind_name(kind), spec->name);
			return -EPROTO;
		}
	}
	return 0;
}

/* Reads one section; 1 when it was the end. */
static int parse_one(enum section_kind kind, struct wire_reader *r, struct sections *found)
{
	unsigned int id = wire_read_u16(r);
	unsigned int version = wire_read_u16(r);
	uint32_t length = wire_read_u32(r);
	const struct section_spec *spec = find_spec(id);
	const char *wrong;

	if (r->failed) {
		log_error("%s: cut short: no end section", kind_name(kind));
		return -EPROTO;
	}
	if (id == SECTION_END) {
		if (length == 0 && version == SECTION_VERSION && wire_done(r))
			return 1;
		log_error("%s: bytes behind its end", kind_name(kind));
		return -EPROTO;
	}
	if (spec == NULL || (id & ~0xffu) != kind) {
		log_error("%s: section 0x%x: not known here: both sides must run the same release",
			  kind_name(kind), id);
		return -EPROTO;
	}
	wrong = take_section(spec, version, wire_read_bytes(r, length), length, found);
	if (wrong != NULL) {
		log_error("%s: section %s of %u bytes: %s", kind_name(kind), spec->name, length,
			  wrong);
		return -EPROTO;
	}
	return 0;
}

int sections_parse(enum section_kind kind, const void *data, size_t length, struct sections *out)
{
	struct sections found = {0};
	struct wire_reader r;
	int e;

	wire_reader_init(&r, data, length);
	do
		e = parse_one(kind, &r, &found);
	while (e == 0);
	if (e > 0)
		e = check_required(kind, &found);
	if (e < 0)
		return e;
	*out = found;
	return 0;
}

int section_append(struct vmferry_blob *blob, enum section_id id, const void *data, size_t length)
{
	uint8_t header[SECTION_HEADER_SIZE];
	int e;

	wire_put_u16(header, (uint16_t)id);
	wire_put_u16(header + 2, SECTION_VERSION);
	wire_put_u32(header + 4, (uint32_t)length);
	e = vmferry_blob_append(blob, header, sizeof(header));
	return e < 0 ? e : vmferry_blob_append(blob, data, length);
}

int sections_finish(struct vmferry_blob *blob)
{
	return section_append(blob, SECTION_END, NULL, 0);
}
