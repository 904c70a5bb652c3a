/* SPDX-License-Identifier: MIT */
/* Saves and loads the parts of a vCPU or VM, table by table. */
#include "parts.h"

#include <assert.h>
#include <errno.h>
#include <linux/kvm.h>
#include <string.h>
#include <sys/ioctl.h>

#include <common/log.h>

/* The largest structure that is saved whole is the LAPIC's page of registers. */
#define PART_SIZE_MAX 1024

int kvm_ioctl(int fd, unsigned long request, void *argument)
{
	int r = ioctl(fd, request, argument);

	return r < 0 ? -errno : r;
}

int kvm_capability(int fd, int cap)
{
	int r = ioctl(fd, KVM_CHECK_EXTENSION, (unsigned long)cap);

	return r < 0 ? 0 : r;
}

int part_failed(const struct part *part, const struct machine *m, const char *what, int error)
{
	log_error("%s fd %d: %s %s: %s: see kvm's messages in the kernel log", m->object, m->fd,
		  what, section_name(part->id), strerror(-error));
	return error;
}

static bool part_supported(const struct part *part, const struct machine *m)
{
	return part->cap == 0 || kvm_capability(m->vm_fd, part->cap) > 0;
}

int part_check_cap(const struct part *part, const struct machine *m)
{
	if (part_supported(part, m))
		return 0;
	log_error("%s fd %d: load %s: this kernel lacks kvm capability %d: use a newer kernel",
		  m->object, m->fd, section_name(part->id), part->cap);
	return -ENOTSUP;
}

int part_set(const struct part *part, const struct machine *m, void *argument)
{
	int e = kvm_ioctl(m->fd, part->set, argument);

	if (e >= 0)
		return 0;
	if (-e == part->absent) {
		log_error("%s fd %d: load %s: this machine has none: give it the same in-kernel "
			  "devices as at the source",
			  m->object, m->fd, section_name(part->id));
		return e;
	}
	return part_failed(part, m, "load", e);
}

static int save_structure(const struct part *part, const struct machine *m)
{
	_Alignas(8) uint8_t bytes[PART_SIZE_MAX] = {0};
	uint32_t size = section_size(part->id);
	int e;

	assert(size <= sizeof(bytes));
	if (!part_supported(part, m))
		return 0;
	e = kvm_ioctl(m->fd, part->get, bytes);
	if (e < 0)
		return -e == part->absent ? 0 : part_failed(part, m, "save", e);
	return section_append(m->blob, part->id, bytes, size);
}

static int load_structure(const struct part *part, const struct machine *m, const struct section *s)
{
	_Alignas(8) uint8_t bytes[PART_SIZE_MAX];
	int e = part_check_cap(part, m);

	if (e < 0)
		return e;
	assert(s->length <= sizeof(bytes));
	memcpy(bytes, s->data, s->length);
	return part_set(part, m, bytes);
}

int parts_save(const struct part *parts, size_t count, const struct machine *m)
{
	for (size_t i = 0; i < count; i++) {
		const struct part *p = &parts[i];
		int e = p->save != NULL ? p->save(p, m) : save_structure(p, m);

		if (e < 0)
			return e;
	}
	return sections_finish(m->blob);
}

static const struct part *find_part(const struct part *parts, size_t count, enum section_id id)
{
	for (size_t i = 0; i < count; i++)
		if (parts[i].id == id)
			return &parts[i];
	return NULL;
}

int parts_load(const struct part *parts, size_t count, const enum section_id *order,
	       const struct machine *m, const struct sections *found)
{
	for (size_t i = 0; i < count; i++) {
		const struct part *p = find_part(parts, count, order[i]);
		const struct section *s = sections_at(found, order[i]);
		int e;

		assert(p != NULL);
		if (s->data == NULL)
			continue;
		e = p->load != NULL ? p->load(p, m, s) : load_structure(p, m, s);
		if (e < 0)
			return e;
	}
	return 0;
}
