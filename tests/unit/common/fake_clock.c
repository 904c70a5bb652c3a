/* SPDX-License-Identifier: MIT */
/* The fake clock itself, so that what the other tests find out by it is true. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "common/clock.h"
#include "support/fake_clock.h"

#define HOUR (3600 * NS_PER_S)

TestSuite(fake_clock, .timeout = 60);

struct waiter {
	pthread_mutex_t lock;
	pthread_cond_t come;
	bool has_come;
	uint64_t deadline;
	uint64_t ended;
	int ret;
	_Atomic unsigned int waits;
	pthread_t thread;
};

static struct waiter waiter = {.lock = PTHREAD_MUTEX_INITIALIZER, .come = PTHREAD_COND_INITIALIZER};

static void *wait_thread(void *arg)
{
	struct timespec until = deadline_timespec(waiter.deadline);

	(void)arg;
	fake_clock_watch(&waiter.waits);
	pthread_mutex_lock(&waiter.lock);
	while (waiter.ret == 0 && !waiter.has_come)
		waiter.ret =
			pthread_cond_clockwait(&waiter.come, &waiter.lock, CLOCK_MONOTONIC, &until);
	pthread_mutex_unlock(&waiter.lock);
	waiter.ended = vmferry_now();
	return NULL;
}

static void begin(void)
{
	fake_clock_stop();
	waiter.deadline = vmferry_now() + HOUR;
	cr_assert_eq(pthread_create(&waiter.thread, NULL, wait_thread, NULL), 0);
	cr_assert(fake_clock_waits(&waiter.waits));
}

Test(fake_clock, stopped__the_same_time_until_it_is_moved)
{
	uint64_t before = vmferry_now(), stopped;

	fake_clock_stop();
	stopped = vmferry_now();
	cr_assert_geq(stopped, before);
	usleep(2000);
	cr_expect_eq(vmferry_now(), stopped);
	fake_clock_stop();
	cr_expect_eq(vmferry_now(), stopped);
	fake_clock_pass(HOUR);
	cr_expect_eq(vmferry_now(), stopped + HOUR);
}

Test(fake_clock, condition_at_its_deadline__times_out)
{
	begin();
	fake_clock_pass(HOUR);
	pthread_join(waiter.thread, NULL);
	cr_expect_eq(waiter.ret, ETIMEDOUT);
	cr_expect_eq(waiter.ended, waiter.deadline);
}

Test(fake_clock, condition_signalled__time_has_not_passed)
{
	begin();
	pthread_mutex_lock(&waiter.lock);
	waiter.has_come = true;
	pthread_cond_signal(&waiter.come);
	pthread_mutex_unlock(&waiter.lock);
	pthread_join(waiter.thread, NULL);
	cr_expect_eq(waiter.ret, 0);
	cr_expect_eq(waiter.ended, waiter.deadline - HOUR);
}

static void *poll_thread(void *arg)
{
	struct pollfd p = {.fd = *(int *)arg, .events = POLLIN};

	fake_clock_watch(&waiter.waits);
	waiter.ret = poll(&p, 1, deadline_poll_ms(waiter.deadline));
	waiter.ended = vmferry_now();
	return NULL;
}

Test(fake_clock, poll__ends_by_the_event_or_by_time_that_is_moved)
{
	int fd = eventfd(0, EFD_CLOEXEC);

	fake_clock_stop();
	for (int has_event = 0; has_event < 2; has_event++) {
		atomic_store(&waiter.waits, 0);
		waiter.deadline = vmferry_now() + HOUR;
		cr_assert_eq(pthread_create(&waiter.thread, NULL, poll_thread, &fd), 0);
		cr_assert(fake_clock_waits(&waiter.waits));
		if (has_event)
			eventfd_write(fd, 1);
		else
			fake_clock_pass(HOUR);
		pthread_join(waiter.thread, NULL);
		cr_expect_eq(waiter.ret, has_event);
		cr_expect_eq(waiter.ended, waiter.deadline - (has_event ? HOUR : 0));
	}
	close(fd);
}

Test(fake_clock, rush__waits_without_an_event_end_at_their_deadline_at_once)
{
	struct epoll_event event = {.events = EPOLLIN};
	int fd = eventfd(0, EFD_CLOEXEC), epoll = epoll_create1(EPOLL_CLOEXEC);
	struct pollfd p = {.fd = fd, .events = POLLIN};
	const struct timespec hour = {.tv_sec = 3600};
	uint64_t begun;

	cr_assert_eq(epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event), 0);
	fake_clock_stop();
	fake_clock_rush(true);
	begun = vmferry_now();
	cr_expect_eq(ppoll(&p, 1, &hour, NULL), 0);
	cr_expect_eq(vmferry_now(), begun + HOUR);
	cr_expect_eq(epoll_wait(epoll, &event, 1, 1000), 0);
	cr_expect_eq(vmferry_now(), begun + HOUR + NS_PER_S);
	eventfd_write(fd, 1);
	cr_expect_eq(ppoll(&p, 1, &hour, NULL), 1);
	cr_expect_eq(epoll_wait(epoll, &event, 1, 1000), 1);
	cr_expect_eq(vmferry_now(), begun + HOUR + NS_PER_S);
	waiter.deadline = begun + 3 * HOUR;
	wait_thread(NULL);
	cr_expect_eq(waiter.ret, ETIMEDOUT);
	cr_expect_eq(waiter.ended, waiter.deadline);
	close(epoll);
	close(fd);
}
