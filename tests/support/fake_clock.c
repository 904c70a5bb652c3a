/* SPDX-License-Identifier: MIT */
/*
 * A wait with the clock stopped is a row of short real ones, with a look at the fake clock between
 * them.
 */
#include "fake_clock.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <time.h>

#define NS_PER_S  1000000000ull
#define NS_PER_MS 1000000ull
#define SLICE_MS  1
/* Of the real clock, for what happens in no time unless the machine is busy. */
#define SOON_MS 20000

/* The linker makes these names. */
int __real_clock_gettime(clockid_t clock, struct timespec *ts);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ts);
int __real_poll(struct pollfd *fds, nfds_t count, int ms);
int __wrap_poll(struct pollfd *fds, nfds_t count, int ms);
int __real_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *left,
		 const sigset_t *mask);
int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *left,
		 const sigset_t *mask);
int __real_epoll_wait(int fd, struct epoll_event *events, int most, int ms);
int __wrap_epoll_wait(int fd, struct epoll_event *events, int most, int ms);
int __real_pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock,
				  const struct timespec *until);
int __wrap_pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock,
				  const struct timespec *until);

/* Zero while the clock runs. */
static _Atomic uint64_t stopped_at;
static _Thread_local bool rushes;
static _Thread_local _Atomic unsigned int *watched;

static uint64_t nanoseconds(const struct timespec *ts)
{
	return (uint64_t)ts->tv_sec * NS_PER_S + (uint64_t)ts->tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
	return (struct timespec){.tv_sec = (time_t)(ns / NS_PER_S),
				 .tv_nsec = (long)(ns % NS_PER_S)};
}

static uint64_t real_now(void)
{
	struct timespec ts;

	__real_clock_gettime(CLOCK_MONOTONIC, &ts);
	return nanoseconds(&ts);
}

static bool is_stopped(void)
{
	return atomic_load(&stopped_at) != 0;
}

static void move_to(uint64_t when)
{
	uint64_t now = atomic_load(&stopped_at);

	while (now < when && !atomic_compare_exchange_weak(&stopped_at, &now, when))
		continue;
}

static void count_wait(void)
{
	if (watched != NULL)
		atomic_fetch_add(watched, 1);
}

/* Whether a wait that has found no event is over. */
static bool has_passed(uint64_t deadline)
{
	if (rushes)
		move_to(deadline);
	return atomic_load(&stopped_at) >= deadline;
}

void fake_clock_stop(void)
{
	uint64_t running = 0;

	atomic_compare_exchange_strong(&stopped_at, &running, real_now());
}

void fake_clock_pass(uint64_t ns)
{
	atomic_fetch_add(&stopped_at, ns);
}

void fake_clock_rush(bool rush)
{
	rushes = rush;
}

void fake_clock_watch(_Atomic unsigned int *waits)
{
	watched = waits;
}

bool fake_clock_waits(const _Atomic unsigned int *waits)
{
	for (int i = 0; i < SOON_MS && atomic_load(waits) == 0; i++)
		__real_poll(NULL, 0, 1);
	return atomic_load(waits) > 0;
}

int __wrap_clock_gettime(clockid_t clock, struct timespec *ts)
{
	if (clock != CLOCK_MONOTONIC || !is_stopped())
		return __real_clock_gettime(clock, ts);
	*ts = timespec_of(atomic_load(&stopped_at));
	return 0;
}

/* Both forms of poll: @left nanoseconds, or for ever. */
static int poll_stopped(struct pollfd *fds, nfds_t count, uint64_t left)
{
	uint64_t now = atomic_load(&stopped_at);
	uint64_t deadline = left < UINT64_MAX - now ? now + left : UINT64_MAX;
	int n = __real_poll(fds, count, 0);

	if (n == 0)
		count_wait();
	while (n == 0 && !has_passed(deadline))
		n = __real_poll(fds, count, SLICE_MS);
	return n;
}

int __wrap_poll(struct pollfd *fds, nfds_t count, int ms)
{
	if (ms <= 0 || !is_stopped())
		return __real_poll(fds, count, ms);
	return poll_stopped(fds, count, (uint64_t)ms * NS_PER_MS);
}

int __wrap_ppoll(struct pollfd *fds, nfds_t count, const struct timespec *left,
		 const sigset_t *mask)
{
	if (left == NULL || mask != NULL || !is_stopped())
		return __real_ppoll(fds, count, left, mask);
	return poll_stopped(fds, count, nanoseconds(left));
}

int __wrap_epoll_wait(int fd, struct epoll_event *events, int most, int ms)
{
	uint64_t deadline;
	int n;

	if (ms <= 0 || !is_stopped())
		return __real_epoll_wait(fd, events, most, ms);
	deadline = atomic_load(&stopped_at) + (uint64_t)ms * NS_PER_MS;
	n = __real_epoll_wait(fd, events, most, 0);
	if (n == 0)
		count_wait();
	while (n == 0 && !has_passed(deadline))
		n = __real_epoll_wait(fd, events, most, SLICE_MS);
	return n;
}

/*
 * Ends without a signal after each slice, as it may: the caller looks again at what it waits for.
 * Were the slices strung together here, a signal between two of them would be lost.
 */
int __wrap_pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock,
				  const struct timespec *until)
{
	struct timespec slice;
	int ret;

	if (clock != CLOCK_MONOTONIC || !is_stopped())
		return __real_pthread_cond_clockwait(cond, mutex, clock, until);
	count_wait();
	if (has_passed(nanoseconds(until)))
		return ETIMEDOUT;
	slice = timespec_of(real_now() + SLICE_MS * NS_PER_MS);
	ret = __real_pthread_cond_clockwait(cond, mutex, clock, &slice);
	return ret == ETIMEDOUT ? 0 : ret;
}
