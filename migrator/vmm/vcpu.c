/* SPDX-License-Identifier: MIT */
/*
 * vCPUs: a thread each, commanded by one word (see internal.h), and the run loop. A thread sleeps
 * on the word while it has nothing to do; in KVM_RUN a signal gets it out.
 *
 * KICK  The poster stores the word, then immediate_exit, then signals. The thread clears
 *       immediate_exit, then looks at the word, then enters. Whichever way these interleave, either
 *       the thread sees the new word, or immediate_exit is set when it enters and KVM_RUN returns
 *       at once: no kick is lost, and the handler has nothing to do.
 */
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <numa.h>
#include <vmferry/kvm.h>

#include "internal.h"
#include "futex.h"
#include "log.h"

#define KICK_SIGNAL (SIGRTMIN + 1)
/* a sleeper looks around; it needs not, the word is the signal */
#define IDLE_NS		 (60 * NS_PER_S)
#define RING_FULL_NS	 100000 /* back off when a ring is full and nobody harvests */
#define RETIRE_RUNS_MAX	 4096u	/* a string I/O instruction may exit once for each page */
#define SUBERROR_DETAILS 2u

static void set_immediate_exit(struct vcpu *v, uint8_t value)
{
	__atomic_store_n(&v->run->immediate_exit, value, __ATOMIC_SEQ_CST);
}

/* ---- commands -------------------------------------------------------------------------------- */

static void kick_all(struct vmm *vmm)
{
	for (unsigned int i = 0; i < vmm->config.vcpus; i++) {
		struct vcpu *v = &vmm->vcpu[i];

		if (!v->started || pthread_equal(v->thread, pthread_self()))
			continue;
		set_immediate_exit(v, 1);
		pthread_kill(v->thread, KICK_SIGNAL);
	}
}

void vcpus_post(struct vmm *vmm, enum vcpu_command command)
{
	uint32_t old = atomic_load(&vmm->word);

	atomic_store(&vmm->word, ((old >> COMMAND_BITS) + 1) << COMMAND_BITS | command);
	if (command_of(old) == VCPU_RUN)
		kick_all(vmm);
	futex_wake_all(&vmm->word);
}

static struct vcpu *first_late(struct vmm *vmm, uint32_t word)
{
	for (unsigned int i = 0; i < vmm->config.vcpus; i++) {
		struct vcpu *v = &vmm->vcpu[i];

		/* acquire: what the thread did for this word is visible now. */
		if (v->started && atomic_load_explicit(&v->done, memory_order_acquire) != word)
			return v;
	}
	return NULL;
}

int vcpus_wait(struct vmm *vmm, uint64_t deadline)
{
	uint32_t word = atomic_load(&vmm->word);

	for (;;) {
		uint32_t acks = atomic_load(&vmm->acks);
		struct vcpu *late = first_late(vmm, word);

		if (!late)
			return 0;
		if (vmferry_now() >= deadline) {
			vmm_error("vcpu %u: does not answer: last exit %u: the host may be "
				  "overloaded",
				  late->index, late->run->exit_reason);
			return -ETIMEDOUT;
		}
		futex_wait(&vmm->acks, acks, deadline);
	}
}

static void ack(struct vcpu *v, uint32_t word)
{
	struct vmm *vmm = v->vmm;

	atomic_store_explicit(&v->done, word, memory_order_release);
	atomic_fetch_add(&vmm->acks, 1);
	/* One wake-up for the poster, by whoever is last, instead of one by each. */
	if (!first_late(vmm, word))
		futex_wake_all(&vmm->acks);
}

static uint32_t next_word(struct vcpu *v, uint32_t seen)
{
	uint32_t word;

	while ((word = atomic_load(&v->vmm->word)) == seen)
		futex_wait(&v->vmm->word, seen, vmferry_now() + IDLE_NS);
	return word;
}

/* ---- running --------------------------------------------------------------------------------- */

void vmm_stop(struct vmm *vmm, const char *fmt, ...)
{
	va_list ap;

	if (atomic_exchange(&vmm->stop_claimed, true))
		return;
	va_start(ap, fmt);
	vsnprintf(vmm->stop_reason, sizeof(vmm->stop_reason), fmt, ap);
	va_end(ap);
	atomic_store(&vmm->stopped, true);
	vmm_warn("guest: stopped: %s", vmm->stop_reason);
	kick_all(vmm);
}

