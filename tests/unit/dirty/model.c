/* SPDX-License-Identifier: MIT */
/* KVM's dirty rings without KVM, see model.h. */
#include "model.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <linux/kvm.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define VM_FD	     1000000 /* nobody's */
#define BATCH	     64	     /* entries that KVM protects at once */
#define PAGE	     4096u
#define RING_AT	     ((size_t)KVM_DIRTY_LOG_PAGE_OFFSET * PAGE)
#define STEPS_INSIDE 40 /* at most, where the reader is in a system call */

static struct model *current;

uint32_t model_random(struct model *m, uint32_t below)
{
	m->random ^= m->random << 13;
	m->random ^= m->random >> 17;
	m->random ^= m->random << 5;
	return m->random % below;
}

static uint32_t used(const struct model_vcpu *v)
{
	return v->dirty_index - v->reset_index;
}

static struct kvm_dirty_gfn *entry(const struct model *m, struct model_vcpu *v, uint32_t index)
{
	return &v->gfns[index & (m->entries - 1)];
}

static void push(struct model *m, struct model_vcpu *v, uint32_t page)
{
	struct kvm_dirty_gfn *gfn = entry(m, v, v->dirty_index);

	m->overflows += used(v) >= m->entries;
	gfn->slot = m->region.slot;
	gfn->offset = page;
	gfn->flags = KVM_DIRTY_GFN_F_DIRTY;
	v->dirty_index++;
	v->asked |= used(v) >= m->soft_limit;
}

static void write_page(struct model *m, struct model_vcpu *v)
{
	uint32_t page = model_random(m, MODEL_PAGES);

	m->content[page]++;
	v->writes++;
	if (m->logs && (m->emulates || !m->writable[page]))
		push(m, v, page);
	m->writable[page] = true;
}

static void leave(struct model_vcpu *v, uint32_t reason)
{
	v->run->exit_reason = reason;
	v->state = VCPU_LEAVING;
}

/* Where KVM looks at its requests. */
static void look(struct model *m, struct model_vcpu *v)
{
	v->asked &= used(v) >= m->soft_limit;
	if (v->asked) {
		leave(v, KVM_EXIT_DIRTY_RING_FULL);
	} else if (m->paused || model_random(m, 32) == 0) {
		leave(v, KVM_EXIT_INTR);
	} else {
		v->state = VCPU_WRITING;
		v->burst = model_random(m, m->burst_max) + 1;
	}
}

static void step(struct model *m, struct model_vcpu *v)
{
	switch (v->state) {
	case VCPU_OUT:
		if (m->paused)
			break;
		v->run->flags = 0;
		v->run->exit_reason = KVM_EXIT_UNKNOWN;
		v->state = VCPU_ENTERED;
		break;
	case VCPU_ENTERED:
		look(m, v);
		break;
	case VCPU_WRITING:
		write_page(m, v);
		if (--v->burst == 0)
			look(m, v);
		break;
	case VCPU_LEAVING:
		v->run->flags = 0;
		v->state = VCPU_OUT;
		break;
	}
}

void model_sweep(struct model *m)
{
	for (uint64_t w = 0; w < MODEL_PAGES / MAP_WORD_PAGES; w++) {
		uint64_t bits = dirty_map_take(&m->map->regions[0], w, ~0ull);

		for (; bits != 0; bits &= bits - 1) {
			uint64_t page = w * MAP_WORD_PAGES + (uint64_t)__builtin_ctzll(bits);

			m->copy[page] = m->content[page];
		}
	}
}

void model_run(struct model *m, uint32_t most)
{
	uint32_t steps = model_random(m, most + 1);

	for (uint32_t i = 0; i < steps; i++) {
		step(m, &m->vcpu[model_random(m, m->vcpus)]);
		if (model_random(m, 256) == 0)
			model_sweep(m);
	}
}

void model_pause(struct model *m)
{
	m->paused = true;
	for (unsigned int i = 0; i < m->vcpus; i++)
		while (m->vcpu[i].state != VCPU_OUT)
			step(m, &m->vcpu[i]);
}

/* Mostly nothing happens, sometimes much does. */
static void go_on(struct model *m)
{
	if (model_random(m, 16) == 0)
		model_run(m, model_random(m, 16) == 0 ? 4 * m->entries : STEPS_INSIDE);
}

