/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "nic.h"

#define MISUSE_AFTER_S 5

static const struct fake_limits default_limits = {
	.max_qp_wr = 16384,
	.max_cqe = 32767,
	.max_sge = NIC_SGES,
	.max_inline = 512,
	.max_mr = NIC_MRS - 1,
	.max_mr_size = UINT64_MAX / 2,
	.max_message = 8u << 20,
	.max_reads_in = 16,
	.max_reads_out = 16,
	.active_mtu = IBV_MTU_4096,
	.state = IBV_PORT_ACTIVE,
	.forking = IBV_FORK_UNNEEDED,
};

struct nic nic = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t made = PTHREAD_ONCE_INIT;

static void set_defaults(void)
{
	nic.limits = default_limits;
	memset(&nic.counts, 0, sizeof(nic.counts));
	memset(&nic.script, 0, sizeof(nic.script));
	nic.script.failed = FAKE_CALLS;
	nic.random = 0x9e3779b97f4a7c15;
	nic.qp_numbers = 0x10;
	nic.next_port = 20000;
	nic_devices_make();
}

static void make(void)
{
	pthread_condattr_t monotonic;

	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&nic.wire, &monotonic);
	pthread_cond_init(&nic.settled, &monotonic);
	TAILQ_INIT(&nic.qps);
	TAILQ_INIT(&nic.ids);
	set_defaults();
}

void nic_lock(void)
{
	pthread_once(&made, make);
	pthread_mutex_lock(&nic.lock);
}

void nic_unlock(void)
{
	pthread_mutex_unlock(&nic.lock);
}

void fake_reset(void)
{
	if (fake_leaks())
		nic_misuse("fake_reset() while something is alive");
	nic_wire_stop();
	nic_lock();
	nic_devices_free();
	set_defaults();
	nic_unlock();
}

void fake_forget(void)
{
	/* It lets events go that were kept. */
	fake_hold_cm(false);
	nic_lock();
	nic.script = (struct nic_script){.calls = nic.script.calls, .failed = FAKE_CALLS};
	nic_wire_kick();
	nic_unlock();
}

void fake_seed(uint64_t seed)
{
	nic_lock();
	nic.random = (seed * 0x9e3779b97f4a7c15) | 1;
	nic_unlock();
}

uint64_t nic_random(uint64_t below)
{
	nic.random ^= nic.random << 13;
	nic.random ^= nic.random >> 7;
	nic.random ^= nic.random << 17;
	/*
	 * The low bits of this generator are poor, and those of the first numbers from a small seed
	 * all the more.
	 */
	return (nic.random * 0x2545f4914f6cdd1d >> 33) % below;
}

_Noreturn void nic_misuse(const char *what)
{
	fprintf(stderr, "fake RDMA device: %s\n", what);
	abort();
}

void *nic_alloc(size_t count, size_t size)
{
	void *memory = calloc(count, size);

	if (memory == NULL)
		nic_misuse("no memory");
	return memory;
}

void *nic_null(int error)
{
	nic_unlock();
	errno = error;
	return NULL;
}

int nic_minus(int error)
{
	nic_unlock();
	if (error == 0)
		return 0;
	errno = error;
	return -1;
}

void nic_settle(const unsigned int *count, const char *what)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += MISUSE_AFTER_S;
	while (*count > 0)
		if (pthread_cond_clockwait(&nic.settled, &nic.lock, CLOCK_MONOTONIC, &until) ==
			    ETIMEDOUT &&
		    *count > 0)
			nic_misuse(what);
}

/* ---- what fails ------------------------------------------------------------------------------ */

int nic_scripted(enum fake_call call)
{
	int error = 0;

	if (nic.script.at[call] > 0 && --nic.script.at[call] == 0)
		error = nic.script.error[call];
	if (call >= FAKE_POST_SEND)
		return error;
	nic.script.calls++;
	if (nic.script.call_at > 0 && --nic.script.call_at == 0) {
		nic.script.failed = call;
		error = nic.script.call_error;
	}
	return error;
}

void fake_fail_at(enum fake_call call, unsigned int nth, int error)
{
	nic_lock();
	nic.script.at[call] = nth;
	nic.script.error[call] = error;
	nic_unlock();
}

bool fake_reached(void)
{
	bool reached;

	nic_lock();
	reached = nic.script.call_at == 0 && nic.script.wr_at == 0;
	for (unsigned int i = 0; i < FAKE_CALLS; i++)
		reached = reached && nic.script.at[i] == 0;
	nic_unlock();
	return reached;
}

unsigned int fake_calls(void)
{
	unsigned int calls;

	nic_lock();
	calls = nic.script.calls;
	nic_unlock();
	return calls;
}

void fake_fail_call(unsigned int nth, int error)
{
	nic_lock();
	nic.script.call_at = nth;
	nic.script.call_error = error;
	nic.script.failed = FAKE_CALLS;
	nic_unlock();
}

enum fake_call fake_failed(void)
{
	enum fake_call call;

	nic_lock();
	call = nic.script.failed;
	nic_unlock();
	return call;
}

/* ---- limits and counters --------------------------------------------------------------------- */

void fake_limits_get(struct fake_limits *limits)
{
	nic_lock();
	*limits = nic.limits;
	nic_unlock();
}

void fake_limits_set(const struct fake_limits *limits)
{
	nic_lock();
	nic.limits = *limits;
	if (nic.limits.max_sge > NIC_SGES || nic.limits.max_mr >= NIC_MRS)
		nic_misuse("limits beyond what the fake can");
	nic_unlock();
}

void fake_counts(struct fake_counts *counts)
{
	nic_lock();
	*counts = nic.counts;
	nic_unlock();
}

bool fake_leaks(void)
{
	struct fake_counts counts;
	bool leaks = false;

	fake_counts(&counts);

	const struct {
		const char *name;
		unsigned int count;
	} all[] = {
		{"contexts", counts.live.contexts},
		{"protection domains", counts.live.pds},
		{"memory regions", counts.live.mrs},
		{"completion channels", counts.live.comp_channels},
		{"completion queues", counts.live.cqs},
		{"queue pairs", counts.live.qps},
		{"event channels", counts.live.event_channels},
		{"identifiers", counts.live.ids},
		{"device lists", counts.live.device_lists},
	};

	for (unsigned int i = 0; i < sizeof(all) / sizeof(all[0]); i++) {
		if (all[i].count == 0)
			continue;
		fprintf(stderr, "fake RDMA device: %u %s left\n", all[i].count, all[i].name);
		leaks = true;
	}
	return leaks;
}

/* ---- latches --------------------------------------------------------------------------------- */

void latch_open(struct latch *latch)
{
	latch->raised = false;
	latch->fd = eventfd(0, EFD_CLOEXEC);
	if (latch->fd < 0)
		nic_misuse("no file descriptor");
}

void latch_close(struct latch *latch)
{
	close(latch->fd);
}

/* Under the lock, and the descriptor's count is 0 or 1: neither call can block. */
void latch_set(struct latch *latch, bool raised)
{
	eventfd_t value;

	if (raised == latch->raised)
		return;
	if (raised)
		eventfd_write(latch->fd, 1);
	else
		eventfd_read(latch->fd, &value);
	latch->raised = raised;
}

int nic_latch_wait(struct latch *latch)
{
	struct pollfd fd = {.fd = latch->fd, .events = POLLIN};

	while (!latch->raised) {
		if (fcntl(latch->fd, F_GETFL) & O_NONBLOCK)
			return EAGAIN;
		nic_unlock();
		poll(&fd, 1, 100);
		nic_lock();
	}
	return 0;
}