static uint64_t instruction_pointer(const struct vcpu *v)
{
	struct kvm_regs regs = {0};

	return ioctl(v->fd, KVM_GET_REGS, &regs) < 0 ? 0 : regs.rip;
}

static void ring_full(struct vmm *vmm)
{
	bool told = false;

	pthread_rwlock_rdlock(&vmm->source_lock);
	if (vmm->source) {
		vmferry_source_ring_full(vmm->source);
		told = true;
	}
	pthread_rwlock_unlock(&vmm->source_lock);
	/* Between a migration's end and the ring's last reset nobody is there to wait for. */
	if (!told)
		nanosleep(&(struct timespec){.tv_nsec = RING_FULL_NS}, NULL);
}

static void stop_internal(struct vcpu *v)
{
	const struct kvm_run *run = v->run;

	vmm_stop(v->vmm, "vcpu %u: kvm internal error %u at rip 0x%llx", v->index,
		 run->internal.suberror, (unsigned long long)instruction_pointer(v));
}

static void handle_exit(struct vcpu *v, uint64_t now)
{
	struct kvm_run *run = v->run;

	switch (run->exit_reason) {
	case KVM_EXIT_IO:
		ports_io(v, now);
		break;
	case KVM_EXIT_MMIO:
		if (!run->mmio.is_write)
			memset(run->mmio.data, 0xff, sizeof(run->mmio.data));
		break;
	case KVM_EXIT_DIRTY_RING_FULL:
		ring_full(v->vmm);
		break;
	case KVM_EXIT_INTR:
	case KVM_EXIT_IRQ_WINDOW_OPEN:
		break;
	case KVM_EXIT_SHUTDOWN:
		vmm_stop(v->vmm, "vcpu %u: shutdown (triple fault) at rip 0x%llx", v->index,
			 (unsigned long long)instruction_pointer(v));
		break;
	case KVM_EXIT_SYSTEM_EVENT:
		vmm_stop(v->vmm, "vcpu %u: system event %u", v->index, run->system_event.type);
		break;
	case KVM_EXIT_FAIL_ENTRY:
		vmm_stop(v->vmm, "vcpu %u: kvm cannot enter the guest: hardware reason 0x%llx",
			 v->index,
			 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
		break;
	case KVM_EXIT_INTERNAL_ERROR:
		stop_internal(v);
		break;
	default:
		vmm_stop(v->vmm, "vcpu %u: unexpected kvm exit %u at rip 0x%llx", v->index,
			 run->exit_reason, (unsigned long long)instruction_pointer(v));
		break;
	}
}

/*
 * One KVM_RUN and what it exits with. False when it did not run: a kick, or an error that has
 * stopped the guest.
 */
static bool run_once(struct vcpu *v)
{
	if (ioctl(v->fd, KVM_RUN, 0) == 0) {
		handle_exit(v, vmferry_now());
		return true;
	}
	/* EAGAIN: a vCPU that waited for its start-up interrupt was woken. */
	if (errno != EINTR && errno != EAGAIN)
		vmm_stop(v->vmm, "vcpu %u: cannot run at rip 0x%llx: %s", v->index,
			 (unsigned long long)instruction_pointer(v), strerror(errno));
	return false;
}

/*
 * KVM completes an I/O or MMIO instruction only at the next KVM_RUN: with immediate_exit set it
 * does that and no more. A string instruction may exit again instead.
 */
static void retire(struct vcpu *v)
{
	unsigned int runs = 0;

	set_immediate_exit(v, 1);
	while (run_once(v) && ++runs < RETIRE_RUNS_MAX)
		;
}

static void run_guest(struct vcpu *v, uint32_t word)
{
	struct vmm *vmm = v->vmm;

	/*
	 * Tells a guest with kvmclock that it was paused, for its watchdogs; EINVAL when it has
	 * none.
	 */
	ioctl(v->fd, KVM_KVMCLOCK_CTRL, 0);
	set_immediate_exit(v, 0);
	while (atomic_load(&vmm->word) == word && !atomic_load(&vmm->stopped))
		run_once(v);
	retire(v);
}

/* ---- the thread ------------------------------------------------------------------------------ */

static int save_state(struct vcpu *v)
{
	int err;

	vmferry_blob_free(&v->state);
	err = vmferry_blob_new(&v->state);
	return err ? err : vmferry_kvm_save_vcpu(v->fd, v->vmm->vm_fd, v->state);
}

static void carry_out(struct vcpu *v, uint32_t word)
{
	switch (command_of(word)) {
	case VCPU_RUN:
		run_guest(v, word);
		break;
	case VCPU_SAVE:
		v->result = save_state(v);
		break;
	case VCPU_LOAD:
		v->result = vmferry_kvm_load_vcpu(v->fd, v->vmm->vm_fd, vmferry_blob_data(v->state),
						  vmferry_blob_size(v->state));
		break;
	case VCPU_PAUSE:
	case VCPU_QUIT:
		break;
	}
}

static void *vcpu_main(void *arg)
{
	struct vcpu *v = arg;
	uint32_t word = atomic_load_explicit(&v->done, memory_order_relaxed);

	if (v->vmm->config.numa_node >= 0 && numa_run_on_node(v->vmm->config.numa_node) < 0)
		vmm_warn("vcpu %u: cannot bind to NUMA node %d: %s", v->index,
			 v->vmm->config.numa_node, strerror(errno));
	do {
		word = next_word(v, word);
		carry_out(v, word);
		ack(v, word);
	} while (command_of(word) != VCPU_QUIT);
	return NULL;
}

static void on_kick(int signal)
{
	(void)signal;
}

static void install_kick(void)
{
	struct sigaction action = {.sa_handler = on_kick, .sa_flags = SA_RESTART};

	sigemptyset(&action.sa_mask);
	sigaction(KICK_SIGNAL, &action, NULL);
}

int vcpu_start(struct vcpu *vcpu)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	sigset_t mask, old;
	char name[16];
	int err;

	pthread_once(&once, install_kick);
	/* The thread inherits this: signals of the process are for others. */
	sigfillset(&mask);
	sigdelset(&mask, KICK_SIGNAL);
	pthread_sigmask(SIG_SETMASK, &mask, &old);
	err = -pthread_create(&vcpu->thread, NULL, vcpu_main, vcpu);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (err) {
		vmm_error("vcpu %u: cannot start its thread: %s", vcpu->index, strerror(-err));
		return err;
	}
	vcpu->started = true;
	snprintf(name, sizeof(name), "vcpu %u", vcpu->index);
	pthread_setname_np(vcpu->thread, name);
	return 0;
}

