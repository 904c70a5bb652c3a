/* SPDX-License-Identifier: MIT */
/* Peers that are killed, and sessions that are shut down while others wait in them. */
#include <criterion/criterion.h>
#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pair.h"

#define SIZE (64ull << 20)

enum call { RECV, FENCE_WAIT, LANE_FENCE_WAIT, WRITE, READ, CALLS };

struct waiting {
	struct vmferry_session *session;
	struct vmferry_memory *memory;
	unsigned int lane;
	enum call call;
	int ret;
	uint64_t ended;
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
	w->ended = vmferry_now();
	return NULL;
}

static void begin(struct waiting *w, struct vmferry_session *session, enum call call,
		  unsigned int lane, struct vmferry_memory *memory)
{
	*w = (struct waiting){.session = session, .call = call, .lane = lane, .memory = memory};
	pthread_create(&w->thread, NULL, wait_thread, w);
}

static void expect_end(struct waiting *w, uint64_t since, int error)
{
	pthread_join(w->thread, NULL);
	cr_expect_eq(w->ret, error, "call %d: %d", w->call, w->ret);
	cr_expect_lt(w->ended - since, 1000 * MS, "call %d", w->call);
}

/* The other end, in a process of its own, which is stopped (so that it neither reads nor answers) and then killed. */
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

Test(death, destination_killed__every_wait_of_the_source_ends, .timeout = 30)
{
	struct vmferry_transport_options o = {.size = sizeof(o), .lanes = 3};
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *s = NULL;
	struct vmferry_memory *m = NULL;
	struct waiting w[4];
	void *pages = pages_new(SIZE, 1);
	uint64_t killed;
	pid_t pid;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	pid = spawn(listener, false);
	cr_assert_eq(vmferry_connect(vmferry_listener_uri(listener), &o, PATIENT, &s), 0);
	cr_assert_eq(vmferry_register(s, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	kill(pid, SIGSTOP);
	begin(&w[0], s, RECV, 0, m);
	begin(&w[1], s, LANE_FENCE_WAIT, 0, m);
	begin(&w[2], s, WRITE, 1, m);
	begin(&w[3], s, READ, 2, m);
	usleep(200000);
	killed = vmferry_now();
	kill_and_reap(pid);
	for (unsigned int i = 0; i < 4; i++)
		expect_end(&w[i], killed, -ECONNRESET);
	cr_expect_eq(vmferry_lane_fence(s, 0, 1, PATIENT), -ECONNRESET);
	vmferry_deregister(&m);
	vmferry_session_close(&s);
	vmferry_listener_close(&listener);
	pages_free(pages, SIZE);
}

Test(death, source_killed__every_wait_of_the_destination_ends, .timeout = 30)
{
	struct vmferry_listener *listener = NULL;
	struct vmferry_session *s = NULL;
	struct waiting w[2];
	uint64_t killed;
	pid_t pid;

	cr_assert_eq(vmferry_listen(LOOP, NULL, &listener), 0);
	pid = spawn(listener, true);
	cr_assert_eq(vmferry_accept(listener, PATIENT, &s), 0);
	begin(&w[0], s, RECV, 0, NULL);
	begin(&w[1], s, FENCE_WAIT, 0, NULL);
	usleep(100000);
	killed = vmferry_now();
	kill_and_reap(pid);
	expect_end(&w[0], killed, -ECONNRESET);
	expect_end(&w[1], killed, -ECONNRESET);
	killed = vmferry_now();
	vmferry_session_close(&s);
	cr_expect_lt(vmferry_now() - killed, 1000 * MS);
	vmferry_listener_close(&listener);
}

Test(death, source_killed_while_accepted__accept_goes_on, .timeout = 30)
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

Test(death, shutdown__cancels_every_wait_and_later_calls, .timeout = 30)
{
	struct vmferry_memory *m = NULL;
	struct waiting w[3];
	struct vmferry_message message;
	void *pages = pages_new(SIZE, 1);
	struct pair pair;
	uint64_t begun;

	pair_open(&pair, 2);
	cr_assert_eq(vmferry_register(pair.source, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	begin(&w[0], pair.source, RECV, 0, m);
	begin(&w[1], pair.source, LANE_FENCE_WAIT, 0, m);
	begin(&w[2], pair.destination, FENCE_WAIT, 0, m);
	usleep(50000);
	begun = vmferry_now();
	vmferry_session_shutdown(pair.destination);
	expect_end(&w[2], begun, -ECANCELED);
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

Test(death, shutdown_of_the_source__ecanceled, .timeout = 30)
{
	struct vmferry_memory *m = NULL;
	struct waiting w[2];
	void *pages = pages_new(SIZE, 1);
	struct pair pair;
	uint64_t begun;

	pair_open(&pair, 2);
	cr_assert_eq(vmferry_register(pair.source, pages, SIZE, 0, VMFERRY_ACCESS_LOCAL, &m), 0);
	begin(&w[0], pair.source, RECV, 0, m);
	begin(&w[1], pair.source, LANE_FENCE_WAIT, 0, m);
	usleep(50000);
	begun = vmferry_now();
	vmferry_session_shutdown(pair.source);
	expect_end(&w[0], begun, -ECANCELED);
	expect_end(&w[1], begun, -ECANCELED);
	vmferry_deregister(&m);
	pair_close(&pair);
	pages_free(pages, SIZE);
}
