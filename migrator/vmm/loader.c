/* SPDX-License-Identifier: MIT */
/*
 * The Multiboot loader: finds the header, places ELF32 segments or the one range of an image with
 * address fields, then modules, then the boot information (bootinfo.c).
 */
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "bootinfo.h"
#include "loader.h"
#include "log.h"

#define HEADER_MAGIC  0x1badb002u
#define HEADER_SEARCH 8192u
#define HEADER_ALIGN  4u

#define FLAG_PAGE_ALIGN 0x1u
#define FLAG_MEMORY	0x2u
#define FLAG_VIDEO	0x4u
#define FLAGS_MANDATORY 0xffffu
#define FLAGS_KNOWN	(FLAG_PAGE_ALIGN | FLAG_MEMORY | FLAG_VIDEO)
#define FLAG_ADDRESSES	0x10000u

#define SEGMENTS_MAX 64u

struct header {
	uint32_t magic;
	uint32_t flags;
	uint32_t checksum;
	/* Only with FLAG_ADDRESSES. */
	uint32_t header_addr;
	uint32_t load_addr;
	uint32_t load_end_addr;
	uint32_t bss_end_addr;
	uint32_t entry_addr;
};

#define HEADER_SHORT 12u

/* A piece of the image: file bytes, then zeroes up to @memory_size. */
struct segment {
	uint64_t address;
	uint64_t memory_size;
	uint64_t offset;
	uint64_t file_size;
	uint64_t virtual;
};

struct plan {
	struct segment segments[SEGMENTS_MAX];
	unsigned int count;
	uint64_t entry;
};

