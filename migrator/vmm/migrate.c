/* SPDX-License-Identifier: MIT */
/*
 * What the library asks of a VMM, on both sides, and the blackout as heartbeats show it: the
 * destination's closing() tells when each vCPU's first beat came there, the source's committed()
 * compares that with the last beat here.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "codec.h"
#include "log.h"
#include "spec.h"
#include "state.h"

#define WORDS_MAGIC   0x57464d56u /* "VMFW" */
#define BOOT_ID_BYTES 36u

#define FIRST_BEAT_NS (1 * NS_PER_S)
#define BEAT_LOOK_NS  200000

/*
 * CLOCK_MONOTONIC is the same clock on both sides only if this is the same. Zeroes when it cannot
 * be had.
 */
static void read_boot_id(char id[BOOT_ID_BYTES])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	memset(id, 0, BOOT_ID_BYTES);
	if (fd < 0)
		return;
	if (read(fd, id, BOOT_ID_BYTES) != BOOT_ID_BYTES)
		memset(id, 0, BOOT_ID_BYTES);
	close(fd);
}

/* ---- source ---------------------------------------------------------------------------------- */

static int source_describe(void *ctx, struct vmferry_blob *out)
{
	struct vmm *vmm = ctx;
	const struct vmferry_blob *kvm;
	int err;

	if (atomic_load(&vmm->stopped)) {
		vmm_error("guest: cannot be migrated: it has stopped: %s", vmm->stop_reason);
		return -ECANCELED;
	}
	err = vmm_kvm_spec(vmm, &kvm);
	return err ? err : spec_encode(vmm, kvm, out);
}

static int source_pause(void *ctx)
{
	int err = vmm_pause(ctx);

	if (!err)
		state_save_begin(ctx);
	return err;
}

static int source_resume(void *ctx)
{
	return vmm_resume(ctx);
}

static int source_save(void *ctx, struct vmferry_blob *state)
{
	return state_save(ctx, state);
}

/*
 * One vCPU: 0 and how long it was silent, or -ENODATA. A vCPU that never beats on either side does
 * not count: 0.
 */
static int observe_vcpu(const struct vcpu *v, uint64_t first, uint64_t *silence)
{
	uint64_t last = atomic_load_explicit(&v->last_ns, memory_order_relaxed);

	*silence = 0;
	if (!first && !last)
		return 0;
	if (!first || !last || first < last)
		return -ENODATA;
	*silence = first - last;
	return 0;
}

static int observe(struct vmm *vmm, struct reader *r, const char *id)
{
	static const char none[BOOT_ID_BYTES];
	char own[BOOT_ID_BYTES];
	int err = 0;

	read_boot_id(own);
	if (memcmp(own, none, BOOT_ID_BYTES) == 0 || memcmp(own, id, BOOT_ID_BYTES) != 0)
		return -EXDEV;
	for (unsigned int i = 0; !err && i < vmm->config.vcpus; i++)
		err = observe_vcpu(&vmm->vcpu[i], read_u64(r), &vmm->silence_ns[i]);
	return err;
}

static void source_committed(void *ctx, const void *words, size_t length)
{
	struct vmm *vmm = ctx;
	struct reader r = {.at = words, .left = length};
	uint32_t magic = read_u32(&r);
	const char *id = read_bytes(&r, BOOT_ID_BYTES);
	uint64_t faults = read_u64(&r);
	uint32_t vcpus = read_u32(&r);

	vmm->blackout_error = -ENODATA;
	if (r.failed || magic != WORDS_MAGIC || vcpus != vmm->config.vcpus ||
	    r.left != vcpus * sizeof(uint64_t)) {
		vmm_warn("guest: the destination's last words make no sense: no blackout is known");
		return;
	}
	vmm->peer_faults = faults;
	vmm->blackout_error = observe(vmm, &r, id);
}

const struct vmferry_source_ops vmm_source_ops = {
	.size = sizeof(struct vmferry_source_ops),
	.describe = source_describe,
	.pause = source_pause,
	.resume = source_resume,
	.save = source_save,
	.committed = source_committed,
};

/* ---- destination ----------------------------------------------------------------------------- */

static int destination_check(void *ctx, const void *data, size_t length,
			     struct vmferry_problems *problems)
{
	struct spec spec;
	int err = spec_decode(data, length, &spec, problems);

	return err ? err : spec_check(&spec, ctx, problems);
}

static int destination_prepare(void *ctx, const void *data, size_t length, struct vmferry_vm *vm)
{
	struct vmm_arrival *arrival = ctx;
	struct vmm_config config;
	struct spec spec;
	int err = spec_decode(data, length, &spec, NULL);

	if (err)
		return err;
	config = (struct vmm_config){
		.memory = spec.memory,
		.vcpus = spec.vcpus,
		.pages = spec.pages,
		.numa_node = arrival->numa_node,
		.tracker = spec.tracker,
		.ring_entries = spec.ring_entries,
		.console_fd = arrival->console_fd,
	};
	/*
	 * The ring is for leaving again: a host without it, or with a smaller one, is no worse a
	 * home.
	 */
	if (config.tracker == VMFERRY_TRACKER_RING)
		config.tracker = VMFERRY_TRACKER_AUTO;
	err = vmm_new(&config, &arrival->vmm);
	if (!err)
		vmm_describe_vm(arrival->vmm, vm);
	return err;
}

static int destination_load(void *ctx, const void *state, size_t length)
{
	const struct vmm_arrival *arrival = ctx;

	return state_load(arrival->vmm, state, length);
}

static int destination_run(void *ctx)
{
	const struct vmm_arrival *arrival = ctx;

	return vmm_resume(arrival->vmm);
}

static void destination_abandon(void *ctx)
{
	struct vmm_arrival *arrival = ctx;

	vmm_free(&arrival->vmm);
}

static bool all_beat(const struct vmm *vmm)
{
	for (unsigned int i = 0; i < vmm->config.vcpus; i++) {
		const struct vcpu *v = &vmm->vcpu[i];

		/* acquire: first_ns is read next. */
		if (v->was_beating && !atomic_load_explicit(&v->beats, memory_order_acquire))
			return false;
	}
	return true;
}

static int destination_closing(void *ctx, struct vmferry_blob *words)
{
	const struct vmm_arrival *arrival = ctx;
	struct vmm *vmm = arrival->vmm;
	uint64_t deadline = vmferry_now() + FIRST_BEAT_NS;
	char id[BOOT_ID_BYTES];
	int err;

	while (!all_beat(vmm) && !atomic_load(&vmm->stopped) && vmferry_now() < deadline)
		nanosleep(&(struct timespec){.tv_nsec = BEAT_LOOK_NS}, NULL);
	read_boot_id(id);
	err = put_u32(words, WORDS_MAGIC);
	if (!err)
		err = vmferry_blob_append(words, id, BOOT_ID_BYTES);
	if (!err)
		err = put_u64(words, atomic_load_explicit(&vmm->faults, memory_order_relaxed));
	if (!err)
		err = put_u32(words, vmm->config.vcpus);
	for (unsigned int i = 0; !err && i < vmm->config.vcpus; i++)
		err = put_u64(words,
			      atomic_load_explicit(&vmm->vcpu[i].first_ns, memory_order_relaxed));
	return err;
}

const struct vmferry_destination_ops vmm_destination_ops = {
	.size = sizeof(struct vmferry_destination_ops),
	.check = destination_check,
	.prepare = destination_prepare,
	.load = destination_load,
	.run = destination_run,
	.abandon = destination_abandon,
	.closing = destination_closing,
};
