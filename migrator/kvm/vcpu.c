/* SPDX-License-Identifier: MIT */
/*
 * The state of a vCPU: the table below has its parts in the order in which they are saved,
 * load_order the order in which KVM can take them. Both orders matter, for the reasons beside
 * them.
 */
#include <errno.h>
#include <linux/kvm.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include <common/log.h>
#include <common/wire.h>
#include <vmferry/kvm.h>

#include "cpuid.h"
#include "msrs.h"
#include "parts.h"
#include "tsc.h"

/*
 * KVM_GET_SREGS is the fallback of kernels before 5.14; its interrupt bitmap is in the events,
 * too.
 */
static int save_sregs(const struct part *part, const struct machine *m)
{
	struct kvm_sregs sregs = {0};
	int e;

	if (kvm_capability(m->vm_fd, KVM_CAP_SREGS2) > 0)
		return 0;
	e = kvm_ioctl(m->fd, part->get, &sregs);
	if (e < 0)
		return part_failed(part, m, "save", e);
	return section_append(m->blob, part->id, &sregs, sizeof(sregs));
}

/*
 * The size of KVM_GET_XSAVE2 belongs to the VM: features that need permission count once the VM
 * may use them.
 */
static size_t xsave_size(int vm_fd)
{
	size_t size = (size_t)kvm_capability(vm_fd, KVM_CAP_XSAVE2);

	return size < sizeof(struct kvm_xsave) ? sizeof(struct kvm_xsave) : size;
}

static int save_xsave(const struct part *part, const struct machine *m)
{
	size_t size = xsave_size(m->vm_fd);
	void *xsave = calloc(1, size);
	int e;

	if (xsave == NULL)
		return -ENOMEM;
	e = kvm_ioctl(m->fd, size > sizeof(struct kvm_xsave) ? part->get : KVM_GET_XSAVE, xsave);
	if (e < 0)
		e = part_failed(part, m, "save", e);
	else
		e = section_append(m->blob, part->id, xsave, size);
	free(xsave);
	return e;
}

static int load_xsave(const struct part *part, const struct machine *m, const struct section *s)
{
	size_t size = xsave_size(m->vm_fd);
	void *xsave;
	int e;

	if (s->length > size) {
		log_error("vcpu fd %d: load xsave: %u bytes, this host takes %zu: "
			  "use a host with the same processor features",
			  m->fd, s->length, size);
		return -ENOTSUP;
	}
	/* The kernel reads its own size, whatever the source's was. */
	xsave = calloc(1, size);
	if (xsave == NULL)
		return -ENOMEM;
	memcpy(xsave, s->data, s->length);
	e = part_set(part, m, xsave);
	free(xsave);
	return e;
}

static int save_tsc_khz(const struct part *part, const struct machine *m)
{
	uint8_t bytes[4];
	int khz;

	if (kvm_capability(m->vm_fd, part->cap) <= 0)
		return 0;
	khz = kvm_ioctl(m->fd, part->get, NULL);
	/* EIO: the host's TSC is unstable, no frequency is promised to the guest. */
	if (khz < 0)
		return khz == -EIO ? 0 : part_failed(part, m, "save", khz);
	wire_put_u32(bytes, (uint32_t)khz);
	return section_append(m->blob, part->id, bytes, sizeof(bytes));
}

static int load_tsc_khz(const struct part *part, const struct machine *m, const struct section *s)
{
	uint32_t want = (uint32_t)wire_get(s->data, sizeof(want));
	int have = kvm_ioctl(m->fd, part->get, NULL);
	int e;

	if (have >= 0 && (uint32_t)have == want)
		return 0;
	e = ioctl(m->fd, part->set, (unsigned long)want) < 0 ? -errno : 0;
	if (e == 0 || (have > 0 && tsc_khz_close(want, (uint32_t)have)))
		return 0;
	log_error(
		"vcpu fd %d: tsc: %u khz wanted, this host has %d and cannot scale: use a host of "
		"the same frequency",
		m->fd, want, have);
	return e;
}

static int save_cpuid(const struct part *part, const struct machine *m)
{
	struct kvm_cpuid2 *cpuid;
	int e = cpuid_query(m->fd, part->get, &cpuid);

	if (e < 0)
		return e;
	e = section_append(m->blob, part->id, cpuid->entries,
			   cpuid->nent * sizeof(cpuid->entries[0]));
	free(cpuid);
	return e;
}

