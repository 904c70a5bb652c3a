/* SPDX-License-Identifier: MIT */
/* Saving and loading a vCPU: nothing is lost on the way, and unsound bytes are refused. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <common/wire.h>
#include <migrator/kvm/msrs.h>

#include "rig.h"

#define APIC_SPIV	   0xf0
#define APIC_LVTT	   0x320
#define APIC_TMCCT	   0x390
#define LVTT_TSC_DEADLINE  0x40000u
#define MSR_SYSENTER_CS	   0x174u
#define MSR_SYSENTER_ESP   0x175u
#define MSR_PAT		   0x277u
#define MSR_MTRR_DEF_TYPE  0x2ffu
#define MSR_STAR	   0xc0000081u
#define MSR_LSTAR	   0xc0000082u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_KVM_SYSTEM	   0x4b564d01u

/* mov ax,0x1234; mov bx,0x5678; inc cx; out 0x10,al; hlt */
static const uint8_t code[] = {0xb8, 0x34, 0x12, 0xbb, 0x78, 0x56, 0x41, 0xe6, 0x10, 0xf4};

static void fill_regs(const struct rig *rig)
{
	struct kvm_regs regs;
	uint64_t *r = (uint64_t *)&regs;

	rig_ioctl(rig->vcpu, KVM_GET_REGS, &regs);
	cr_assert_eq(regs.rax & 0xffff, 0x1234);
	cr_assert_eq(regs.rip, 0x1009, "the OUT is retired");
	for (unsigned int i = 0; i < 16; i++)
		r[i] = 0x1111111111111111ull * i + 0x0102030405060708ull;
	rig_ioctl(rig->vcpu, KVM_SET_REGS, &regs);
}

static void fill_sregs(const struct rig *rig)
{
	struct kvm_sregs2 s;

	rig_ioctl(rig->vcpu, KVM_GET_SREGS2, &s);
	s.cr2 = 0xdeadbeef000;
	s.cr8 = 5;
	s.gdt.base = 0x3000;
	s.gdt.limit = 0x27;
	s.fs.base = 0x1230;
	rig_ioctl(rig->vcpu, KVM_SET_SREGS2, &s);
}

static void fill_xsave(const struct rig *rig)
{
	int size = ioctl(rig->vm, KVM_CHECK_EXTENSION, KVM_CAP_XSAVE2);
	uint8_t *x = calloc(1, (size_t)(size < 4096 ? 4096 : size));

	cr_assert(x != NULL);
	rig_ioctl(rig->vcpu, KVM_GET_XSAVE, x);
	x[0] = 0x7f;
	x[1] = 0x02; /* FCW */
	for (unsigned int i = 0; i < 256; i++)
		x[160 + i] = (uint8_t)(i * 7 + 1);
	x[512] |= 3; /* XSTATE_BV: x87, SSE */
	rig_ioctl(rig->vcpu, KVM_SET_XSAVE, x);
	free(x);
}

static void fill_debugregs(const struct rig *rig)
{
	struct kvm_debugregs d = {
		.db = {0x1000, 0x2000, 0x3000, 0x4000}, .dr6 = 0xffff0ff1, .dr7 = 0x455};

	rig_ioctl(rig->vcpu, KVM_SET_DEBUGREGS, &d);
}

static void fill_msrs(const struct rig *rig)
{
	rig_set_msr(rig, MSR_SYSENTER_CS, 0x10);
	rig_set_msr(rig, MSR_SYSENTER_ESP, 0xffff800000001000);
	rig_set_msr(rig, MSR_STAR, 0x0023001000000000);
	rig_set_msr(rig, MSR_LSTAR, 0xffffffff81000000);
	rig_set_msr(rig, MSR_KERNEL_GS_BASE, 0xffff888012345000);
	rig_set_msr(rig, MSR_PAT, 0x0007040600070405);
	rig_set_msr(rig, MSR_MTRR_DEF_TYPE, 0xc06);
	rig_set_msr(rig, MSR_KVM_SYSTEM, 0x4001);
}

static void fill_events(const struct rig *rig)
{
	struct kvm_vcpu_events e;

	rig_ioctl(rig->vcpu, KVM_GET_VCPU_EVENTS, &e);
	e.exception.injected = 1;
	e.exception.nr = 13;
	e.exception.has_error_code = 1;
	e.exception.error_code = 0x18;
	e.nmi.pending = 1;
	e.nmi.masked = 1;
	rig_ioctl(rig->vcpu, KVM_SET_VCPU_EVENTS, &e);
}

