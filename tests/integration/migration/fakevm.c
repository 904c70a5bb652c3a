/* SPDX-License-Identifier: MIT */
#include "fakevm.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static void make_region(struct vmferry_region *r, uint64_t address, uint64_t size, uint32_t slot)
{
	r->fd = memfd_create("fakevm", MFD_CLOEXEC);
	if (r->fd < 0 || ftruncate(r->fd, (off_t)size) < 0)
		abort();
	r->base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	if (r->base == MAP_FAILED)
		abort();
	r->address = address;
	r->size = size;
	r->slot = slot;
}

void fakevm_init(struct fakevm *vm)
{
	memset(vm, 0, sizeof(*vm));
	make_region(&vm->regions[0], 0, FAKEVM_LOW, 0);
	make_region(&vm->regions[1], FAKEVM_HIGH_AT, FAKEVM_HIGH, 1);
	vm->pulse = &vm->own_pulse;
	vm->pace_ns = 20000;
	vm->working_set = 512;
	pthread_mutex_init(&vm->lock, NULL);
	pthread_cond_init(&vm->changed, NULL);
}

void fakevm_destroy(struct fakevm *vm)
{
	if (vm->started) {
		pthread_mutex_lock(&vm->lock);
		vm->quit = true;
		pthread_cond_broadcast(&vm->changed);
		pthread_mutex_unlock(&vm->lock);
		pthread_join(vm->thread, NULL);
	}
	for (unsigned int i = 0; i < FAKEVM_REGIONS; i++) {
		munmap(vm->regions[i].base, vm->regions[i].size);
		close(vm->regions[i].fd);
	}
	pthread_cond_destroy(&vm->changed);
	pthread_mutex_destroy(&vm->lock);
}

/*
 * The guest's stores race with the library's reads, as a real guest's do; that is what dirty
 * tracking is for.
 */
__attribute__((no_sanitize("thread"), noinline)) static void write_page(uint64_t *page,
									uint64_t seed)
{
	for (unsigned int i = 0; i < VMFERRY_PAGE_SIZE / sizeof(*page); i++)
		((volatile uint64_t *)page)[i] = (seed + i) * 0x9e3779b97f4a7c15ull | 1;
}

void fakevm_fill(struct fakevm *vm, unsigned int share)
{
	for (unsigned int i = 0; i < FAKEVM_REGIONS; i++) {
		uint64_t pages = vm->regions[i].size / VMFERRY_PAGE_SIZE * share / 100;

		for (uint64_t p = 0; p < pages; p++)
			write_page(
				(uint64_t *)((char *)vm->regions[i].base + p * VMFERRY_PAGE_SIZE),
				(uint64_t)i << 40 | p);
	}
}

static void guest_write(struct fakevm *vm)
{
	uint64_t n = atomic_fetch_add(&vm->pulse->writes, 1);
	uint64_t page = (n * 7919) % vm->working_set;
	struct vmferry_source *source;

	write_page((uint64_t *)((char *)vm->regions[0].base + page * VMFERRY_PAGE_SIZE),
		   n << 20 | page);
	vm->state = n;
	source = atomic_load(&vm->source);
	if (source != NULL)
		vmferry_source_mark_dirty(source, page * VMFERRY_PAGE_SIZE, VMFERRY_PAGE_SIZE);
}

static void *guest_main(void *arg)
{
	struct fakevm *vm = arg;

	pthread_mutex_lock(&vm->lock);
	while (!vm->quit) {
		struct timespec ts = {0, (long)vm->pace_ns};

		vm->is_running = vm->want_run;
		atomic_store(&vm->pulse->running, vm->is_running);
		pthread_cond_broadcast(&vm->changed);
		if (!vm->want_run) {
			pthread_cond_wait(&vm->changed, &vm->lock);
			continue;
		}
		pthread_mutex_unlock(&vm->lock);
		guest_write(vm);
		nanosleep(&ts, NULL);
		pthread_mutex_lock(&vm->lock);
	}
	pthread_mutex_unlock(&vm->lock);
	return NULL;
}

void fakevm_run(struct fakevm *vm)
{
	pthread_mutex_lock(&vm->lock);
	vm->want_run = true;
	pthread_cond_broadcast(&vm->changed);
	if (!vm->started) {
		vm->started = true;
		if (pthread_create(&vm->thread, NULL, guest_main, vm) != 0)
			abort();
	}
	pthread_mutex_unlock(&vm->lock);
}

void fakevm_describe(struct fakevm *vm, struct vmferry_vm *out)
{
	*out = (struct vmferry_vm){
		.size = sizeof(*out),
		.regions = vm->regions,
		.region_count = FAKEVM_REGIONS,
		.vm_fd = -1,
	};
}

