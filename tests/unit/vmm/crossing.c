/* SPDX-License-Identifier: MIT */
/* The migration callbacks: a running guest goes on in a second machine, or here after all. */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "ferry.h"
#include "quiet.h"

TestSuite(crossing, .init = need_kvm, .timeout = 300);

static struct vmferry_blob *new_blob(void)
{
	struct vmferry_blob *b;

	cr_assert_eq(vmferry_blob_new(&b), 0);
	return b;
}

static void check(struct vmm_arrival *arrival, const struct vmferry_blob *spec)
{
	struct vmferry_problems *problems;

	cr_assert_eq(vmferry_problems_new(&problems), 0);
	cr_assert_eq(vmm_destination_ops.check(arrival, vmferry_blob_data(spec),
					       vmferry_blob_size(spec), problems),
		     0, "%s", last_line());
	cr_assert_eq(vmferry_problems_count(problems), 0, "%s", vmferry_problems_get(problems, 0));
	vmferry_problems_free(&problems);
}

static void prepare(struct vmm_arrival *arrival, const struct vmferry_blob *spec,
		    struct vmferry_vm *vm)
{
	cr_assert_eq(vmm_destination_ops.prepare(arrival, vmferry_blob_data(spec),
						 vmferry_blob_size(spec), vm),
		     0, "%s", last_line());
}

static void copy_memory(const struct vmm *source, const struct vmferry_vm *to)
{
	struct vmferry_vm from;

	vmm_describe_vm(source, &from);
	cr_assert_eq(from.region_count, to->region_count);
	for (unsigned int i = 0; i < from.region_count; i++) {
		cr_assert_eq(from.regions[i].address, to->regions[i].address);
		cr_assert_eq(from.regions[i].size, to->regions[i].size);
		memcpy(to->regions[i].base, from.regions[i].base, from.regions[i].size);
	}
}

static void close_up(struct vmm_arrival *arrival, struct vmm *source)
{
	struct vmferry_blob *words = new_blob();

	cr_assert_eq(vmm_destination_ops.closing(arrival, words), 0);
	vmm_source_ops.committed(source, vmferry_blob_data(words), vmferry_blob_size(words));
	vmferry_blob_free(&words);
}

struct vmm *ferry(struct vmm *source)
{
	struct vmm_arrival arrival = {.console_fd = -1, .numa_node = -1};
	struct vmferry_blob *spec = new_blob(), *state = new_blob();
	uint64_t paused, saved, loaded, begin;
	struct vmferry_vm vm;

	cr_assert_eq(vmm_source_ops.describe(source, spec), 0, "%s", last_line());
	check(&arrival, spec);
	prepare(&arrival, spec, &vm);
	begin = vmferry_now();
	cr_assert_eq(vmm_source_ops.pause(source), 0);
	paused = vmferry_now();
	cr_assert_eq(vmm_source_ops.save(source, state), 0, "%s", last_line());
	saved = vmferry_now();
	copy_memory(source, &vm);
	loaded = vmferry_now();
	cr_assert_eq(vmm_destination_ops.load(&arrival, vmferry_blob_data(state),
					      vmferry_blob_size(state)),
		     0, "%s", last_line());
	cr_log_info("pause %llu us, save %llu us (%zu bytes), load %llu us",
		    (unsigned long long)(paused - begin) / 1000,
		    (unsigned long long)(saved - paused) / 1000, vmferry_blob_size(state),
		    (unsigned long long)(vmferry_now() - loaded) / 1000);
	cr_assert_eq(vmm_destination_ops.run(&arrival), 0);
	close_up(&arrival, source);
	vmferry_blob_free(&spec);
	vmferry_blob_free(&state);
	return arrival.vmm;
}

