/* SPDX-License-Identifier: MIT */
#include "guest.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "migrator/qemu/process.h"
#include "migrator/qemu/qmp.h"

#define WORDS (GUEST_PAGE / sizeof(uint64_t))

int __wrap_placement_find(const struct qemu_process *process, struct qmp *qmp,
			  enum placement_wish wish, const struct placement_block *blocks,
			  unsigned int count, struct placement *out);
int __wrap_qemu_process_of_socket(int fd, struct qemu_process *process);

static struct guest *_Atomic current_guest;

void guest_set_current(struct guest *guest)
{
	current_guest = guest;
}

uint64_t guest_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

uint32_t guest_draw(uint64_t *state, uint32_t below)
{
	return (uint32_t)((guest_random(state) >> 16) % below);
}

void guest_fill_page(void *page, uint64_t word)
{
	uint64_t *at = page;

	for (unsigned int i = 0; i < WORDS; i++)
		at[i] = word;
}

/* Each third page, so that most of it reads as zeroes without being there. */
static void make_dirty(struct guest *guest, struct guest_block *b)
{
	uint64_t first = guest_draw(&guest->random, (uint32_t)b->pages);

	for (uint64_t i = first; i < b->pages && i < first + b->pages / 4; i += 3) {
		b->model[i] = 0xdead;
		guest_fill_page(b->memory + i * GUEST_PAGE, 0xdead);
	}
}

void guest_open(struct guest *guest, uint64_t seed, const enum placement_kind *kinds,
		unsigned int count, uint64_t pages)
{
	static const char *const names[GUEST_BLOCKS] = {"pc.ram", "node1", "node2", "rom"};

	*guest = (struct guest){.count = count, .random = seed * 2 + 1};
	pthread_mutex_init(&guest->lock, NULL);
	for (unsigned int i = 0; i < 8; i++)
		guest_random(&guest->random);
	for (unsigned int i = 0; i < count; i++) {
		struct guest_block *b = &guest->blocks[i];
		bool file = kinds[i] == PLACEMENT_MAPPED;

		*b = (struct guest_block){names[i], pages >> i, kinds[i], -1, NULL, NULL};
		if (file) {
			b->file = memfd_create(names[i], MFD_CLOEXEC);
			cr_assert_eq(ftruncate(b->file, (off_t)(b->pages * GUEST_PAGE)), 0);
		}
		b->memory = mmap(NULL, b->pages * GUEST_PAGE, PROT_READ | PROT_WRITE,
				 file ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, b->file, 0);
		cr_assert_neq(b->memory, MAP_FAILED);
		b->model = calloc(b->pages, sizeof(*b->model));
		cr_assert_not_null(b->model);
		make_dirty(guest, b);
	}
}

void guest_close(struct guest *guest)
{
	for (unsigned int i = 0; i < guest->count; i++) {
		struct guest_block *b = &guest->blocks[i];

		munmap(b->memory, b->pages * GUEST_PAGE);
		if (b->file >= 0)
			close(b->file);
		free(b->model);
	}
	pthread_mutex_destroy(&guest->lock);
}

static bool is_full_of(const uint8_t *page, uint64_t word)
{
	uint64_t words[WORDS];

	guest_fill_page(words, word);
	return memcmp(page, words, sizeof(words)) == 0;
}

unsigned int guest_wrong_pages(struct guest *guest)
{
	unsigned int wrong = 0;

	pthread_mutex_lock(&guest->lock);
	for (unsigned int i = 0; i < guest->count; i++)
		for (uint64_t p = 0; p < guest->blocks[i].pages; p++)
			wrong += !is_full_of(guest->blocks[i].memory + p * GUEST_PAGE,
					     guest->blocks[i].model[p]);
	pthread_mutex_unlock(&guest->lock);
	return wrong;
}

/* ---- what the adaptor finds ---- */

static void find(const struct guest_block *b, struct placement *p)
{
	p->kind = b->kind;
	if (b->kind == PLACEMENT_FORWARD)
		snprintf(p->reason, sizeof(p->reason), "for a test");
	p->host_address = (uint64_t)(uintptr_t)b->memory;
	p->page_bytes = GUEST_PAGE;
	p->shared = b->file >= 0;
	p->anonymous = b->file < 0;
	if (b->kind != PLACEMENT_MAPPED)
		return;
	p->file = dup(b->file);
	p->mapped_bytes = p->bytes;
	p->base = mmap(NULL, p->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, b->file, 0);
	cr_assert_neq(p->base, MAP_FAILED);
}

int __wrap_placement_find(const struct qemu_process *process, struct qmp *qmp,
			  enum placement_wish wish, const struct placement_block *blocks,
			  unsigned int count, struct placement *out)
{
	const struct guest *current = current_guest;

	(void)qmp;
	(void)wish;
	for (unsigned int i = 0; i < count; i++) {
		out[i] = (struct placement){.bytes = blocks[i].bytes,
					    .pid = process->pid,
					    .file = -1,
					    .kind = PLACEMENT_FORWARD};
		snprintf(out[i].name, sizeof(out[i].name), "%s", blocks[i].name);
		for (unsigned int k = 0; k < current->count; k++)
			if (strcmp(current->blocks[k].name, blocks[i].name) == 0)
				find(&current->blocks[k], &out[i]);
	}
	return 0;
}

int __wrap_qemu_process_of_socket(int fd, struct qemu_process *process)
{
	(void)fd;
	*process = (struct qemu_process){.pid = getpid(),
					 .pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0),
					 .incoming = true,
					 .autostart = current_guest->autostart,
					 .accessible = true,
					 .name = "test"};
	return 0;
}
