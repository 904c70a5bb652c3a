/* SPDX-License-Identifier: MIT */
/*
 * The machine's three devices: console, heartbeat and status, all of them ports that take bytes.
 * Everything else reads as all ones, as an empty bus does.
 */
#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "internal.h"
#include "log.h"

#define PIPE_BYTES 4096u /* what a pipe that polls writable takes without blocking */

static bool writable(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	return poll(&p, 1, 0) == 1 && (p.revents & POLLOUT);
}

/*
 * Never waits: a console that nobody reads must not hold up a vCPU. Text stays in the buffer until
 * there is room, and is dropped when the buffer is full too.
 */
static void flush_locked(struct console *c)
{
	size_t done = 0;

	while (done < c->used && writable(c->fd)) {
		size_t chunk = c->used - done < PIPE_BYTES ? c->used - done : PIPE_BYTES;
		ssize_t n = write(c->fd, c->text + done, chunk);

		if (n <= 0)
			break;
		done += (size_t)n;
	}
	memmove(c->text, c->text + done, c->used - done);
	c->used -= done;
}

void console_flush(struct console *console)
{
	pthread_mutex_lock(&console->lock);
	if (console->fd >= 0)
		flush_locked(console);
	pthread_mutex_unlock(&console->lock);
}

static void console_put(struct console *c, char byte)
{
	if (c->fd < 0)
		return;
	pthread_mutex_lock(&c->lock);
	if (c->used < CONSOLE_BYTES) {
		c->text[c->used++] = byte;
	} else if (!c->lossy) {
		c->lossy = true;
		vmm_warn("console: text is dropped: nobody reads it");
	}
	if (byte == '\n' || c->used == CONSOLE_BYTES)
		flush_locked(c);
	pthread_mutex_unlock(&c->lock);
}

/* Only the vCPU's thread writes its pulse, so plain loads and stores are enough. */
static void pulse_beat(struct vcpu *v, uint64_t now)
{
	uint64_t beats = atomic_load_explicit(&v->beats, memory_order_relaxed);

	if (beats == 0) {
		atomic_store_explicit(&v->first_ns, now, memory_order_relaxed);
	} else {
		uint64_t gap = now - atomic_load_explicit(&v->last_ns, memory_order_relaxed);

		if (gap > atomic_load_explicit(&v->max_gap_ns, memory_order_relaxed))
			atomic_store_explicit(&v->max_gap_ns, gap, memory_order_relaxed);
	}
	atomic_store_explicit(&v->last_ns, now, memory_order_relaxed);
	/* release: who sees the beat sees its time. */
	atomic_store_explicit(&v->beats, beats + 1, memory_order_release);
}

static void status_put(struct vmm *vmm, uint8_t byte)
{
	switch (byte) {
	case GUEST_STATUS_READY:
		atomic_store_explicit(&vmm->ready, true, memory_order_relaxed);
		break;
	case GUEST_STATUS_FAULT:
		atomic_fetch_add_explicit(&vmm->faults, 1, memory_order_relaxed);
		break;
	case GUEST_STATUS_SCRUB:
		atomic_fetch_add_explicit(&vmm->scrubs, 1, memory_order_relaxed);
		break;
	default:
		break;
	}
}

static void port_out(struct vcpu *v, uint16_t port, uint8_t byte, uint64_t now)
{
	switch (port) {
	case GUEST_PORT_CONSOLE:
		console_put(&v->vmm->console, (char)byte);
		break;
	case GUEST_PORT_HEARTBEAT:
		pulse_beat(v, now);
		break;
	case GUEST_PORT_STATUS:
		status_put(v->vmm, byte);
		break;
	default:
		break;
	}
}

void ports_io(struct vcpu *vcpu, uint64_t now)
{
	struct kvm_run *run = vcpu->run;
	uint8_t *data = (uint8_t *)run + run->io.data_offset;

	if (run->io.direction == KVM_EXIT_IO_IN) {
		memset(data, 0xff, (size_t)run->io.size * run->io.count);
		return;
	}
	for (uint32_t i = 0; i < run->io.count; i++)
		port_out(vcpu, run->io.port, data[(size_t)i * run->io.size], now);
}
