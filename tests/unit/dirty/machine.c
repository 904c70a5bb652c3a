/* SPDX-License-Identifier: MIT */
/* A guest of a few instructions and the threads that run it, see machine.h. */
#include "machine.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <vmferry/kvm.h>

#define TABLES_AT 0x1000u /* PML4, then PDPT, then PD */
#define CODE_AT	  0x8000u

/* Written by the vCPUs: two regions that touch, the second of them no multiple of 64 pages. */
#define DATA_AT	    (4ull << 20)
#define DATA_SIZE   (8ull << 20)
#define ODD_SIZE    (100ull * VMFERRY_PAGE_SIZE)
#define DATA_PAGES  ((DATA_SIZE + ODD_SIZE) / VMFERRY_PAGE_SIZE)
#define CPUIDS	    256
#define PTE_PRESENT 0x7u /* and writable, for ring 3 */
#define PTE_2M	    0x80u
#define PTE_2M_SIZE (2ull << 20)

/*
 * r8: first page, r9: number of pages, rax: state of the generator that r10 and r11 drive. The
 * version of a page is its first word; each write raises it and leaves it in two more places.
 */
extern const char guest_code[], guest_code_end[];
__asm__(".pushsection .rodata\n"
	"guest_code:\n"
	"	imulq	%r10, %rax\n"
	"	addq	%r11, %rax\n"
	"	movq	%rax, %rcx\n"
	"	shrq	$32, %rcx\n"
	"	imulq	%r9, %rcx\n"
	"	shrq	$32, %rcx\n"
	"	shlq	$12, %rcx\n"
	"	addq	%r8, %rcx\n"
	"	movq	(%rcx), %rdx\n"
	"	incq	%rdx\n"
	"	movq	%rdx, (%rcx)\n"
	"	movl	%edx, %esi\n"
	"	andl	$511, %esi\n"
	"	movq	%rdx, (%rcx, %rsi, 8)\n"
	"	movq	%rdx, 4088(%rcx)\n"
	"	jmp	guest_code\n"
	"guest_code_end:\n"
	".popsection\n");

static void kicked(int signal)
{
	(void)signal;
}

void machine_need_kvm(void)
{
	if (access("/dev/kvm", R_OK | W_OK) != 0)
		cr_skip_test("no /dev/kvm here: dirty pages of a real guest are not tested");
}

static int must(int rc, const char *what)
{
	cr_assert(rc >= 0, "%s: %s", what, strerror(errno));
	return rc;
}

