/* SPDX-License-Identifier: MIT */
/*
 * Ring 0's entries: exceptions, the timer that beats, and the gate that ring 3 calls. Where KVM
 * has to interpret ring 0, each instruction here costs half a microsecond; and there INT n faults
 * and SYSCALL stays in ring 3, so UD2 is the call.
 */
#include "abi.h"
#include "layout.h"

	.text
	.code64

/* void enter_user(void (*entry)(struct cpu *), struct cpu *cpu, void *stack) */
	.globl enter_user
enter_user:
	pushq $SELECTOR_USER_DATA
	leaq -8(%rdx), %rdx /* as after a call: the ABI wants RSP + 8 aligned */
	pushq %rdx
	pushq $0x202 /* interrupts on */
	pushq $SELECTOR_USER_CODE
	pushq %rdi
	movq %rsi, %rdi
	iretq

/* EAX: a GATE_ operation, its operands as layout.h says. Works from ring 0 too. */
	.globl gate
gate:
	ud2
	ret

trap_ud:
	cmpq $gate, (%rsp)
	jne 9f
	addq $2, (%rsp)
	cmpl $GATE_OUT, %eax
	je 2f
	cmpl $GATE_TIMER, %eax
	je 4f
	cmpl $GATE_IDLE, %eax
	je 1f
	sti
	hlt
	iretq

1:	movl $APIC_BASE, %r8d
	movl %esi, APIC_LVT_TIMER(%r8)
	movl %edx, APIC_TIMER_INITIAL(%r8)
	movl %edi, %eax
	sti
10:	hlt
	jmp 10b

2:	testl $0x200, 16(%rsp) /* a long line must not hold up the beats */
	jz 3f
	sti
3:	lodsb
	outb %al, %dx
	decl %ecx
	jnz 3b
	iretq

4:	movl $APIC_BASE, %ecx
	movl %esi, APIC_LVT_TIMER(%rcx)
	movl %edx, APIC_TIMER_INITIAL(%rcx)
	iretq

9:	pushq $0
	pushq $VECTOR_UD
	jmp trap_fault

/*
 * The beat of an idle guest, in three instructions: EAX and R8 are GATE_IDLE's, and as it never
 * returns, the entry's stack starts anew each time (IST) and interrupts stay on (trap gate).
 */
	.globl trap_idle
trap_idle:
	outb %al, $GUEST_PORT_HEARTBEAT
	movl $0, APIC_EOI(%r8)
	hlt
	jmp 10b

trap_timer:
	pushq %rax
	pushq %rdx
	movq %rsp, %rdx
	andq $-STACK_BYTES, %rdx
	decl CPU_BEAT_LEFT(%rdx)
	jnz 1f
	movl CPU_BEAT_EVERY(%rdx), %eax
	movl %eax, CPU_BEAT_LEFT(%rdx)
	movl CPU_INDEX(%rdx), %eax
	outb %al, $GUEST_PORT_HEARTBEAT
1:	cmpq $0, CPU_PERIOD(%rdx)
	jne 3f
2:	movl $APIC_BASE, %eax
	movl $0, APIC_EOI(%rax)
	popq %rdx
	popq %rax
	iretq

/*
 * Sets a timer that is not periodic to the next deadline; a deadline that is past, or absurdly far
 * off because the TSC has jumped, is dropped, so that beats never come in a burst to catch up.
 */
3:	pushq %rcx
	pushq %rdi
	movq %rdx, %rdi
	rdtsc
	shlq $32, %rdx
	orq %rdx, %rax /* now */
	movq CPU_PERIOD(%rdi), %rcx
	movq CPU_NEXT(%rdi), %rdx
	addq %rcx, %rdx
	subq %rax, %rdx /* ticks that are left */
	cmpq %rcx, %rdx
	cmovaq %rcx, %rdx
	addq %rdx, %rax
	movq %rax, CPU_NEXT(%rdi)
	imulq CPU_SCALE(%rdi), %rdx
	shrq $32, %rdx
	incl %edx /* a count of 0 would stop the timer */
	movl $APIC_BASE, %eax
	movl %edx, APIC_TIMER_INITIAL(%rax)
	popq %rdi
	popq %rcx
	jmp 2b

trap_spurious:
	iretq

trap_fault:
	movq %rsp, %rdi
	andq $-16, %rsp
	call guest_trap

	.macro fault vector, has_error
trap_\vector:
	.ifeq \has_error
	pushq $0
	.endif
	pushq $\vector
	jmp trap_fault
	.endm

	.irp vector, 0, 1, 2, 3, 4, 5, 7, 9, 15, 16, 18, 19, 20, 22, 23, 24, 25, 26, 27, 28, 31
	fault \vector, 0
	.endr
	.irp vector, 8, 10, 11, 12, 13, 14, 17, 21, 29, 30
	fault \vector, 1
	.endr

	.section .rodata
	.balign 8
	.globl trap_entries /* of vectors 0 to VECTOR_TIMER */
trap_entries:
	.quad trap_0, trap_1, trap_2, trap_3, trap_4, trap_5, trap_ud, trap_7
	.quad trap_8, trap_9, trap_10, trap_11, trap_12, trap_13, trap_14, trap_15
	.quad trap_16, trap_17, trap_18, trap_19, trap_20, trap_21, trap_22, trap_23
	.quad trap_24, trap_25, trap_26, trap_27, trap_28, trap_29, trap_30, trap_31
	.quad trap_timer
	.globl trap_spurious

	.section .note.GNU-stack, "", @progbits
