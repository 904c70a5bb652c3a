/* SPDX-License-Identifier: MIT */
#include "beats.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <unistd.h>

#include "../migrator/vmm/guest/abi.h"
#include "measure.h"

#define FDS ((size_t)2 * BEATS_SIDES)

static struct pollfd fds[FDS]; /* the thread's: beat and status of each side */
static struct beats_view seen; /* guarded by lock */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void beat(size_t side, uint64_t now, uint64_t count)
{
	if (seen.count[side] == 0)
		seen.first_ns[side] = now;
	else if (now - seen.last_ns[side] > seen.max_gap_ns[side])
		seen.max_gap_ns[side] = now - seen.last_ns[side];
	seen.last_ns[side] = now;
	seen.count[side] += count;
}

static void status(size_t side, const char *bytes, uint64_t count)
{
	for (uint64_t i = 0; i < count; i++) {
		if (bytes[i] == GUEST_STATUS_READY)
			seen.ready = true;
		else if (bytes[i] == GUEST_STATUS_FAULT)
			seen.faults++;
		else if (bytes[i] == GUEST_STATUS_SCRUB)
			seen.scrubs[side]++;
	}
}

static void take(size_t i)
{
	char bytes[4096];
	ssize_t n = read(fds[i].fd, bytes, sizeof(bytes));
	uint64_t now = now_ns();

	if (n <= 0) {
		if (n == 0 || errno != EINTR)
			fds[i].fd = -1;
		return;
	}
	pthread_mutex_lock(&lock);
	if (i % 2 == 0)
		beat(i / 2, now, (uint64_t)n);
	else
		status(i / 2, bytes, (uint64_t)n);
	pthread_mutex_unlock(&lock);
}

static void *watch(void *arg)
{
	be_prompt();
	for (;;) {
		if (poll(fds, FDS, -1) <= 0)
			continue;
		for (size_t i = 0; i < FDS; i++) {
			if (fds[i].revents != 0)
				take(i);
		}
	}
	return arg;
}

void beats_start(const struct beats_side sides[BEATS_SIDES])
{
	pthread_t thread;
	int rc;

	for (size_t i = 0; i < BEATS_SIDES; i++) {
		fds[2 * i] = (struct pollfd){.fd = sides[i].beat_fd, .events = POLLIN};
		fds[2 * i + 1] = (struct pollfd){.fd = sides[i].status_fd, .events = POLLIN};
	}
	rc = pthread_create(&thread, NULL, watch, NULL);
	if (rc != 0)
		die("no thread to watch the guest: %s", strerror(rc));
	pthread_detach(thread);
}

void beats_look(struct beats_view *view)
{
	pthread_mutex_lock(&lock);
	*view = seen;
	pthread_mutex_unlock(&lock);
}

void beats_forget_gaps(void)
{
	pthread_mutex_lock(&lock);
	memset(seen.max_gap_ns, 0, sizeof(seen.max_gap_ns));
	pthread_mutex_unlock(&lock);
}