static void add_region(struct machine *m, unsigned int index, uint32_t slot, uint64_t address,
		       uint64_t size)
{
	void *base = mmap(NULL, size, PROT_READ | PROT_WRITE,
			  MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	struct kvm_userspace_memory_region region = {
		.slot = slot,
		.guest_phys_addr = address,
		.memory_size = size,
		.userspace_addr = (uintptr_t)base,
	};

	cr_assert(base != MAP_FAILED);
	must(ioctl(m->vm_fd, KVM_SET_USER_MEMORY_REGION, &region), "set memory slot");
	m->regions[index] = (struct vmferry_region){
		.address = address,
		.size = size,
		.base = base,
		.fd = -1,
		.slot = slot,
	};
}

static void fill_low_memory(struct machine *m)
{
	uint8_t *low = m->regions[0].base;
	uint64_t *pml4 = (uint64_t *)(low + TABLES_AT);
	uint64_t *pdpt = pml4 + 512, *pd = pml4 + 1024;

	pml4[0] = (TABLES_AT + VMFERRY_PAGE_SIZE) | PTE_PRESENT;
	pdpt[0] = (TABLES_AT + 2 * VMFERRY_PAGE_SIZE) | PTE_PRESENT;
	for (unsigned int i = 0; i < 512; i++)
		pd[i] = i * PTE_2M_SIZE | PTE_2M | PTE_PRESENT;
	memcpy(low + CODE_AT, guest_code, (size_t)(guest_code_end - guest_code));
}

static void set_cpuid(struct machine *m, int vcpu_fd)
{
	struct kvm_cpuid2 *cpuid = calloc(1, sizeof(*cpuid) + CPUIDS * sizeof(cpuid->entries[0]));

	cr_assert_not_null(cpuid);
	cpuid->nent = CPUIDS;
	must(ioctl(m->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid), "supported cpuid");
	must(ioctl(vcpu_fd, KVM_SET_CPUID2, cpuid), "set cpuid");
	free(cpuid);
}

static void set_registers(int vcpu_fd, unsigned int index)
{
	struct kvm_segment code = {.limit = 0xffffffff,
				   .selector = 0x33,
				   .type = 11,
				   .present = 1,
				   .dpl = 3,
				   .s = 1,
				   .l = 1,
				   .g = 1};
	struct kvm_segment data = {.limit = 0xffffffff,
				   .selector = 0x2b,
				   .type = 3,
				   .present = 1,
				   .dpl = 3,
				   .db = 1,
				   .s = 1,
				   .g = 1};
	struct kvm_regs regs = {
		.rip = CODE_AT,
		.rflags = 2,
		.rax = 0x9e3779b97f4a7c15ull * (index + 1),
		.r8 = DATA_AT,
		.r9 = DATA_PAGES,
		.r10 = 6364136223846793005ull,
		.r11 = 1442695040888963407ull,
	};
	struct kvm_sregs sregs;

	must(ioctl(vcpu_fd, KVM_GET_SREGS, &sregs), "get sregs");
	sregs.cs = code;
	sregs.ss = sregs.ds = sregs.es = sregs.fs = sregs.gs = data;
	sregs.cr3 = TABLES_AT;
	sregs.cr4 = 1u << 5;		      /* PAE */
	sregs.cr0 = 1u << 31 | 1u << 16 | 1u; /* PG, WP, PE */
	sregs.efer = 1u << 10 | 1u << 8;      /* LMA, LME */
	must(ioctl(vcpu_fd, KVM_SET_SREGS, &sregs), "set sregs");
	must(ioctl(vcpu_fd, KVM_SET_REGS, &regs), "set regs");
}

static void add_vcpu(struct machine *m, unsigned int index)
{
	struct machine_vcpu *v = &m->vcpu[index];

	v->machine = m;
	v->fd = must(ioctl(m->vm_fd, KVM_CREATE_VCPU, index), "create vcpu");
	v->run = mmap(NULL, m->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	cr_assert(v->run != MAP_FAILED);
	m->vcpu_fds[index] = v->fd;
	set_cpuid(m, v->fd);
	set_registers(v->fd, index);
}

void machine_make(struct machine *m, unsigned int vcpus, uint32_t ring_entries)
{
	struct sigaction action = {.sa_handler = kicked};

	sigaction(SIGUSR1, &action, NULL);
	*m = (struct machine){.vcpus = vcpus};
	m->kvm_fd = must(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
	m->vm_fd = must(ioctl(m->kvm_fd, KVM_CREATE_VM, 0), "create vm");
	m->run_bytes = (size_t)must(ioctl(m->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), "mmap size");
	if (ring_entries != 0)
		cr_assert_eq(vmferry_kvm_enable_ring(m->vm_fd, ring_entries, &m->ring_entries), 0);
	add_region(m, 0, 0, 0, 1ull << 20);
	add_region(m, 1, 3, DATA_AT, DATA_SIZE);
	add_region(m, 2, 9, DATA_AT + DATA_SIZE, ODD_SIZE);
	fill_low_memory(m);
	for (unsigned int i = 0; i < vcpus; i++)
		add_vcpu(m, i);
}

void machine_set_kernel(struct machine *m, const char *code, const char *end)
{
	struct kvm_regs regs = {
		.rip = CODE_AT,
		.rflags = 2,
		.rdi = DATA_AT,
		.r8 = DATA_AT,
		.r9 = DATA_AT + DATA_SIZE,
	};
	struct kvm_sregs sregs;

	cr_assert_leq(end - code, VMFERRY_PAGE_SIZE);
	memcpy((uint8_t *)m->regions[0].base + CODE_AT, code, (size_t)(end - code));
	for (unsigned int i = 0; i < m->vcpus; i++) {
		must(ioctl(m->vcpu[i].fd, KVM_GET_SREGS, &sregs), "get sregs");
		sregs.cs.dpl = sregs.ss.dpl = sregs.ds.dpl = sregs.es.dpl = 0;
		sregs.cs.selector = 0x10;
		sregs.ss.selector = sregs.ds.selector = sregs.es.selector = 0x18;
		must(ioctl(m->vcpu[i].fd, KVM_SET_SREGS, &sregs), "set sregs");
		must(ioctl(m->vcpu[i].fd, KVM_SET_REGS, &regs), "set regs");
	}
}

static void *run_vcpu(void *arg)
{
	struct machine_vcpu *v = arg;
	struct machine *m = v->machine;

	while (!atomic_load(&m->stop)) {
		int rc = ioctl(v->fd, KVM_RUN, 0);

		if (rc < 0 && errno == EINTR)
			continue;
		if (rc < 0 || v->run->exit_reason != KVM_EXIT_DIRTY_RING_FULL) {
			atomic_store(&m->failed, rc < 0 ? 1000u : v->run->exit_reason + 1);
			break;
		}
		atomic_fetch_add(&m->ring_full, 1);
		usleep(200);
	}
	return NULL;
}

void machine_run(struct machine *m)
{
	atomic_store(&m->stop, false);
	for (unsigned int i = 0; i < m->vcpus; i++) {
		m->vcpu[i].run->immediate_exit = 0;
		cr_assert_eq(pthread_create(&m->vcpu[i].thread, NULL, run_vcpu, &m->vcpu[i]), 0);
	}
	m->running = true;
}

void machine_stop(struct machine *m)
{
	if (!m->running)
		return;
	atomic_store(&m->stop, true);
	for (unsigned int i = 0; i < m->vcpus; i++) {
		m->vcpu[i].run->immediate_exit = 1;
		pthread_kill(m->vcpu[i].thread, SIGUSR1);
	}
	for (unsigned int i = 0; i < m->vcpus; i++)
		pthread_join(m->vcpu[i].thread, NULL);
	m->running = false;
	cr_assert_eq(atomic_load(&m->failed), 0, "a vcpu failed: %u", atomic_load(&m->failed));
}

void machine_free(struct machine *m)
{
	machine_stop(m);
	for (unsigned int i = 0; i < m->vcpus; i++) {
		munmap(m->vcpu[i].run, m->run_bytes);
		close(m->vcpu[i].fd);
	}
	close(m->vm_fd);
	close(m->kvm_fd);
	for (unsigned int i = 0; i < MACHINE_REGIONS; i++)
		munmap(m->regions[i].base, m->regions[i].size);
}

struct vmferry_vm machine_vm(const struct machine *m)
{
	return (struct vmferry_vm){
		.size = sizeof(struct vmferry_vm),
		.regions = m->regions,
		.region_count = MACHINE_REGIONS,
		.vm_fd = m->vm_fd,
		.vcpu_fds = m->vcpu_fds,
		.vcpu_count = m->vcpus,
		.ring_entries = m->ring_entries,
	};
}

uint64_t machine_writes(const struct machine *m)
{
	uint64_t writes = 0;

	for (unsigned int i = 1; i < MACHINE_REGIONS; i++)
		for (uint64_t at = 0; at < m->regions[i].size; at += VMFERRY_PAGE_SIZE)
			writes += *(const uint64_t *)((const char *)m->regions[i].base + at);
	return writes;
}