Test(crossing, ticker__memory_and_registers_go_on)
{
	struct vmm_config config = small_config();
	struct vmm *source = boot_guest(&config, GUEST_TICKER);
	struct vmm *there, *back;
	uint32_t left_at;
	uint64_t ns = 0;

	cr_assert_eq(vmm_resume(source), 0);
	wait_beats(source, 100);
	there = ferry(source);
	left_at = guest_word(source, COUNTER);
	cr_assert_geq(left_at, 100);
	wait_beats(there, 100);
	cr_assert(status_of(there).ready, "carried over");
	cr_assert_eq(status_of(there).faults, 0, "the register and the memory differ");
	cr_assert_geq(guest_word(there, COUNTER), left_at + 100);
	cr_assert_eq(guest_word(source, COUNTER), left_at, "the source runs");
	cr_assert_eq(vmm_observed_blackout(source, &ns), 0);
	cr_assert_eq(ns, status_of(there).pulse[0].first_ns - status_of(source).pulse[0].last_ns);
	cr_assert_eq(vmm_peer_faults(source), 0);
	vmm_free(&source);

	back = ferry(there);
	vmm_free(&there);
	wait_beats(back, 100);
	cr_assert_eq(status_of(back).faults, 0);
	vmm_free(&back);
}

Test(crossing, halted_guest__arrives_without_beats)
{
	struct vmm_config config = small_config();
	struct vmm *source, *there;
	uint64_t ns;

	config.vcpus = 2;
	source = boot_guest(&config, GUEST_HALTED);
	cr_assert_eq(vmm_resume(source), 0);
	wait_ready(source);
	there = ferry(source);
	cr_assert(status_of(there).running && status_of(there).ready);
	cr_assert_eq(vmm_observed_blackout(source, &ns), -ENODATA);
	vmm_free(&source);
	vmm_free(&there);
}

Test(crossing, given_up_after_save__goes_on_here)
{
	struct vmm_config config = small_config();
	struct vmm *source = boot_guest(&config, GUEST_TICKER);
	struct vmferry_blob *state = new_blob();

	cr_assert_eq(vmm_resume(source), 0);
	for (unsigned int i = 0; i < 50; i++) {
		wait_beats(source, 2);
		cr_assert_eq(vmm_source_ops.pause(source), 0);
		if (i % 2)
			cr_assert_eq(vmm_source_ops.save(source, state), 0);
		cr_assert_eq(vmm_source_ops.resume(source), 0);
	}
	wait_beats(source, 2);
	cr_assert_eq(status_of(source).faults, 0);
	vmferry_blob_free(&state);
	vmm_free(&source);
}

Test(crossing, state_cut_anywhere__eproto_and_abandoned)
{
	struct vmm_config config = small_config();
	struct vmm *source = boot_guest(&config, GUEST_TICKER);
	struct vmm_arrival arrival = {.console_fd = -1, .numa_node = -1};
	struct vmferry_blob *spec = new_blob(), *state = new_blob();
	struct vmferry_vm vm;
	size_t size;

	cr_assert_eq(vmm_source_ops.describe(source, spec), 0);
	cr_assert_eq(vmm_source_ops.pause(source), 0);
	cr_assert_eq(vmm_source_ops.save(source, state), 0);
	prepare(&arrival, spec, &vm);
	size = vmferry_blob_size(state);
	for (size_t n = 0; n < size; n += n < 64 ? 1 : 37) {
		void *cut = malloc(n ? n : 1);

		memcpy(cut, vmferry_blob_data(state), n);
		cr_assert_eq(vmm_destination_ops.load(&arrival, cut, n), -EPROTO, "%zu", n);
		free(cut);
	}
	vmm_destination_ops.abandon(&arrival);
	cr_assert_null(arrival.vmm);
	vmferry_blob_free(&spec);
	vmferry_blob_free(&state);
	vmm_free(&source);
}

Test(crossing, last_words_that_make_no_sense__no_blackout)
{
	struct vmm_config config = small_config();
	struct vmm *source = boot_guest(&config, GUEST_TICKER);
	uint8_t words[200];
	uint64_t ns;

	memset(words, 0xff, sizeof(words));
	for (size_t n = 0; n <= sizeof(words); n++) {
		vmm_source_ops.committed(source, words, n);
		cr_assert_eq(vmm_observed_blackout(source, &ns), -ENODATA);
	}
	vmm_free(&source);
}

Test(crossing, stopped_guest__is_not_described)
{
	struct vmm_config config = small_config();
	struct vmm *source = boot_guest(&config, GUEST_FAULTY);
	struct vmferry_blob *spec = new_blob();

	cr_assert_eq(vmm_resume(source), 0);
	wait_stopped(source);
	cr_assert_eq(vmm_source_ops.describe(source, spec), -ECANCELED);
	vmferry_blob_free(&spec);
	vmm_free(&source);
}