/* A deadline far ahead, so that it does not pass while the test runs. */
static uint64_t arm_deadline(const struct rig *rig)
{
	struct kvm_lapic_state lapic;
	uint64_t deadline = rig_msr(rig, MSR_TSC) + (1ull << 45);

	rig_ioctl(rig->vcpu, KVM_GET_LAPIC, &lapic);
	wire_put_u32((uint8_t *)lapic.regs + APIC_SPIV, 0x1ff);
	wire_put_u32((uint8_t *)lapic.regs + APIC_LVTT, LVTT_TSC_DEADLINE | 0xef);
	rig_ioctl(rig->vcpu, KVM_SET_LAPIC, &lapic);
	rig_set_msr(rig, MSR_TSC_DEADLINE, deadline);
	return deadline;
}

static void fill(struct rig *rig, bool irqchip)
{
	struct kvm_mp_state halted = {.mp_state = KVM_MP_STATE_HALTED};

	rig_run(rig, code, sizeof(code));
	fill_regs(rig);
	fill_sregs(rig);
	fill_xsave(rig);
	fill_debugregs(rig);
	if (irqchip) {
		rig_ioctl(rig->vcpu, KVM_SET_MP_STATE, &halted);
		arm_deadline(rig);
	}
	fill_msrs(rig);
	fill_events(rig);
}

static struct vmferry_blob *save(const struct rig *rig)
{
	struct vmferry_blob *blob;

	cr_assert_eq(vmferry_blob_new(&blob), 0);
	cr_assert_eq(vmferry_kvm_save_vcpu(rig->vcpu, rig->vm, blob), 0);
	return blob;
}

static int load(const struct rig *rig, const struct vmferry_blob *blob)
{
	return vmferry_kvm_load_vcpu(rig->vcpu, rig->vm, vmferry_blob_data(blob),
				     vmferry_blob_size(blob));
}

/* Zeroes what goes on by itself: the TSC and the timer's count. */
static void drop_time(uint8_t *data, size_t length)
{
	uint32_t size;
	uint8_t *lapic = rig_section(data, length, VCPU_LAPIC, &size);
	uint8_t *msrs;

	if (lapic != NULL)
		wire_put_u32(lapic + APIC_TMCCT, 0);
	msrs = rig_section(data, length, VCPU_MSRS, &size);
	cr_assert(msrs != NULL);
	for (uint32_t i = 0; i < size; i += sizeof(struct kvm_msr_entry))
		if (wire_get(msrs + i, 4) == MSR_TSC)
			wire_put_u64(msrs + i + 8, 0);
}

static void expect_same(const struct vmferry_blob *a, const struct vmferry_blob *b)
{
	size_t size = vmferry_blob_size(a);
	uint8_t *x = rig_copy(a);
	uint8_t *y = rig_copy(b);

	cr_assert_eq(size, vmferry_blob_size(b));
	drop_time(x, size);
	drop_time(y, size);
	for (size_t i = 0; i < size; i++)
		cr_expect(x[i] == y[i], "byte %zu: 0x%x became 0x%x", i, x[i], y[i]);
	free(x);
	free(y);
}

static void round_trip(bool irqchip)
{
	struct vmferry_blob *before;
	struct vmferry_blob *after;
	struct rig source;
	struct rig destination;
	uint32_t size;

	rig_open(&source, irqchip);
	fill(&source, irqchip);
	before = save(&source);
	cr_expect_eq(rig_section(vmferry_blob_data(before), vmferry_blob_size(before), VCPU_LAPIC,
				 &size) != NULL,
		     irqchip);
	rig_open_bare(&destination, irqchip);
	cr_assert_eq(load(&destination, before), 0);
	after = save(&destination);
	expect_same(before, after);
	vmferry_blob_free(&before);
	vmferry_blob_free(&after);
	rig_close(&source);
	rig_close(&destination);
}

Test(vcpu, save_load_save_with_irqchip__same_bytes, .timeout = 300)
{
	round_trip(true);
}

Test(vcpu, save_load_save_without_irqchip__same_bytes, .timeout = 300)
{
	round_trip(false);
}

