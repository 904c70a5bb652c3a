/* SPDX-License-Identifier: MIT */
/*
 * Ring 0's set-up in C: descriptor tables, starting vCPUs, faults. Runs interpreted where KVM has
 * no hardware help, so it does little.
 */
#include <stdatomic.h>
#include <stdbool.h>

#include "abi.h"
#include "apic.h"
#include "machine.h"
#include "text.h"

#define START_DEADLINE_MS 1000

struct tss {
	uint32_t reserved;
	uint32_t rsp0[2]; /* halves, because it is not aligned */
	uint32_t unused[6];
	uint32_t ist1[2];
	uint32_t unused2[14];
	uint16_t reserved2;
	uint16_t io_bitmap;
};

_Static_assert(sizeof(struct tss) == 104, "as the processor has it");

struct gate_entry {
	uint16_t offset_low, selector;
	uint16_t flags, offset_middle;
	uint32_t offset_high, reserved;
};

#define GATE_INTERRUPT 0xee00 /* present, callable from ring 3 */
#define GATE_TRAP      0xef00 /* the same, interrupts stay on */
#define GATE_IST_1     0x0001

struct trap_frame {
	uint64_t vector, error, rip, cs, rflags, rsp, ss;
};

union {
	struct cpu cpu;
	char stack[STACK_BYTES];
} cpu_stacks[GUEST_VCPUS_MAX] __attribute__((aligned(STACK_BYTES)));

static char user_stacks[GUEST_VCPUS_MAX][STACK_BYTES] __attribute__((aligned(16)));
static struct tss tss[GUEST_VCPUS_MAX];
static struct gate_entry idt[256];

/*
 * What the next vCPU to start finds: its own struct, where to go, and where to say that it is
 * there.
 */
struct cpu *ap_cpu;
static void (*ap_entry)(struct cpu *);
static atomic_uint ap_arrived;

extern uint64_t gdt[];
extern const char trampoline[], trampoline_end[];
extern const uint64_t trap_entries[VECTOR_TIMER + 1];
void trap_spurious(void);
void trap_idle(void);
void enter_user(void (*entry)(struct cpu *), struct cpu *cpu, void *stack);
_Noreturn void guest_trap(const struct trap_frame *frame);
_Noreturn void guest_boot_ap(struct cpu *cpu);

struct cpu *machine_cpu(uint32_t index)
{
	return &cpu_stacks[index].cpu;
}

static void set_gate(unsigned int vector, uint64_t entry, uint16_t flags)
{
	idt[vector] = (struct gate_entry){
		.offset_low = (uint16_t)entry,
		.selector = SELECTOR_CODE,
		.flags = flags,
		.offset_middle = (uint16_t)(entry >> 16),
		.offset_high = (uint32_t)(entry >> 32),
	};
}

static void set_task(uint32_t index)
{
	uint64_t base = (uint64_t)&tss[index];
	uint64_t stack = (uint64_t)&cpu_stacks[index + 1];
	uint64_t *entry = &gdt[SELECTOR_TSS / 8 + 2 * index];

	tss[index].rsp0[0] = (uint32_t)stack;
	tss[index].rsp0[1] = (uint32_t)(stack >> 32);
	tss[index].ist1[0] = (uint32_t)stack;
	tss[index].ist1[1] = (uint32_t)(stack >> 32);
	tss[index].io_bitmap = sizeof(*tss);
	entry[0] = (sizeof(*tss) - 1) | (base & 0xffffff) << 16 | 0x89ull << 40 |
		   (base >> 24 & 0xff) << 56;
	entry[1] = base >> 32;
}

/* Of the vCPU that runs this. */
static void load_tables(uint32_t index)
{
	struct __attribute__((packed)) {
		uint16_t limit;
		uint64_t base;
	} pointer = {sizeof(idt) - 1, (uint64_t)idt};
	uint16_t task = (uint16_t)(SELECTOR_TSS + 16 * index);

	__asm__ volatile("lidt %0" ::"m"(pointer));
	__asm__ volatile("ltr %0" ::"r"(task));
}

void machine_setup(void)
{
	for (unsigned int vector = 0; vector <= VECTOR_TIMER; vector++)
		set_gate(vector, trap_entries[vector], GATE_INTERRUPT);
	set_gate(VECTOR_IDLE, (uint64_t)trap_idle, GATE_TRAP | GATE_IST_1);
	set_gate(VECTOR_SPURIOUS, (uint64_t)trap_spurious, GATE_INTERRUPT);
	for (uint32_t i = 0; i < GUEST_VCPUS_MAX; i++) {
		machine_cpu(i)->index = i;
		set_task(i);
	}
	load_tables(0);
	apic_setup();
}

void machine_enter(struct cpu *cpu, void (*entry)(struct cpu *))
{
	enter_user(entry, cpu, user_stacks[cpu->index] + STACK_BYTES);
}

void machine_start_cpu(uint32_t index, void (*entry)(struct cpu *))
{
	uint64_t start = read_tsc();
	char *to = at_address(TRAMPOLINE);

	for (const char *from = trampoline; from < trampoline_end; from++)
		*to++ = *from;
	ap_cpu = machine_cpu(index);
	ap_entry = entry;
	apic_start_cpu(index);
	while (atomic_load(&ap_arrived) != index) {
		if (read_tsc() - start > clocks.tsc_hz * START_DEADLINE_MS / 1000)
			die("a vCPU does not start: fewer than vcpus= are there");
		cpu_relax();
	}
}

void guest_boot_ap(struct cpu *cpu)
{
	load_tables(cpu->index);
	apic_enable();
	atomic_store(&ap_arrived, cpu->index);
	machine_enter(cpu, ap_entry);
	__builtin_unreachable();
}

static _Noreturn void halt(void)
{
	char status = GUEST_STATUS_FAULT;

	gate_out(GUEST_PORT_STATUS, &status, 1);
	for (;;)
		__asm__ volatile("cli; hlt");
}

void die(const char *reason)
{
	struct text text = {.length = 0};

	text_add(&text, "guest: stopped: ");
	text_add(&text, reason);
	text_say(&text);
	halt();
}

void guest_trap(const struct trap_frame *frame)
{
	struct text text = {.length = 0};
	uint64_t cr2;

	__asm__ volatile("mov %%cr2, %0" : "=r"(cr2));
	text_add(&text, "guest: exception ");
	text_add_decimal(&text, frame->vector);
	text_add(&text, " at rip ");
	text_add_hex(&text, frame->rip);
	text_add(&text, ", error ");
	text_add_hex(&text, frame->error);
	text_add(&text, ", cs ");
	text_add_hex(&text, frame->cs);
	text_add(&text, ", rsp ");
	text_add_hex(&text, frame->rsp);
	text_add(&text, ", cr2 ");
	text_add_hex(&text, cr2);
	text_say(&text);
	halt();
}
