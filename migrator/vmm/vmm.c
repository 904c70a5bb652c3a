/* SPDX-License-Identifier: MIT */
/* The machine as a whole: made, freed, run, paused, looked at. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <vmferry/kvm.h>

#include "internal.h"
#include "log.h"
#include "state.h"

/* Below the BIOS' place under 4 GiB, where KVM on Intel keeps four pages for real mode. */
#define IDENTITY_ADDRESS 0xfffbc000ull
#define TSS_ADDRESS	 0xfffbd000ull

#define PAUSE_NS (1 * NS_PER_S)

/* ---- making ---------------------------------------------------------------------------------- */

static int check_config(const struct vmm_config *c)
{
	if (c->memory < VMM_MEMORY_MIN || c->memory > VMM_MEMORY_MAX ||
	    c->memory % HUGE_PAGE_BYTES) {
		vmm_error("vmm: %llu bytes of memory: give %llu MiB to %llu GiB in steps of 2 MiB",
			  (unsigned long long)c->memory, VMM_MEMORY_MIN / MIB,
			  VMM_MEMORY_MAX / GIB);
		return -EINVAL;
	}
	if (c->vcpus == 0 || c->vcpus > VMM_VCPUS_MAX) {
		vmm_error("vmm: %u vcpus: give 1 to %u", c->vcpus, VMM_VCPUS_MAX);
		return -EINVAL;
	}
	if ((unsigned int)c->pages > VMM_PAGES_HUGE ||
	    (unsigned int)c->tracker > VMFERRY_TRACKER_CALLER) {
		vmm_error("vmm: kind of pages %d or of tracker %d: unknown", c->pages, c->tracker);
		return -EINVAL;
	}
	return 0;
}

