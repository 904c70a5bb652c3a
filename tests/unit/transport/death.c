/* SPDX-License-Identifier: MIT */
/*
 * Peers that are killed, and sessions that are shut down while others wait in them. The clock
 * stands still meanwhile: what ends a wait is the end of its session, and no deadline.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pair.h"
#include "support/fake_clock.h"

#define SIZE (64ull << 20)

enum call { RECV, FENCE_WAIT, LANE_FENCE_WAIT, WRITE, READ, CALLS };

struct waiting {
	struct vmferry_session *session;
	struct vmferry_memory *memory;
	unsigned int lane;
	enum call call;
	int ret;
	_Atomic unsigned int waits;
	pthread_t thread;
};

static int write_until_it_ends(const struct waiting *w)
{
	struct vmferry_write one = {w->memory, 0, 0, 1 << 20};
	int ret;

	do {
		ret = vmferry_lane_write(w->session, w->lane, &one, 1, PATIENT);
	} while (ret > 0);
	return ret;
}

static void *wait_thread(void *arg)
{
	struct waiting *w = arg;
	struct vmferry_message m;

	fake_clock_watch(&w->waits);
	switch (w->call) {
	case RECV:
		w->ret = vmferry_recv(w->session, &m, PATIENT);
		break;
	case FENCE_WAIT:
		w->ret = vmferry_fence_wait(w->session, 1, PATIENT);
		break;
	case LANE_FENCE_WAIT:
		w->ret = vmferry_lane_fence_wait(w->session, w->lane, 1, PATIENT);
		break;
	case WRITE:
		w->ret = write_until_it_ends(w);
		break;
	case READ:
		w->ret = vmferry_lane_read(w->session, w->lane, w->memory, 0, 0, 1 << 20, PATIENT);
		break;
	default:
		break;
	}
	return NULL;
}

/* Begins calls, and returns once each of them waits. */
static void begin(struct waiting *w, unsigned int count)
{
	fake_clock_stop();
	for (unsigned int i = 0; i < count; i++)
		cr_assert_eq(pthread_create(&w[i].thread, NULL, wait_thread, &w[i]), 0);
	for (unsigned int i = 0; i < count; i++)
		cr_assert(fake_clock_waits(&w[i].waits), "call %d does not wait", w[i].call);
}

static void expect_end(struct waiting *w, int error)
{
	pthread_join(w->thread, NULL);
	cr_expect_eq(w->ret, error, "call %d: %d", w->call, w->ret);
}

/*
 * The other end, in a process of its own, which is stopped (so that it neither reads nor answers)
 * and then killed.
 */
static pid_t spawn(struct vmferry_listener *listener, bool is_source)
{
	const char *uri = vmferry_listener_uri(listener);
	pid_t pid = fork();

	if (pid == 0) {
		struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 3};
		struct vmferry_session *s = NULL;
		int ret = is_source ? vmferry_connect(uri, &o, PATIENT, &s)
				    : vmferry_accept(listener, PATIENT, &s);

		if (ret < 0)
			_exit(1);
		for (;;)
			pause();
	}
	return pid;
}

static void kill_and_reap(pid_t pid)
{
	int status;

	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
}

