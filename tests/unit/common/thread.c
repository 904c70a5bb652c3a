/* SPDX-License-Identifier: MIT */
/* Threads of the library: no signal of the program ends there, and each has its name. */
#include <criterion/criterion.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>

#include "common/thread.h"

TestSuite(thread, .timeout = 20);

struct seen {
	sigset_t blocked;
	bool named;
};

static void *look(void *arg)
{
	struct seen *seen = arg;
	char name[THREAD_NAME_MAX] = "";

	pthread_sigmask(SIG_SETMASK, NULL, &seen->blocked);
	pthread_getname_np(pthread_self(), name, sizeof(name));
	seen->named = strcmp(name, "vmf-a-long-name") == 0;
	return NULL;
}

Test(thread, started__blocks_signals_and_has_a_name)
{
	static struct seen seen;
	sigset_t own;
	pthread_t thread;

	cr_assert_eq(thread_start(&thread, "vmf-a-long-name-that-is-cut", look, &seen), 0);
	pthread_join(thread, NULL);
	cr_expect(seen.named);
	for (int signal = 1; signal < SIGRTMAX; signal++)
		if (signal != SIGKILL && signal != SIGSTOP && (signal < 32 || signal >= SIGRTMIN))
			cr_expect_eq(sigismember(&seen.blocked, signal), 1, "signal %d", signal);
	pthread_sigmask(SIG_SETMASK, NULL, &own);
	cr_expect_eq(sigismember(&own, SIGTERM), 0, "the starter's mask has changed");
}
