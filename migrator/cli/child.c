/* SPDX-License-Identifier: MIT */
/* fork(2) without exec: both halves are this program, and the parent has no threads. */
#include "child.h"

#include <errno.h>
#include <json-c/json.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "control.h"
#include "exit.h"
#include "units.h"

#define ANSWER_NS (10 * NS_PER_S)
#define END_NS	  (5 * NS_PER_S)

static void live(struct child *child, int control_fd, struct log *log, child_fn fn, void *ctx)
{
	struct host_setup setup = {
		.control = child->path, .control_fd = control_fd, .quiet = true, .log = log};
	struct host *host;
	int code = EXIT_FAILED;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/*
	 * A terminal sends Ctrl-C to the whole group; it is the parent's to decide what it means.
	 */
	setpgid(0, 0);
	if (host_new(&setup, &host) == 0) {
		code = fn(ctx, host);
		host_free(&host);
	}
	exit(code);
}

int child_start(struct child *child, const char *name, const char *directory, struct log *log,
		child_fn fn, void *ctx)
{
	int fd;
	int rc;

	child->name = name;
	snprintf(child->path, sizeof(child->path), "%s/%s", directory, name);
	/* Listening before the fork, so that connecting never comes too early. */
	rc = control_listen(child->path, &fd);
	if (rc < 0)
		return rc;
	fflush(NULL);
	child->pid = fork();
	if (child->pid == 0)
		live(child, fd, log, fn, ctx);
	rc = child->pid < 0 ? -errno : 0;
	close(fd);
	if (rc < 0) {
		child->pid = 0;
		fprintf(stderr, "vmferry: fork: %s: end other programs\n", strerror(-rc));
		unlink(child->path);
		return rc;
	}
	return client_connect(child->path, &child->client);
}

int child_status(struct child *child, int signal_fd, struct json_object **status)
{
	int rc = client_ask(child->client, "status", signal_fd, vmferry_now() + ANSWER_NS, status);

	if (rc < 0 && rc != -EINTR)
		fprintf(stderr, "vmferry: the %s process: %s: see what it said above\n",
			child->name, rc == -ECONNRESET ? "it is gone" : strerror(-rc));
	return rc;
}

static bool ended(pid_t pid, uint64_t deadline)
{
	const struct timespec pause = {.tv_nsec = 2 * (long)NS_PER_MS};

	while (waitpid(pid, NULL, WNOHANG) == 0) {
		if (vmferry_now() >= deadline)
			return false;
		nanosleep(&pause, NULL);
	}
	return true;
}

void child_reap(pid_t pid, uint64_t deadline)
{
	if (ended(pid, deadline))
		return;
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

void child_stop(struct child *child)
{
	if (child->pid == 0)
		return;
	if (child->client != NULL)
		client_send(child->client, client_request("quit"));
	child_reap(child->pid, vmferry_now() + END_NS);
	client_free(&child->client);
	unlink(child->path);
	child->pid = 0;
}