/* An entry is free again before its page is protected. */
static int reset_ring(struct model *m, struct model_vcpu *v)
{
	uint64_t batch[BATCH];
	unsigned int count = 0;
	bool more = true;
	int done = 0;

	while (more) {
		struct kvm_dirty_gfn *gfn = entry(m, v, v->reset_index);

		more = (gfn->flags & KVM_DIRTY_GFN_F_RESET) != 0;
		if (more) {
			/* Between the two may lie a push of the next round into this very entry. */
			if (model_random(m, 256) == 0)
				go_on(m);
			batch[count++] = gfn->offset;
			gfn->flags = 0;
			v->reset_index++;
			done++;
			m->overran |= (int32_t)used(v) < 0;
		}
		if (model_random(m, 64) == 0)
			go_on(m);
		if (more && count < BATCH)
			continue;
		for (unsigned int i = 0; i < count; i++)
			m->writable[batch[i]] = false;
		count = 0;
	}
	return done;
}

static int reset_rings(struct model *m)
{
	int done = 0;

	for (unsigned int i = 0; i < m->vcpus; i++)
		done += reset_ring(m, &m->vcpu[i]);
	return done;
}

/* When it returns, no vCPU is inside KVM with the slot as it was. */
static int set_slot(struct model *m, const struct kvm_userspace_memory_region *slot)
{
	m->logs = (slot->flags & KVM_MEM_LOG_DIRTY_PAGES) != 0;
	memset(m->writable, !m->logs, sizeof(m->writable));
	for (unsigned int i = 0; i < m->vcpus; i++)
		while (m->vcpu[i].state == VCPU_WRITING && m->vcpu[i].burst > 1)
			step(m, &m->vcpu[i]);
	return 0;
}

static int vm_ioctl(struct model *m, unsigned long request, void *argument)
{
	int rc = -1;

	go_on(m);
	errno = ENXIO;
	if (request == KVM_RESET_DIRTY_RINGS)
		rc = reset_rings(m);
	else if (request == KVM_SET_USER_MEMORY_REGION)
		rc = set_slot(m, argument);
	go_on(m);
	return rc;
}

int ioctl(int fd, unsigned long request, ...)
{
	void *argument;
	va_list list;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	if (fd == VM_FD && current != NULL)
		return vm_ioctl(current, request, argument);
	return (int)syscall(SYS_ioctl, fd, request, argument);
}

int usleep(useconds_t time)
{
	if (current != NULL)
		model_run(current, time);
	return 0;
}

/* Nobody waits: the model is never stopped. */
int getrusage(__rusage_who_t who, struct rusage *usage)
{
	(void)who;
	*usage = (struct rusage){0};
	if (current != NULL)
		go_on(current);
	return 0;
}

static void make_vcpu(struct model *m, unsigned int index)
{
	struct model_vcpu *v = &m->vcpu[index];
	size_t bytes = m->entries * sizeof(struct kvm_dirty_gfn);

	v->fd = memfd_create("vcpu", MFD_CLOEXEC);
	cr_assert_eq(ftruncate(v->fd, (off_t)(RING_AT + bytes)), 0);
	v->run = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
	v->gfns = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, (off_t)RING_AT);
	cr_assert(v->run != MAP_FAILED && v->gfns != MAP_FAILED);
	v->dirty_index = v->reset_index = model_random(m, m->entries) - m->entries / 2;
	m->vcpu_fds[index] = v->fd;
}

void model_make(struct model *m, uint32_t seed)
{
	struct vmferry_vm vm;

	*m = (struct model){.random = seed * 2654435761u + 1};
	m->random += m->random == 0;
	m->entries = 1024u << model_random(m, 2);
	m->soft_limit = m->entries - (model_random(m, 2) == 0 ? 64 : 576);
	m->emulates = model_random(m, 4) != 0;
	m->burst_max = m->emulates ? 1u << model_random(m, 14) : 32;
	m->vcpus = model_random(m, MODEL_VCPUS) + 1;
	m->region = (struct vmferry_region){.size = MODEL_PAGES * PAGE, .fd = -1, .slot = 7};
	for (unsigned int i = 0; i < m->vcpus; i++)
		make_vcpu(m, i);
	vm = model_vm(m);
	cr_assert_eq(dirty_map_new(&vm, &m->map), 0);
	memset(m->writable, true, sizeof(m->writable));
	current = m;
}

void model_free(struct model *m)
{
	current = NULL;
	for (unsigned int i = 0; i < m->vcpus; i++) {
		munmap(m->vcpu[i].run, PAGE);
		munmap(m->vcpu[i].gfns, m->entries * sizeof(struct kvm_dirty_gfn));
		close(m->vcpu[i].fd);
	}
	dirty_map_free(&m->map);
}

struct vmferry_vm model_vm(const struct model *m)
{
	return (struct vmferry_vm){
		.size = sizeof(struct vmferry_vm),
		.regions = &m->region,
		.region_count = 1,
		.vm_fd = VM_FD,
		.vcpu_fds = m->vcpu_fds,
		.vcpu_count = m->vcpus,
		.ring_entries = m->entries,
	};
}