Test(vcpu, save__holds_the_values_that_were_set, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct kvm_vcpu_events events;
	struct rig rig;
	uint32_t size;
	uint8_t *at;

	rig_open(&rig, true);
	fill(&rig, true);
	blob = save(&rig);
	at = rig_section(vmferry_blob_data(blob), vmferry_blob_size(blob), VCPU_XSAVE, &size);
	cr_assert(at != NULL && size >= 4096);
	for (unsigned int i = 0; i < 256; i++)
		cr_expect_eq(at[160 + i], (uint8_t)(i * 7 + 1), "xmm byte %u", i);
	at = rig_section(vmferry_blob_data(blob), vmferry_blob_size(blob), VCPU_MP_STATE, &size);
	cr_expect_eq(wire_get(at, 4), KVM_MP_STATE_HALTED);
	at = rig_section(vmferry_blob_data(blob), vmferry_blob_size(blob), VCPU_EVENTS, &size);
	memcpy(&events, at, sizeof(events));
	cr_expect(events.exception.injected && events.exception.nr == 13);
	cr_expect(events.nmi.pending && events.nmi.masked);
	vmferry_blob_free(&blob);
	rig_close(&rig);
}

Test(vcpu, load__tsc_deadline_survives, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig source;
	struct rig destination;
	uint64_t deadline;

	rig_open(&source, true);
	deadline = arm_deadline(&source);
	blob = save(&source);
	rig_open_bare(&destination, true);
	cr_assert_eq(load(&destination, blob), 0);
	cr_expect_eq(rig_msr(&destination, MSR_TSC_DEADLINE), deadline);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

static void deliver_payloads(const struct rig *rig)
{
	struct kvm_enable_cap cap = {.cap = KVM_CAP_EXCEPTION_PAYLOAD, .args = {1}};

	rig_ioctl(rig->vm, KVM_ENABLE_CAP, &cap);
}

/* Not injected yet: setting the registers after it would drop it. */
Test(vcpu, load__pending_page_fault_survives, .timeout = 300)
{
	struct kvm_vcpu_events e;
	struct vmferry_blob *blob;
	struct rig source;
	struct rig destination;

	rig_open(&source, false);
	deliver_payloads(&source);
	rig_ioctl(source.vcpu, KVM_GET_VCPU_EVENTS, &e);
	e.exception.pending = 1;
	e.exception.nr = 14;
	e.exception.has_error_code = 1;
	e.exception_has_payload = 1;
	e.exception_payload = 0x123456;
	rig_ioctl(source.vcpu, KVM_SET_VCPU_EVENTS, &e);
	blob = save(&source);
	rig_open_bare(&destination, false);
	deliver_payloads(&destination);
	cr_assert_eq(load(&destination, blob), 0);
	memset(&e, 0, sizeof(e));
	rig_ioctl(destination.vcpu, KVM_GET_VCPU_EVENTS, &e);
	cr_expect(e.exception.pending && e.exception.nr == 14);
	cr_expect_eq(e.exception_payload, 0x123456);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

/* Exchanges TSC and TSC_DEADLINE, as a source might send them that lists them otherwise. */
static void deadline_before_tsc(uint8_t *data, size_t length)
{
	struct kvm_msr_entry t;
	struct kvm_msr_entry d;
	uint32_t size;
	uint8_t *msrs = rig_section(data, length, VCPU_MSRS, &size);
	uint8_t *tsc = NULL;
	uint8_t *deadline = NULL;

	for (uint32_t i = 0; i < size; i += sizeof(t)) {
		if (wire_get(msrs + i, 4) == MSR_TSC)
			tsc = msrs + i;
		if (wire_get(msrs + i, 4) == MSR_TSC_DEADLINE)
			deadline = msrs + i;
	}
	cr_assert(tsc != NULL && deadline != NULL);
	memcpy(&t, tsc, sizeof(t));
	memcpy(&d, deadline, sizeof(d));
	memcpy(tsc < deadline ? tsc : deadline, &d, sizeof(d));
	memcpy(tsc < deadline ? deadline : tsc, &t, sizeof(t));
}

/*
 * The TSC is hours ahead of the host's: a timer armed before it is set would not fire in time.
 * (PVM leaves the TSC as it is, so that only other hosts tell the two orders apart.)
 */
Test(vcpu, loaded_vcpu_that_sleeps__woken_by_its_timer, .timeout = 300)
{
	/* out 0x10,al; sti; hlt; jmp to hlt; at 0x1010 the handler: out 0x12,al; out 0x13,al */
	static const uint8_t sleeper[] = {0xe6, 0x10, 0xfb, 0xf4, 0xeb, 0xfd, 0x90,
					  0x90, 0x90, 0x90, 0x90, 0x90, 0x90, 0x90,
					  0x90, 0x90, 0xe6, 0x12, 0xe6, 0x13};
	struct vmferry_blob *blob;
	struct rig source;
	struct rig destination;
	uint8_t *copy;

	rig_open(&source, true);
	rig_run(&source, sleeper, sizeof(sleeper));
	wire_put_u32(source.memory + 0xefull * 4, 0x1010);
	rig_set_msr(&source, MSR_TSC, rig_msr(&source, MSR_TSC) + (1ull << 46));
	arm_deadline(&source);
	rig_set_msr(&source, MSR_TSC_DEADLINE, rig_msr(&source, MSR_TSC) + 500000000);
	blob = save(&source);
	copy = rig_copy(blob);
	deadline_before_tsc(copy, vmferry_blob_size(blob));
	rig_open_bare(&destination, true);
	memcpy(destination.memory, source.memory, RIG_MEMORY);
	cr_assert_eq(vmferry_kvm_load_vcpu(destination.vcpu, destination.vm, copy,
					   vmferry_blob_size(blob)),
		     0);
	rig_ioctl(destination.vcpu, KVM_RUN, NULL);
	cr_assert_eq(destination.run->exit_reason, KVM_EXIT_IO);
	cr_expect_eq(destination.run->io.port, 0x12);
	free(copy);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

Test(vcpu, load_into_a_vcpu_that_has_the_cpuid__works, .timeout = 300)
{
	struct vmferry_blob *before;
	struct vmferry_blob *after;
	struct rig source;
	struct rig destination;

	rig_open(&source, true);
	fill(&source, true);
	before = save(&source);
	rig_open(&destination, true);
	cr_assert_eq(load(&destination, before), 0);
	after = save(&destination);
	expect_same(before, after);
	vmferry_blob_free(&before);
	vmferry_blob_free(&after);
	rig_close(&source);
	rig_close(&destination);
}

Test(vcpu, loaded_vcpu__runs_on_where_the_source_stopped, .timeout = 300)
{
	/* inc cx; out 0x10,al; inc cx; inc cx; out 0x11,al */
	static const uint8_t two[] = {0x41, 0xe6, 0x10, 0x41, 0x41, 0xe6, 0x11};
	struct vmferry_blob *blob;
	struct kvm_regs regs;
	struct rig source;
	struct rig destination;

	rig_open(&source, false);
	rig_run(&source, two, sizeof(two));
	blob = save(&source);
	rig_open_bare(&destination, false);
	memcpy(destination.memory, source.memory, RIG_MEMORY);
	cr_assert_eq(load(&destination, blob), 0);
	rig_ioctl(destination.vcpu, KVM_RUN, NULL);
	cr_assert_eq(destination.run->exit_reason, KVM_EXIT_IO);
	cr_expect_eq(destination.run->io.port, 0x11);
	rig_ioctl(destination.vcpu, KVM_GET_REGS, &regs);
	cr_expect_eq(regs.rcx, 3);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

Test(vcpu, load_lapic_without_irqchip__refused, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig source;
	struct rig destination;

	rig_open(&source, true);
	blob = save(&source);
	rig_open_bare(&destination, false);
	cr_expect_lt(load(&destination, blob), 0);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

Test(vcpu, load_msr_that_kvm_refuses__fails_unless_zero, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig rig;
	uint32_t size;
	uint8_t *copy;
	uint8_t *msrs;

	rig_open(&rig, true);
	blob = save(&rig);
	copy = rig_copy(blob);
	msrs = rig_section(copy, vmferry_blob_size(blob), VCPU_MSRS, &size);
	wire_put_u32(msrs + 16, 0x12345678);
	wire_put_u64(msrs + 24, 7);
	cr_expect_eq(vmferry_kvm_load_vcpu(rig.vcpu, rig.vm, copy, vmferry_blob_size(blob)),
		     -ENOTSUP);
	wire_put_u64(msrs + 24, 0);
	cr_expect_eq(vmferry_kvm_load_vcpu(rig.vcpu, rig.vm, copy, vmferry_blob_size(blob)), 0);
	free(copy);
	vmferry_blob_free(&blob);
	rig_close(&rig);
}

/* Makes the rig's vCPU one of index 1, which waits for INIT as long as nobody has started it. */
static void add_second(struct rig *rig)
{
	close(rig->vcpu);
	rig->vcpu = ioctl(rig->vm, KVM_CREATE_VCPU, 1);
	cr_assert(rig->vcpu >= 0);
}

Test(vcpu, second_processor_not_started__still_waits, .timeout = 300)
{
	struct kvm_mp_state mp;
	struct vmferry_blob *blob;
	struct rig source;
	struct rig destination;

	rig_open(&source, true);
	add_second(&source);
	blob = save(&source);
	rig_open_bare(&destination, true);
	add_second(&destination);
	mp.mp_state = KVM_MP_STATE_RUNNABLE;
	rig_ioctl(destination.vcpu, KVM_SET_MP_STATE, &mp);
	cr_assert_eq(load(&destination, blob), 0);
	rig_ioctl(destination.vcpu, KVM_GET_MP_STATE, &mp);
	cr_expect_eq(mp.mp_state, KVM_MP_STATE_UNINITIALIZED);
	vmferry_blob_free(&blob);
	rig_close(&source);
	rig_close(&destination);
}

static struct msr_list *list_of(size_t count, uint32_t index)
{
	struct msr_list *list = calloc(1, sizeof(*list) + count * sizeof(list->index[0]));

	cr_assert(list != NULL);
	list->count = count;
	for (size_t i = 0; i < count; i++)
		list->index[i] = index;
	return list;
}

Test(msrs, read_one_that_the_vcpu_lacks__skipped, .timeout = 300)
{
	struct msr_list *list = list_of(3, MSR_SYSENTER_CS);
	struct kvm_msr_entry entries[3];
	struct rig rig;

	rig_open(&rig, false);
	rig_set_msr(&rig, MSR_SYSENTER_ESP, 0x77);
	list->index[1] = 0x12345678;
	list->index[2] = MSR_SYSENTER_ESP;
	cr_assert_eq(msrs_read(rig.vcpu, list, entries), 2);
	cr_expect_eq(entries[0].index, MSR_SYSENTER_CS);
	cr_expect_eq(entries[1].index, MSR_SYSENTER_ESP);
	cr_expect_eq(entries[1].data, 0x77);
	free(list);
	rig_close(&rig);
}

Test(msrs, more_than_one_call_takes__all_read_and_written, .timeout = 300)
{
	enum { MANY = 600, BAD = 254 };
	struct msr_list *list = list_of(MANY, MSR_SYSENTER_CS);
	struct kvm_msr_entry *entries = calloc(MANY, sizeof(*entries));
	struct rig rig;

	rig_open(&rig, false);
	list->index[BAD] = 0x12345678;
	cr_assert_eq(msrs_read(rig.vcpu, list, entries), MANY - 1);
	entries[MANY - 2].data = 0x33;
	cr_assert_eq(msrs_write(rig.vcpu, entries, MANY - 1), 0);
	cr_expect_eq(rig_msr(&rig, MSR_SYSENTER_CS), 0x33);
	free(entries);
	free(list);
	rig_close(&rig);
}

Test(vcpu, load_cut_at_any_length__refused, .timeout = 300)
{
	struct vmferry_blob *blob;
	struct rig rig;

	rig_open(&rig, true);
	blob = save(&rig);
	for (size_t n = 0; n < vmferry_blob_size(blob); n++) {
		/* Memory of that very size, so that a sanitizer sees a read beyond it. */
		uint8_t *cut = malloc(n + 1);

		cr_assert(cut != NULL);
		memcpy(cut + 1, vmferry_blob_data(blob), n);
		cr_assert_eq(vmferry_kvm_load_vcpu(rig.vcpu, rig.vm, cut + 1, n), -EPROTO,
			     "length %zu", n);
		free(cut);
	}
	vmferry_blob_free(&blob);
	rig_close(&rig);
}

Test(vcpu, load_with_a_byte_changed__no_crash, .timeout = 100)
{
	struct vmferry_blob *blob;
	struct rig rig;
	uint8_t *copy;

	rig_open(&rig, true);
	blob = save(&rig);
	copy = rig_copy(blob);
	for (size_t i = 0; i < vmferry_blob_size(blob); i += 5) {
		copy[i] ^= 0x81;
		(void)vmferry_kvm_load_vcpu(rig.vcpu, rig.vm, copy, vmferry_blob_size(blob));
		copy[i] ^= 0x81;
	}
	cr_expect_eq(load(&rig, blob), 0, "sound state is still taken");
	free(copy);
	vmferry_blob_free(&blob);
	rig_close(&rig);
}