void vcpus_join(struct vmm *vmm)
{
	/* First all, then none is "started": a thread's last act looks at the others. */
	for (unsigned int i = 0; i < vmm->config.vcpus; i++) {
		if (vmm->vcpu[i].started)
			pthread_join(vmm->vcpu[i].thread, NULL);
	}
	for (unsigned int i = 0; i < vmm->config.vcpus; i++)
		vmm->vcpu[i].started = false;
}

int vcpu_create(struct vcpu *vcpu, struct kvm_cpuid2 *cpuid)
{
	void *run;
	int err;

	vcpu->fd = ioctl(vcpu->vmm->vm_fd, KVM_CREATE_VCPU, (unsigned long)vcpu->index);
	if (vcpu->fd < 0) {
		err = -errno;
		vmm_error("vcpu %u: kvm cannot create it: %s", vcpu->index, strerror(-err));
		return err;
	}
	/*
	 * Present from the beginning: else the first exits of a guest that has arrived wait for
	 * page faults.
	 */
	run = mmap(NULL, vcpu->vmm->run_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE,
		   vcpu->fd, 0);
	if (run == MAP_FAILED) {
		err = -errno;
		vmm_error("vcpu %u: cannot map its run area: %s", vcpu->index, strerror(-err));
		return err;
	}
	vcpu->run = run;
	if (ioctl(vcpu->fd, KVM_SET_CPUID2, cpuid) < 0) {
		err = -errno;
		vmm_error("vcpu %u: kvm does not take its cpuid: %s", vcpu->index, strerror(-err));
		return err;
	}
	return 0;
}

void vcpu_destroy(struct vcpu *vcpu)
{
	if (vcpu->run)
		munmap(vcpu->run, vcpu->vmm->run_size);
	if (vcpu->fd >= 0)
		close(vcpu->fd);
	vmferry_blob_free(&vcpu->state);
	vcpu->run = NULL;
	vcpu->fd = -1;
}