static int open_kvm(struct vmm *vmm)
{
	int err, size;

	vmm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (vmm->kvm_fd < 0) {
		err = -errno;
		vmm_error("kvm: cannot open /dev/kvm: %s: %s", strerror(-err),
			  err == -EACCES ? "join the group kvm"
					 : "enable virtualization and load kvm_intel or kvm_amd");
		return err == -EACCES ? err : -ENODEV;
	}
	if (ioctl(vmm->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION) {
		vmm_error("kvm: /dev/kvm speaks another version");
		return -ENODEV;
	}
	size = ioctl(vmm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (size < (int)sizeof(struct kvm_run)) {
		vmm_error("kvm: the run area has only %d bytes", size);
		return -ENODEV;
	}
	vmm->run_size = (size_t)size;
	return 0;
}

static int create_vm(struct vmm *vmm)
{
	do {
		vmm->vm_fd = ioctl(vmm->kvm_fd, KVM_CREATE_VM, 0);
	} while (vmm->vm_fd < 0 && errno == EINTR);
	if (vmm->vm_fd < 0) {
		int err = -errno;

		vmm_error("kvm: cannot create a vm: %s", strerror(-err));
		return err;
	}
	return 0;
}

static int vm_error(const char *what)
{
	int err = -errno;

	vmm_error("kvm: cannot set %s: %s", what, strerror(-err));
	return err;
}

static int create_chips(struct vmm *vmm)
{
	struct kvm_pit_config pit = {0};
	uint64_t identity = IDENTITY_ADDRESS;

	if (ioctl(vmm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return vm_error("the identity map's address");
	if (ioctl(vmm->vm_fd, KVM_SET_TSS_ADDR, (unsigned long)TSS_ADDRESS) < 0)
		return vm_error("the tss' address");
	if (ioctl(vmm->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0)
		return vm_error("the interrupt controllers");
	if (ioctl(vmm->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
		return vm_error("the timer");
	return 0;
}

/* Before the first vCPU: KVM sizes each vCPU's ring when it makes it. */
static int enable_ring(struct vmm *vmm)
{
	enum vmferry_tracker tracker = vmm->config.tracker;
	int err;

	if (tracker != VMFERRY_TRACKER_RING && tracker != VMFERRY_TRACKER_AUTO)
		return 0;
	err = vmferry_kvm_enable_ring(vmm->vm_fd, vmm->config.ring_entries, &vmm->ring_entries);
	if (err == -ENOTSUP && tracker == VMFERRY_TRACKER_AUTO)
		return 0;
	return err;
}

static int create_vcpus(struct vmm *vmm)
{
	bool tsc_deadline = ioctl(vmm->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_TSC_DEADLINE_TIMER) > 0;
	struct kvm_cpuid2 *cpuid = NULL;
	int err = cpuid_supported(vmm->kvm_fd, &cpuid);

	for (unsigned int i = 0; !err && i < vmm->config.vcpus; i++) {
		cpuid_for_vcpu(cpuid, i, vmm->config.vcpus, tsc_deadline);
		err = vcpu_create(&vmm->vcpu[i], cpuid);
		vmm->vcpu_fds[i] = vmm->vcpu[i].fd;
	}
	free(cpuid);
	for (unsigned int i = 0; !err && i < vmm->config.vcpus; i++)
		err = vcpu_start(&vmm->vcpu[i]);
	return err;
}

static int init_locks(struct vmm *vmm)
{
	pthread_rwlockattr_t attr;
	int err = -pthread_rwlockattr_init(&attr);

	if (err)
		return err;
	/* vCPUs with full rings come again and again: whoever ends the migration must get in. */
	pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	err = -pthread_rwlock_init(&vmm->source_lock, &attr);
	pthread_rwlockattr_destroy(&attr);
	if (err)
		return err;
	pthread_mutex_init(&vmm->control, NULL);
	pthread_mutex_init(&vmm->console.lock, NULL);
	return 0;
}

static int vmm_alloc(const struct vmm_config *config, struct vmm **out)
{
	size_t size = (sizeof(struct vmm) + 63) & ~(size_t)63;
	struct vmm *vmm = aligned_alloc(64, size);
	int err;

	if (!vmm)
		return -ENOMEM;
	memset(vmm, 0, size);
	vmm->config = *config;
	vmm->kvm_fd = -1;
	vmm->vm_fd = -1;
	vmm->console.fd = config->console_fd;
	vmm->blackout_error = -ENODATA;
	for (unsigned int i = 0; i < VMM_VCPUS_MAX; i++) {
		vmm->vcpu[i].vmm = vmm;
		vmm->vcpu[i].index = i;
		vmm->vcpu[i].fd = -1;
	}
	err = init_locks(vmm);
	if (err) {
		free(vmm);
		return err;
	}
	*out = vmm;
	return 0;
}

int vmm_new(const struct vmm_config *config, struct vmm **vmm)
{
	struct vmm *v;
	int err = check_config(config);

	if (!err)
		err = vmm_alloc(config, &v);
	if (err)
		return err;
	err = open_kvm(v);
	if (!err)
		err = create_vm(v);
	if (!err)
		err = create_chips(v);
	if (!err)
		err = enable_ring(v);
	if (!err)
		err = memory_map(v);
	if (!err)
		err = create_vcpus(v);
	if (!err)
		err = state_warm_up(v);
	if (err) {
		vmm_free(&v);
		return err;
	}
	*vmm = v;
	return 0;
}

/* True when all threads are gone, so that what they use may go too. */
static bool end_threads(struct vmm *vmm)
{
	int err;

	/* Through a pause, so that no thread signals another one that has ended. */
	if (vmm_pause(vmm) < 0)
		return false;
	pthread_mutex_lock(&vmm->control);
	vcpus_post(vmm, VCPU_QUIT);
	err = vcpus_wait(vmm, vmferry_now() + PAUSE_NS);
	pthread_mutex_unlock(&vmm->control);
	if (!err)
		vcpus_join(vmm);
	return !err;
}

void vmm_free(struct vmm **vmm)
{
	struct vmm *v = *vmm;

	*vmm = NULL;
	/*
	 * A thread that is stuck in the kernel still uses all this: losing the memory is the lesser
	 * evil.
	 */
	if (!v || !end_threads(v))
		return;
	console_flush(&v->console);
	for (unsigned int i = 0; i < v->config.vcpus; i++)
		vcpu_destroy(&v->vcpu[i]);
	if (v->vm_fd >= 0)
		close(v->vm_fd);
	if (v->kvm_fd >= 0)
		close(v->kvm_fd);
	memory_unmap(v);
	vmferry_blob_free(&v->kvm_spec);
	pthread_rwlock_destroy(&v->source_lock);
	pthread_mutex_destroy(&v->control);
	pthread_mutex_destroy(&v->console.lock);
	free(v);
}

/* ---- running --------------------------------------------------------------------------------- */

int vmm_resume(struct vmm *vmm)
{
	int err = 0;

	pthread_mutex_lock(&vmm->control);
	if (atomic_load(&vmm->stopped)) {
		vmm_error("guest: cannot run: it has stopped: %s", vmm->stop_reason);
		err = -ECANCELED;
	} else if (!vmm->booted) {
		vmm_error("guest: cannot run: nothing was loaded");
		err = -EINVAL;
	} else if (command_of(atomic_load(&vmm->word)) != VCPU_RUN) {
		vmm->saving = false;
		vcpus_post(vmm, VCPU_RUN);
	}
	pthread_mutex_unlock(&vmm->control);
	return err;
}

static bool told_to_run(const struct vmm *vmm)
{
	return command_of(atomic_load(&vmm->word)) == VCPU_RUN;
}

int vmm_pause(struct vmm *vmm)
{
	int err = 0;

	pthread_mutex_lock(&vmm->control);
	if (told_to_run(vmm))
		vcpus_post(vmm, VCPU_PAUSE);
	/* Also when it was paused already: an earlier wait may have timed out. */
	err = vcpus_wait(vmm, vmferry_now() + PAUSE_NS);
	pthread_mutex_unlock(&vmm->control);
	console_flush(&vmm->console);
	return err;
}

int vmm_kvm_spec(struct vmm *vmm, const struct vmferry_blob **spec)
{
	struct vmferry_blob *blob = NULL;
	bool running = told_to_run(vmm) && !atomic_load(&vmm->stopped);
	int err = 0;

	if (!vmm->kvm_spec) {
		err = vmferry_blob_new(&blob);
		if (!err)
			err = vmm_pause(vmm);
		if (!err)
			err = vmferry_kvm_describe(vmm->kvm_fd, vmm->vm_fd, vmm->vcpu[0].fd, blob);
		if (err) {
			vmferry_blob_free(&blob);
		} else {
			vmm->kvm_spec = blob;
		}
		if (running && vmm_resume(vmm) < 0)
			return -EIO;
	}
	*spec = vmm->kvm_spec;
	return err;
}

void vmm_describe_vm(const struct vmm *vmm, struct vmferry_vm *vm)
{
	*vm = (struct vmferry_vm){
		.size = sizeof(*vm),
		.regions = vmm->regions,
		.region_count = vmm->region_count,
		.vm_fd = vmm->vm_fd,
		.vcpu_fds = vmm->vcpu_fds,
		.vcpu_count = vmm->config.vcpus,
		.ring_entries = vmm->ring_entries,
	};
}

void vmm_set_source(struct vmm *vmm, struct vmferry_source *source)
{
	pthread_rwlock_wrlock(&vmm->source_lock);
	vmm->source = source;
	pthread_rwlock_unlock(&vmm->source_lock);
}

static void read_pulse(const struct vcpu *v, struct vmm_vcpu_pulse *pulse)
{
	pulse->beats = atomic_load_explicit(&v->beats, memory_order_acquire);
	pulse->first_ns = atomic_load_explicit(&v->first_ns, memory_order_relaxed);
	pulse->last_ns = atomic_load_explicit(&v->last_ns, memory_order_relaxed);
	pulse->max_gap_ns = atomic_load_explicit(&v->max_gap_ns, memory_order_relaxed);
}

void vmm_status(const struct vmm *vmm, struct vmm_status *status)
{
	/* Who looks at the guest sees an unfinished line, too. */
	console_flush((struct console *)&vmm->console);
	memset(status, 0, sizeof(*status));
	status->stopped = atomic_load(&vmm->stopped);
	if (status->stopped)
		memcpy(status->stop_reason, vmm->stop_reason, sizeof(status->stop_reason));
	status->running = told_to_run(vmm) && !status->stopped;
	status->ready = atomic_load_explicit(&vmm->ready, memory_order_relaxed);
	status->faults = atomic_load_explicit(&vmm->faults, memory_order_relaxed);
	status->scrubs = atomic_load_explicit(&vmm->scrubs, memory_order_relaxed);
	status->vcpus = vmm->config.vcpus;
	status->memory = vmm->config.memory;
	for (unsigned int i = 0; i < vmm->config.vcpus; i++)
		read_pulse(&vmm->vcpu[i], &status->pulse[i]);
}

int vmm_observed_blackout(const struct vmm *vmm, uint64_t *ns)
{
	uint64_t longest = 0;

	if (vmm->blackout_error)
		return vmm->blackout_error;
	for (unsigned int i = 0; i < vmm->config.vcpus; i++) {
		if (vmm->silence_ns[i] > longest)
			longest = vmm->silence_ns[i];
	}
	if (longest == 0)
		return -ENODATA;
	*ns = longest;
	return 0;
}

uint64_t vmm_observed_silence(const struct vmm *vmm, unsigned int vcpu)
{
	return vmm->blackout_error || vcpu >= vmm->config.vcpus ? 0 : vmm->silence_ns[vcpu];
}

uint64_t vmm_peer_faults(const struct vmm *vmm)
{
	return vmm->peer_faults;
}