uint64_t fakevm_differing(const struct fakevm *a, const struct fakevm *b)
{
	uint64_t different = 0;

	for (unsigned int i = 0; i < FAKEVM_REGIONS; i++) {
		for (uint64_t o = 0; o < a->regions[i].size; o += VMFERRY_PAGE_SIZE)
			different += memcmp((char *)a->regions[i].base + o,
					    (char *)b->regions[i].base + o, VMFERRY_PAGE_SIZE) != 0;
	}
	return different;
}

/* ---- source ---------------------------------------------------------------------------------- */

static int describe(void *ctx, struct vmferry_blob *spec)
{
	(void)ctx;
	return vmferry_blob_append(spec, "fakevm", 6);
}

static int pause_vm(void *ctx)
{
	struct fakevm *vm = ctx;

	if (vm->fail_pause < 0)
		return vm->fail_pause;
	pthread_mutex_lock(&vm->lock);
	vm->want_run = false;
	while (vm->is_running)
		pthread_cond_wait(&vm->changed, &vm->lock);
	pthread_mutex_unlock(&vm->lock);
	return 0;
}

static int resume_vm(void *ctx)
{
	struct fakevm *vm = ctx;

	fakevm_run(vm);
	atomic_fetch_add(&vm->pulse->resumes, 1);
	atomic_store(&vm->pulse->resumed_ns, (int64_t)vmferry_now());
	return 0;
}

static int save(void *ctx, struct vmferry_blob *state)
{
	struct fakevm *vm = ctx;

	if (vm->fail_save < 0)
		return vm->fail_save;
	return vmferry_blob_append(state, &vm->state, sizeof(vm->state));
}

static void committed(void *ctx, const void *words, size_t length)
{
	struct fakevm *vm = ctx;

	memcpy(vm->words, words, length < sizeof(vm->words) ? length : sizeof(vm->words) - 1);
	vm->committed = true;
}

const struct vmferry_source_ops fakevm_source_ops = {
	.size = sizeof(struct vmferry_source_ops),
	.describe = describe,
	.pause = pause_vm,
	.resume = resume_vm,
	.save = save,
	.committed = committed,
};

/* ---- destination ----------------------------------------------------------------------------- */

static int check(void *ctx, const void *spec, size_t length, struct vmferry_problems *problems)
{
	struct fakevm *vm = ctx;

	if (length != 6 || memcmp(spec, "fakevm", 6) != 0)
		vmferry_problems_add(problems, "not a fakevm", "send one");
	if (vm->problem != NULL) {
		vmferry_problems_add(problems, vm->problem, "do this");
		vmferry_problems_add(problems, "a second problem", "do that");
	}
	return 0;
}

static int prepare(void *ctx, const void *spec, size_t length, struct vmferry_vm *out)
{
	struct fakevm *vm = ctx;

	(void)spec;
	(void)length;
	if (vm->fail_prepare < 0)
		return vm->fail_prepare;
	/* A second attempt starts from zeroes again. */
	for (unsigned int i = 0; i < FAKEVM_REGIONS; i++)
		if (fallocate(vm->regions[i].fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      (off_t)vm->regions[i].size) < 0)
			return -errno;
	vm->abandoned = false;
	fakevm_describe(vm, out);
	return 0;
}

static int load(void *ctx, const void *state, size_t length)
{
	struct fakevm *vm = ctx;

	if (vm->in_load != NULL)
		vm->in_load(vm->hook_ctx);
	if (vm->fail_load < 0)
		return vm->fail_load;
	if (length != sizeof(vm->state))
		return -EPROTO;
	memcpy(&vm->state, state, length);
	return 0;
}

static int run(void *ctx)
{
	struct fakevm *vm = ctx;

	if (vm->in_run != NULL)
		vm->in_run(vm->hook_ctx);
	if (vm->compare_with != NULL) {
		vm->differing_pages = fakevm_differing(vm, vm->compare_with);
		atomic_store(&vm->compared, true);
	}
	if (vm->fail_run < 0)
		return vm->fail_run;
	fakevm_run(vm);
	return 0;
}

static void abandon(void *ctx)
{
	struct fakevm *vm = ctx;

	vm->abandoned = true;
}

static int closing(void *ctx, struct vmferry_blob *words)
{
	(void)ctx;
	return vmferry_blob_append(words, "farewell", 8);
}

const struct vmferry_destination_ops fakevm_destination_ops = {
	.size = sizeof(struct vmferry_destination_ops),
	.check = check,
	.prepare = prepare,
	.load = load,
	.run = run,
	.abandon = abandon,
	.closing = closing,
};