__attribute__((format(printf, 2, 3))) static int refuse(const struct loader_image *image,
							const char *fmt, ...)
{
	char why[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(why, sizeof(why), fmt, ap);
	va_end(ap);
	vmm_error("guest %s: cannot be booted: %s", image->name, why);
	return -ENOEXEC;
}

/* ---- the header ------------------------------------------------------------------------------ */

static bool header_at(const struct loader_image *image, size_t offset, struct header *h)
{
	size_t left = image->size - offset;

	memset(h, 0, sizeof(*h));
	if (left < HEADER_SHORT)
		return false;
	memcpy(h, (const uint8_t *)image->data + offset, HEADER_SHORT);
	return h->magic == HEADER_MAGIC && h->magic + h->flags + h->checksum == 0;
}

static int check_flags(const struct loader_image *image, const struct header *h)
{
	uint32_t unknown = h->flags & FLAGS_MANDATORY & ~FLAGS_KNOWN;

	if (unknown)
		return refuse(image, "its header demands what this loader has not: flags 0x%x",
			      unknown);
	if (h->flags & FLAG_VIDEO)
		vmm_warn("guest %s: it wishes a video mode: there is no display", image->name);
	return 0;
}

static int find_header(const struct loader_image *image, size_t *offset, struct header *h)
{
	size_t end = image->size < HEADER_SEARCH ? image->size : HEADER_SEARCH;
	size_t at = 0;
	int err;

	while (at + HEADER_SHORT <= end && !header_at(image, at, h))
		at += HEADER_ALIGN;
	if (at + HEADER_SHORT > end)
		return refuse(image, "no multiboot header in its first %u bytes: build it with one",
			      HEADER_SEARCH);
	err = check_flags(image, h);
	if (err || !(h->flags & FLAG_ADDRESSES)) {
		*offset = at;
		return err;
	}
	if (at + sizeof(*h) > end)
		return refuse(image, "its multiboot header is cut off");
	memcpy(h, (const uint8_t *)image->data + at, sizeof(*h));
	*offset = at;
	return 0;
}

/* ---- what goes where ------------------------------------------------------------------------- */

static int plan_addresses(const struct loader_image *image, size_t header_offset,
			  const struct header *h, struct plan *plan)
{
	struct segment *s = &plan->segments[0];
	uint64_t before = (uint64_t)h->header_addr - h->load_addr;

	if (h->load_addr > h->header_addr || before > header_offset)
		return refuse(image, "its load address 0x%x does not fit its header's 0x%x",
			      h->load_addr, h->header_addr);
	s->address = h->load_addr;
	s->offset = header_offset - before;
	s->file_size = image->size - s->offset;
	if (h->load_end_addr) {
		if (h->load_end_addr < h->load_addr ||
		    h->load_end_addr - h->load_addr > s->file_size)
			return refuse(image, "its data ends at 0x%x, past the end of the file",
				      h->load_end_addr);
		s->file_size = h->load_end_addr - h->load_addr;
	}
	s->memory_size = s->file_size;
	if (h->bss_end_addr) {
		if (h->bss_end_addr < h->load_addr || h->bss_end_addr - h->load_addr < s->file_size)
			return refuse(image, "its bss ends at 0x%x, before its data",
				      h->bss_end_addr);
		s->memory_size = h->bss_end_addr - h->load_addr;
	}
	s->virtual = s->address;
	plan->count = 1;
	plan->entry = h->entry_addr;
	return 0;
}

static int check_elf(const struct loader_image *image, const Elf32_Ehdr *e)
{
	if (image->size < sizeof(*e) || memcmp(e->e_ident, ELFMAG, SELFMAG) != 0)
		return refuse(image, "it is neither ELF nor has its header the address fields");
	if (e->e_ident[EI_CLASS] == ELFCLASS64)
		return refuse(image, "it is ELF64: multiboot needs ELF32 or the address fields "
				     "(objcopy -O elf32-i386)");
	if (e->e_ident[EI_CLASS] != ELFCLASS32 || e->e_ident[EI_DATA] != ELFDATA2LSB ||
	    e->e_machine != EM_386)
		return refuse(image, "it is ELF, but not for the i386");
	if (e->e_type != ET_EXEC)
		return refuse(image, "it is ELF, but not an executable: link it as one");
	if (e->e_phentsize != sizeof(Elf32_Phdr) || e->e_phoff > image->size ||
	    (uint64_t)e->e_phnum * sizeof(Elf32_Phdr) > image->size - e->e_phoff)
		return refuse(image, "its program headers lie outside the file");
	return 0;
}

static int plan_segment(const struct loader_image *image, const Elf32_Phdr *p, struct plan *plan)
{
	if (p->p_type != PT_LOAD || p->p_memsz == 0)
		return 0;
	if (p->p_filesz > p->p_memsz)
		return refuse(image, "a segment at 0x%x has more bytes in the file than in memory",
			      p->p_paddr);
	if (p->p_offset > image->size || p->p_filesz > image->size - p->p_offset)
		return refuse(image, "a segment at 0x%x lies outside the file: it is cut off",
			      p->p_paddr);
	if (plan->count == SEGMENTS_MAX)
		return refuse(image, "it has more than %u segments", SEGMENTS_MAX);
	plan->segments[plan->count++] = (struct segment){
		.address = p->p_paddr,
		.memory_size = p->p_memsz,
		.offset = p->p_offset,
		.file_size = p->p_filesz,
		.virtual = p->p_vaddr,
	};
	return 0;
}

/* The entry point is a virtual address; the guest starts without paging. */
static uint64_t physical_entry(const struct plan *plan, uint64_t entry)
{
	for (unsigned int i = 0; i < plan->count; i++) {
		const struct segment *s = &plan->segments[i];

		if (entry >= s->virtual && entry - s->virtual < s->memory_size)
			return s->address + (entry - s->virtual);
	}
	return entry;
}

static int plan_elf(const struct loader_image *image, struct plan *plan)
{
	Elf32_Ehdr e = {0};
	int err;

	memcpy(&e, image->data, image->size < sizeof(e) ? image->size : sizeof(e));
	err = check_elf(image, &e);
	for (unsigned int i = 0; !err && i < e.e_phnum; i++) {
		Elf32_Phdr p;

		memcpy(&p, (const uint8_t *)image->data + e.e_phoff + i * sizeof(p), sizeof(p));
		err = plan_segment(image, &p, plan);
	}
	if (err)
		return err;
	plan->entry = physical_entry(plan, e.e_entry);
	return 0;
}

static int check_segment(const struct loader_memory *memory, const struct loader_image *image,
			 const struct plan *plan, unsigned int index)
{
	const struct segment *s = &plan->segments[index];
	uint64_t end = s->address + s->memory_size; /* both below 2^32 */

	if (end > memory->low_size)
		return refuse(image, "it needs memory at 0x%llx to 0x%llx, the guest has 0x%llx",
			      (unsigned long long)s->address, (unsigned long long)end - 1,
			      (unsigned long long)memory->low_size);
	if (end > LOADER_BASE_END && s->address < LOADER_EXTENDED)
		return refuse(image, "it loads to 0x%llx to 0x%llx, where no memory is promised",
			      (unsigned long long)s->address, (unsigned long long)end - 1);
	for (unsigned int i = 0; i < index; i++) {
		const struct segment *o = &plan->segments[i];

		if (s->address < o->address + o->memory_size && o->address < end)
			return refuse(image, "segments %u and %u overlap at 0x%llx", i, index,
				      (unsigned long long)s->address);
	}
	return 0;
}

static int check_plan(const struct loader_memory *memory, const struct loader_image *image,
		      const struct plan *plan)
{
	bool entry = false;

	for (unsigned int i = 0; i < plan->count; i++) {
		const struct segment *s = &plan->segments[i];
		int err = check_segment(memory, image, plan, i);

		if (err)
			return err;
		entry |= plan->entry >= s->address && plan->entry - s->address < s->memory_size;
	}
	if (!entry)
		return refuse(image, "its entry point 0x%llx is in none of its segments",
			      (unsigned long long)plan->entry);
	return 0;
}

/* ---- loading --------------------------------------------------------------------------------- */

static uint64_t place_segments(const struct loader_memory *memory, const struct loader_image *image,
			       const struct plan *plan)
{
	uint64_t end = LOADER_EXTENDED;

	for (unsigned int i = 0; i < plan->count; i++) {
		const struct segment *s = &plan->segments[i];
		uint8_t *to = memory->low + s->address;

		memcpy(to, (const uint8_t *)image->data + s->offset, s->file_size);
		memset(to + s->file_size, 0, s->memory_size - s->file_size);
		if (s->address + s->memory_size > end)
			end = s->address + s->memory_size;
	}
	return end;
}

/*
 * Low memory is left alone by most guests until they have read what is there, so that is the first
 * choice.
 */
static uint64_t info_address(const struct plan *plan, uint64_t size, uint64_t end)
{
	if (size > LOADER_BASE_END - LOADER_INFO)
		return end;
	for (unsigned int i = 0; i < plan->count; i++) {
		const struct segment *s = &plan->segments[i];

		if (s->address < LOADER_BASE_END && s->address + s->memory_size > LOADER_INFO)
			return end;
	}
	return LOADER_INFO;
}

static int place_modules(const struct loader_memory *memory, const struct loader_image *image,
			 uint64_t *end, uint32_t *addresses)
{
	for (unsigned int i = 0; i < image->module_count; i++) {
		const struct loader_module *m = &image->modules[i];
		uint64_t at = loader_page_up(*end);

		if (at > memory->low_size || m->size > memory->low_size - at)
			return refuse(image, "module %s of %zu bytes does not fit in its memory",
				      m->string, m->size);
		memcpy(memory->low + at, m->data, m->size);
		addresses[i] = (uint32_t)at;
		*end = at + m->size;
	}
	return 0;
}

static int make_plan(const struct loader_memory *memory, const struct loader_image *image,
		     struct plan *plan)
{
	struct header h = {0};
	size_t offset = 0;
	int err = find_header(image, &offset, &h);

	if (err)
		return err;
	err = h.flags & FLAG_ADDRESSES ? plan_addresses(image, offset, &h, plan)
				       : plan_elf(image, plan);
	return err ? err : check_plan(memory, image, plan);
}

int loader_load(const struct loader_memory *memory, const struct loader_image *image,
		struct loader_entry *entry)
{
	uint32_t modules[LOADER_MODULES_MAX];
	struct plan plan = {0};
	uint64_t end, info, size;
	int err;

	if (image->module_count > LOADER_MODULES_MAX)
		return refuse(image, "more than %u modules", LOADER_MODULES_MAX);
	err = make_plan(memory, image, &plan);
	if (err)
		return err;
	end = place_segments(memory, image, &plan);
	err = place_modules(memory, image, &end, modules);
	if (err)
		return err;
	size = bootinfo_size(image);
	info = info_address(&plan, size, loader_page_up(end));
	if (info > memory->low_size || size > memory->low_size - info)
		return refuse(image, "no room for the boot information");
	bootinfo_write(memory, image, modules, (uint32_t)info);
	entry->eip = (uint32_t)plan.entry;
	entry->ebx = (uint32_t)info;
	return 0;
}