Test(death, destination_killed__every_wait_of_the_source_ends, .timeout = 120)
{
	struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 3};
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *s = NULL;
	struct vmferry_memory *m = NULL;
	void *pages = pages_new(SIZE, 1);
	pid_t pid;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	pid = spawn(listener, false);
	cr_assert_eq(vmferry_connect(vmferry_listener_uri(listener), &o, PATIENT, &s), 0);
	cr_assert_eq(vmferry_register(s, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	struct waiting w[] = {
		{.session = s, .call = RECV},
		{.session = s, .call = LANE_FENCE_WAIT, .lane = 0},
		{.session = s, .call = WRITE, .lane = 1, .memory = m},
		{.session = s, .call = READ, .lane = 2, .memory = m},
	};

	kill(pid, SIGSTOP);
	begin(w, 4);
	kill_and_reap(pid);
	for (unsigned int i = 0; i < 4; i++)
		expect_end(&w[i], -ECONNRESET);
	cr_expect_eq(vmferry_lane_fence(s, 0, 1, PATIENT), -ECONNRESET);
	vmferry_deregister(&m);
	vmferry_session_close(&s);
	vmferry_listener_close(&listener);
	pages_free(pages, SIZE);
}

Test(death, source_killed__every_wait_of_the_destination_ends, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *s = NULL;
	pid_t pid;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	pid = spawn(listener, true);
	cr_assert_eq(vmferry_accept(listener, PATIENT, &s), 0);
	struct waiting w[] = {
		{.session = s, .call = RECV},
		{.session = s, .call = FENCE_WAIT},
	};

	begin(w, 2);
	kill_and_reap(pid);
	expect_end(&w[0], -ECONNRESET);
	expect_end(&w[1], -ECONNRESET);
	vmferry_session_close(&s);
	vmferry_listener_close(&listener);
}

Test(death, source_killed_while_accepted__accept_goes_on, .timeout = 120)
{
	struct vmferry_listener *listener = NULL;
	struct accepting a;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	for (unsigned int i = 0; i < 10; i++) {
		pid_t pid = spawn(listener, true);

		accept_begin(&a, listener, vmferry_now() + 100 * MS);
		usleep(i * 500);
		kill_and_reap(pid);
		if (accept_end(&a) == 0)
			vmferry_session_close(&a.session);
		else
			cr_expect_eq(a.ret, -ETIMEDOUT);
	}
	expect_good_source(listener, 2);
	vmferry_listener_close(&listener);
}

Test(death, shutdown__cancels_every_wait_and_later_calls, .timeout = 120)
{
	struct vmferry_memory *m = NULL;
	struct vmferry_message message;
	void *pages = pages_new(SIZE, 1);
	struct pair pair;

	pair_open(&pair, 2);
	cr_assert_eq(vmferry_register(pair.source, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	struct waiting w[] = {
		{.session = pair.source, .call = RECV},
		{.session = pair.source, .call = LANE_FENCE_WAIT},
		{.session = pair.destination, .call = FENCE_WAIT},
	};

	begin(w, 3);
	vmferry_session_shutdown(pair.destination);
	expect_end(&w[2], -ECANCELED);
	vmferry_session_shutdown(pair.source);
	vmferry_session_shutdown(pair.source);
	pthread_join(w[0].thread, NULL);
	pthread_join(w[1].thread, NULL);
	/* The source may have heard of its peer's end before its own came. */
	cr_expect(w[0].ret == -ECANCELED || w[0].ret == -ECONNRESET, "%d", w[0].ret);
	cr_expect(w[1].ret == -ECANCELED || w[1].ret == -ECONNRESET, "%d", w[1].ret);
	cr_expect_eq(vmferry_recv(pair.destination, &message, PATIENT), -ECANCELED);
	cr_expect_eq(vmferry_send(pair.destination, VMFERRY_CONTROL, 1, "", 0, PATIENT),
		     -ECANCELED);
	cr_expect_eq(vmferry_fence_wait(pair.destination, 1, PATIENT), -ECANCELED);
	vmferry_deregister(&m);
	pair_close(&pair);
	pages_free(pages, SIZE);
}

Test(death, shutdown_of_the_source__ecanceled, .timeout = 120)
{
	struct vmferry_memory *m = NULL;
	void *pages = pages_new(SIZE, 1);
	struct pair pair;

	pair_open(&pair, 2);
	cr_assert_eq(vmferry_register(pair.source, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	struct waiting w[] = {
		{.session = pair.source, .call = RECV},
		{.session = pair.source, .call = LANE_FENCE_WAIT},
	};

	begin(w, 2);
	vmferry_session_shutdown(pair.source);
	expect_end(&w[0], -ECANCELED);
	expect_end(&w[1], -ECANCELED);
	vmferry_deregister(&m);
	pair_close(&pair);
	pages_free(pages, SIZE);
}