/*
 * Setting CPUID is dear: a VMM that has given the vCPU the right one while the guest still ran
 * saves it here.
 */
static bool has_cpuid(int vcpu_fd, const struct kvm_cpuid2 *wanted)
{
	struct kvm_cpuid2 *now;
	bool same;

	if (cpuid_query(vcpu_fd, KVM_GET_CPUID2, &now) < 0)
		return false;
	same = cpuid_same(now, wanted);
	free(now);
	return same;
}

static int load_cpuid(const struct part *part, const struct machine *m, const struct section *s)
{
	struct kvm_cpuid2 *cpuid;
	int e = cpuid_new(s->length / sizeof(struct kvm_cpuid_entry2), s->data, &cpuid);

	if (e < 0)
		return e;
	if (!has_cpuid(m->fd, cpuid))
		e = part_set(part, m, cpuid);
	free(cpuid);
	return e;
}

static int save_msrs(const struct part *part, const struct machine *m)
{
	const struct msr_list *list;
	struct kvm_msr_entry *entries;
	int r = msr_list_get(-1, &list);

	if (r < 0)
		return r;
	entries = calloc(list->count, sizeof(*entries));
	if (entries == NULL)
		return -ENOMEM;
	r = msrs_read(m->fd, list, entries);
	if (r >= 0)
		r = section_append(m->blob, part->id, entries, (size_t)r * sizeof(*entries));
	free(entries);
	return r;
}

static int load_msrs(const struct part *part, const struct machine *m, const struct section *s)
{
	struct kvm_msr_entry *entries;
	int e;

	(void)part;
	if (s->length == 0)
		return 0;
	entries = malloc(s->length);
	if (entries == NULL)
		return -ENOMEM;
	memcpy(entries, s->data, s->length);
	e = msrs_write(m->fd, entries, s->length / sizeof(*entries));
	free(entries);
	return e;
}

/* A guest that never turned virtualization on needs no host that has it. */
static bool nested_in_use(const struct kvm_nested_state *n)
{
	if (n->format == KVM_STATE_NESTED_FORMAT_VMX)
		return n->hdr.vmx.vmxon_pa != ~0ull;
	return n->flags != KVM_STATE_NESTED_GIF_SET;
}

static int save_nested(const struct part *part, const struct machine *m)
{
	int room = kvm_capability(m->vm_fd, part->cap);
	struct kvm_nested_state *state;
	int e;

	if (room < (int)sizeof(*state))
		return 0;
	state = calloc(1, (size_t)room);
	if (state == NULL)
		return -ENOMEM;
	state->size = (uint32_t)room;
	e = kvm_ioctl(m->fd, part->get, state);
	if (e < 0)
		e = part_failed(part, m, "save", e);
	else if (nested_in_use(state))
		e = section_append(m->blob, part->id, state, state->size);
	free(state);
	return e;
}

static int load_nested(const struct part *part, const struct machine *m, const struct section *s)
{
	struct kvm_nested_state *state;
	int e = part_check_cap(part, m);

	if (e < 0)
		return e;
	state = malloc(s->length);
	if (state == NULL)
		return -ENOMEM;
	memcpy(state, s->data, s->length);
	/* The kernel believes the size inside. */
	if (state->size == s->length) {
		e = part_set(part, m, state);
	} else {
		log_error("vcpu state: section nested_state: %u bytes that call themselves %u",
			  s->length, state->size);
		e = -EPROTO;
	}
	free(state);
	return e;
}

/*
 * MP_STATE comes first: asking for it makes KVM accept INIT and SIPI, which changes registers.
 * LAPIC before the MSRs, for it, too, may take in pending interrupts. Events last, when nothing
 * before can change them any more.
 */
