/* SPDX-License-Identifier: MIT */
#include "thread.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

struct start {
	char name[THREAD_NAME_MAX];
	void *(*main)(void *);
	void *arg;
};

/* The thread names itself, so that it has its name before it does anything. */
static void *named(void *arg)
{
	struct start start = *(struct start *)arg;

	free(arg);
	pthread_setname_np(pthread_self(), start.name);
	return start.main(start.arg);
}

int thread_start(pthread_t *thread, const char *name, void *(*main)(void *), void *arg)
{
	struct start *start = malloc(sizeof(*start));
	sigset_t all;
	sigset_t before;
	int error;

	if (start == NULL)
		return -ENOMEM;
	*start = (struct start){.main = main, .arg = arg};
	snprintf(start->name, sizeof(start->name), "%s", name);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	error = pthread_create(thread, NULL, named, start);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error != 0)
		free(start);
	return -error;
}
