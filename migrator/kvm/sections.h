/* SPDX-License-Identifier: MIT */
/*
 * The format of saved KVM state: sections of raw kernel structures, each behind a header of id
 * (u16), version (u16) and length (u32), all little-endian, and an empty SECTION_END behind the
 * last. The high byte of an id says what kind of state it belongs to, the low byte which part.
 * Ids are never reused; a structure that changes gets a new version.
 */
#ifndef KVM_SECTIONS_H
#define KVM_SECTIONS_H

#include <stddef.h>
#include <stdint.h>

#include <vmferry/vmferry.h>

enum section_kind {
	SECTIONS_VCPU = 0x100,
	SECTIONS_VM = 0x200,
	SECTIONS_DESCRIPTION = 0x300,
};

enum section_id {
	SECTION_END = 0,

	VCPU_MP_STATE = SECTIONS_VCPU,
	VCPU_REGS,
	VCPU_SREGS2,
	VCPU_SREGS, /* from kernels without SREGS2 */
	VCPU_XSAVE,
	VCPU_XCRS,
	VCPU_DEBUGREGS,
	VCPU_LAPIC,
	VCPU_TSC_KHZ, /* u32 */
	VCPU_CPUID,   /* struct kvm_cpuid_entry2[] */
	VCPU_MSRS,    /* struct kvm_msr_entry[] */
	VCPU_NESTED,
	VCPU_EVENTS,

	VM_PIT2 = SECTIONS_VM,
	VM_PIC_MASTER,
	VM_PIC_SLAVE,
	VM_IOAPIC,
	VM_CLOCK,

	DESC_CPUID = SECTIONS_DESCRIPTION,
	DESC_MSRS,
	DESC_XSAVE_SIZE, /* u32 */
	DESC_TSC_KHZ,	 /* u32 */
	DESC_CAPS,	 /* struct description_cap[] */
};

#define SECTIONS_MAX	    16
#define SECTION_HEADER_SIZE 8
#define SECTION_VERSION	    1

struct section {
	const void *data; /* of any alignment; NULL if the section is not there */
	uint32_t length;
};

struct sections {
	struct section at[SECTIONS_MAX]; /* by the low byte of the id */
};

static inline const struct section *sections_at(const struct sections *s, enum section_id id)
{
	return &s->at[id & 0xff];
}

/* The size of a section that holds one fixed structure. */
uint32_t section_size(enum section_id id);
const char *section_name(enum section_id id);

/*
 * Finds the sections of a kind. -EPROTO, with the reason logged, unless all are known,
 * complete, of the right size, there once, none that must be there is missing, and SECTION_END
 * is the end.
 */
int sections_parse(enum section_kind kind, const void *data, size_t length, struct sections *out);

int section_append(struct vmferry_blob *blob, enum section_id id, const void *data, size_t length);
int sections_finish(struct vmferry_blob *blob);

#endif