static const struct part parts[] = {
	{.id = VCPU_MP_STATE,
	 .get = KVM_GET_MP_STATE,
	 .set = KVM_SET_MP_STATE,
	 .cap = KVM_CAP_MP_STATE},
	{.id = VCPU_REGS, .get = KVM_GET_REGS, .set = KVM_SET_REGS},
	{.id = VCPU_SREGS2, .get = KVM_GET_SREGS2, .set = KVM_SET_SREGS2, .cap = KVM_CAP_SREGS2},
	{.id = VCPU_SREGS, .get = KVM_GET_SREGS, .set = KVM_SET_SREGS, .save = save_sregs},
	{.id = VCPU_XSAVE,
	 .get = KVM_GET_XSAVE2,
	 .set = KVM_SET_XSAVE,
	 .save = save_xsave,
	 .load = load_xsave},
	{.id = VCPU_XCRS, .get = KVM_GET_XCRS, .set = KVM_SET_XCRS, .cap = KVM_CAP_XCRS},
	{.id = VCPU_DEBUGREGS,
	 .get = KVM_GET_DEBUGREGS,
	 .set = KVM_SET_DEBUGREGS,
	 .cap = KVM_CAP_DEBUGREGS},
	{.id = VCPU_LAPIC, .get = KVM_GET_LAPIC, .set = KVM_SET_LAPIC, .absent = EINVAL},
	{.id = VCPU_TSC_KHZ,
	 .get = KVM_GET_TSC_KHZ,
	 .set = KVM_SET_TSC_KHZ,
	 .cap = KVM_CAP_GET_TSC_KHZ,
	 .save = save_tsc_khz,
	 .load = load_tsc_khz},
	{.id = VCPU_CPUID,
	 .get = KVM_GET_CPUID2,
	 .set = KVM_SET_CPUID2,
	 .save = save_cpuid,
	 .load = load_cpuid},
	{.id = VCPU_MSRS, .save = save_msrs, .load = load_msrs},
	{.id = VCPU_NESTED,
	 .get = KVM_GET_NESTED_STATE,
	 .set = KVM_SET_NESTED_STATE,
	 .cap = KVM_CAP_NESTED_STATE,
	 .save = save_nested,
	 .load = load_nested},
	{.id = VCPU_EVENTS,
	 .get = KVM_GET_VCPU_EVENTS,
	 .set = KVM_SET_VCPU_EVENTS,
	 .cap = KVM_CAP_VCPU_EVENTS},
};

#define PART_COUNT (sizeof(parts) / sizeof(parts[0]))

/*
 * CPUID says which bits of the others are valid. Nested state needs EFER.SVME of SREGS, LAPIC its
 * apic_base. The frequency comes before the TSC in the MSRs, and the LAPIC, too: unless its timer
 * is in that mode, TSC_DEADLINE is ignored. Events are last, for SET_REGS drops a pending
 * exception.
 */
static const enum section_id load_order[PART_COUNT] = {
	VCPU_CPUID,  VCPU_MP_STATE, VCPU_REGS,	 VCPU_SREGS2, VCPU_SREGS,
	VCPU_NESTED, VCPU_TSC_KHZ,  VCPU_XSAVE,	 VCPU_XCRS,   VCPU_DEBUGREGS,
	VCPU_LAPIC,  VCPU_MSRS,	    VCPU_EVENTS,
};

/*
 * Tells the guest's watchdogs on its next entry that it has been stopped. EINVAL: it has no
 * kvmclock. The request stays in the kernel it was made in, so both sides make it: the source
 * for a guest that is resumed, the destination for the other.
 */
static void mark_stopped(const struct machine *m)
{
	int e = 0;

	if (kvm_capability(m->vm_fd, KVM_CAP_KVMCLOCK_CTRL) > 0)
		e = kvm_ioctl(m->fd, KVM_KVMCLOCK_CTRL, NULL);
	if (e < 0 && e != -EINVAL)
		log_warn("vcpu fd %d: KVM_KVMCLOCK_CTRL: %s: guest watchdogs may fire", m->fd,
			 strerror(-e));
}

int vmferry_kvm_save_vcpu(int vcpu_fd, int vm_fd, struct vmferry_blob *blob)
{
	struct machine m = {.object = "vcpu", .fd = vcpu_fd, .vm_fd = vm_fd, .blob = blob};

	mark_stopped(&m);
	return parts_save(parts, PART_COUNT, &m);
}

int vmferry_kvm_load_vcpu(int vcpu_fd, int vm_fd, const void *data, size_t length)
{
	struct machine m = {.object = "vcpu", .fd = vcpu_fd, .vm_fd = vm_fd};
	struct sections found;
	int e = sections_parse(SECTIONS_VCPU, data, length, &found);

	if (e < 0)
		return e;
	if ((sections_at(&found, VCPU_SREGS2)->data == NULL) ==
	    (sections_at(&found, VCPU_SREGS)->data == NULL)) {
		log_error("vcpu state: sections sregs and sregs2: there must be one of them");
		return -EPROTO;
	}
	e = parts_load(parts, PART_COUNT, load_order, &m, &found);
	if (e == 0)
		mark_stopped(&m);
	return e;
}
