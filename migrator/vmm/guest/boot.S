/* SPDX-License-Identifier: MIT */
/*
 * From the multiboot entry (32-bit, paging off) or a start-up interrupt (16-bit) to C in 64-bit
 * long mode. The first 4 GiB are mapped here one to one with 2 MiB pages, open to ring 3; C maps
 * the rest.
 */
#include "layout.h"

#define MULTIBOOT_MAGIC 0x1badb002
#define MULTIBOOT_FLAGS 0x2 /* memory information wanted */

#define CR0_PE	 0x1
#define CR0_PG	 0x80000000
#define CR4_PAE	 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100

#define PAGE_USER_WRITE 0x7
#define PAGE_LARGE	0x80
#define PAGE_UNCACHED	0x18

	.section .multiboot, "a"
	.balign 4
	.long MULTIBOOT_MAGIC, MULTIBOOT_FLAGS, -(MULTIBOOT_MAGIC + MULTIBOOT_FLAGS)

	.text
	.code32
	.globl start
start:
	cli
	cld
	movl %eax, %ebp
	movl %ebx, %esi

	movl $page_directories, %edi
	movl $(PAGE_USER_WRITE | PAGE_LARGE), %eax
	movl $(4 * 512), %ecx
1:	movl %eax, (%edi)
	addl $0x200000, %eax
	addl $8, %edi
	decl %ecx
	jnz 1b
	orl $PAGE_UNCACHED, page_directories + (APIC_BASE >> 21) * 8

	movl $(page_directories + PAGE_USER_WRITE), %eax
	movl $page_pointers, %edi
	movl $4, %ecx
2:	movl %eax, (%edi)
	addl $4096, %eax
	addl $8, %edi
	decl %ecx
	jnz 2b
	movl $(page_pointers + PAGE_USER_WRITE), page_root

	movl $start64, %ebx

/* EBX: where to go on in 64-bit mode; EBP and ESI are kept. */
enter_long_mode:
	movl %cr4, %eax
	orl $CR4_PAE, %eax
	movl %eax, %cr4
	movl $page_root, %eax
	movl %eax, %cr3
	movl $MSR_EFER, %ecx
	rdmsr
	orl $EFER_LME, %eax
	wrmsr
	movl %cr0, %eax
	orl $(CR0_PG | CR0_PE), %eax
	movl %eax, %cr0
	lgdt gdt_pointer
	ljmp $SELECTOR_CODE, $enter64

	.code64
enter64:
	movl $SELECTOR_DATA, %eax
	movl %eax, %ds
	movl %eax, %es
	movl %eax, %ss
	xorl %eax, %eax
	movl %eax, %fs
	movl %eax, %gs
	movl %ebx, %ebx
	jmp *%rbx

start64:
	movl $(cpu_stacks + STACK_BYTES), %esp
	movl %ebp, %edi
	movl %esi, %esi
	call guest_boot
1:	hlt
	jmp 1b

start_ap64:
	movq ap_cpu, %rdi
	leaq STACK_BYTES(%rdi), %rsp
	call guest_boot_ap
1:	hlt
	jmp 1b

	.code32
start_ap32:
	movl $SELECTOR_DATA, %eax
	movl %eax, %ds
	movl $start_ap64, %ebx
	jmp enter_long_mode

/* Copied to TRAMPOLINE; CS is TRAMPOLINE >> 4 and IP 0 when it runs there. */
	.code16
	.globl trampoline, trampoline_end
trampoline:
	cli
	cld
	movw %cs, %ax
	movw %ax, %ds
	lgdtl trampoline_gdt - trampoline
	movl %cr0, %eax
	orl $CR0_PE, %eax
	movl %eax, %cr0
	ljmpl $SELECTOR_CODE32, $start_ap32
	.balign 4
trampoline_gdt:
	.word gdt_end - gdt - 1
	.long gdt
trampoline_end:

	.data
	.balign 16
	.globl gdt
gdt:
	.quad 0
	.quad 0x00af9b000000ffff /* SELECTOR_CODE */
	.quad 0x00cf93000000ffff /* SELECTOR_DATA */
	.quad 0x00affb000000ffff /* SELECTOR_USER_CODE */
	.quad 0x00cff3000000ffff /* SELECTOR_USER_DATA */
	.quad 0x00cf9b000000ffff /* SELECTOR_CODE32 */
	.fill 2 * 16, 8, 0	 /* SELECTOR_TSS */
gdt_end:
gdt_pointer:
	.word gdt_end - gdt - 1
	.quad gdt

	.bss
	.balign 4096
page_root:
	.skip 4096
	.globl page_pointers, page_directories
page_pointers:
	.skip 4096
page_directories:
	.skip 64 * 4096

	.section .note.GNU-stack, "", @progbits
