/* SPDX-License-Identifier: MIT */
/*
 * fork(2) without exec, as for a demo. What an end has to tell are lines of JSON through a pipe:
 * first its address, or why it does not listen; then the report.
 */
#include "qemu_ends.h"

#include <errno.h>
#include <json-c/json.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "child.h"
#include "exit.h"
#include "report.h"
#include "signals.h"
#include "units.h"

#define LISTEN_NS     (20 * NS_PER_S)
#define END_NS	      (5 * NS_PER_S)
#define LINE_MAX_SIZE (4u << 20)

/* ---- in the child ---------------------------------------------------------------------------- */

struct place {
	int fd;
	const void *options;
	int (*serve)(const struct place *place, int signal_fd);
};

static void tell(int fd, struct json_object *line)
{
	lines_send(fd, line, vmferry_now() + END_NS);
}

static void tell_report(void *ctx, bool completed, struct json_object *report)
{
	const struct place *place = ctx;

	(void)completed;
	tell(place->fd, json_object_get(report));
}

/* @address NULL: it does not listen, for the reason @error. */
static void tell_address(int fd, const char *address, int error)
{
	struct json_object *line = json_object_new_object();

	if (address != NULL)
		json_object_object_add(line, "address", json_object_new_string(address));
	json_object_object_add(line, "error", json_object_new_int(error));
	tell(fd, line);
}

static int serve_source(const struct place *place, int signal_fd)
{
	struct qemu_sender_options options = *(const struct qemu_sender_options *)place->options;
	struct qemu_sender *sender;
	int ret;

	options.once = true;
	options.report = tell_report;
	options.ctx = (void *)place; /* only read */
	ret = qemu_sender_open(&options, &sender);
	tell_address(place->fd, ret < 0 ? NULL : options.path, ret);
	if (ret < 0)
		return ret;
	ret = qemu_sender_run(sender, signal_fd);
	qemu_sender_close(&sender);
	return ret;
}

static int serve_destination(const struct place *place, int signal_fd)
{
	struct qemu_receiver_options options =
		*(const struct qemu_receiver_options *)place->options;
	struct qemu_receiver *receiver;
	int ret;

	options.once = true;
	options.report = tell_report;
	options.ctx = (void *)place; /* only read */
	ret = qemu_receiver_open(&options, &receiver);
	tell_address(place->fd, ret < 0 ? NULL : qemu_receiver_uri(receiver), ret);
	if (ret < 0)
		return ret;
	ret = qemu_receiver_run(receiver, signal_fd);
	qemu_receiver_close(&receiver);
	return ret;
}

static void live(const struct place *place)
{
	int signal_fd;
	int ret;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	/*
	 * A terminal sends Ctrl-C to the whole group; it is the parent's to decide what it means.
	 */
	setpgid(0, 0);
	ret = signals_open(&signal_fd);
	if (ret == 0)
		ret = place->serve(place, signal_fd);
	exit(ret < 0 ? EXIT_FAILED : EXIT_COMPLETED);
}

/* ---- in the parent --------------------------------------------------------------------------- */

/* The next line; NULL: none by @deadline, or none any more. */
static struct json_object *take_line(struct qemu_end *end, uint64_t deadline)
{
	struct pollfd fd = {.fd = end->fd, .events = POLLIN};
	const char *line;

	while ((line = lines_next(&end->lines)) == NULL) {
		const uint64_t now = vmferry_now();

		if (now >= deadline)
			return NULL;
		if (poll(&fd, 1, (int)((deadline - now) / NS_PER_MS) + 1) <= 0)
			continue;
		if (lines_read(&end->lines, end->fd) <= 0)
			return NULL;
	}
	return lines_parse(line);
}

static int take_address(struct qemu_end *end, char address[QEMU_END_ADDRESS_MAX])
{
	struct json_object *line = take_line(end, vmferry_now() + LISTEN_NS);
	struct json_object *error;
	int ret = -EIO;

	if (line == NULL) {
		fprintf(stderr,
			"vmferry qemu-migrate: the %s process does not tell where it "
			"listens\n",
			end->name);
		return ret;
	}
	if (json_object_object_get_ex(line, "error", &error))
		ret = json_object_get_int(error);
	snprintf(address, QEMU_END_ADDRESS_MAX, "%s", report_text(line, "address", ""));
	json_object_put(line);
	return ret;
}

static int start(struct qemu_end *end, struct place *place, char address[QEMU_END_ADDRESS_MAX])
{
	int ends[2];
	int ret;

	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return -errno;
	place->fd = ends[1];
	fflush(NULL);
	end->pid = fork();
	if (end->pid == 0) {
		close(ends[0]);
		live(place);
	}
	close(ends[1]);
	if (end->pid < 0) {
		ret = -errno;
		end->pid = 0;
		close(ends[0]);
		fprintf(stderr, "vmferry qemu-migrate: fork: %s: end other programs\n",
			strerror(-ret));
		return ret;
	}
	end->fd = ends[0];
	lines_init(&end->lines, LINE_MAX_SIZE);
	ret = take_address(end, address);
	if (ret < 0)
		qemu_end_stop(end);
	return ret;
}

int qemu_end_send(struct qemu_end *end, const struct qemu_sender_options *options,
		  char address[QEMU_END_ADDRESS_MAX])
{
	struct place place = {.options = options, .serve = serve_source};

	end->name = "qemu-send";
	return start(end, &place, address);
}

int qemu_end_receive(struct qemu_end *end, const struct qemu_receiver_options *options,
		     char address[QEMU_END_ADDRESS_MAX])
{
	struct place place = {.options = options, .serve = serve_destination};

	end->name = "qemu-receive";
	return start(end, &place, address);
}

struct json_object *qemu_end_report(struct qemu_end *end, uint64_t deadline)
{
	return end->pid == 0 ? NULL : take_line(end, deadline);
}

void qemu_end_stop(struct qemu_end *end)
{
	if (end->pid == 0)
		return;
	kill(end->pid, SIGTERM);
	child_reap(end->pid, vmferry_now() + END_NS);
	close(end->fd);
	lines_free(&end->lines);
	end->pid = 0;
}

static int try_address(const struct addrinfo *address)
{
	const int on = 1;
	int ret = 0;
	int fd = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	/*
	 * Somebody who is bound there may have set SO_REUSEADDR, too; to listen is what only one
	 * can.
	 */
	if (bind(fd, address->ai_addr, address->ai_addrlen) < 0 || listen(fd, 1) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

int qemu_end_probe(const char *uri)
{
	static const char prefix[] = "tcp:";
	const struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
	struct addrinfo *found;
	char host[256];
	char *port;
	int ret;

	if (strncmp(uri, prefix, sizeof(prefix) - 1) != 0)
		return -EINVAL;
	snprintf(host, sizeof(host), "%s", uri + sizeof(prefix) - 1);
	port = strrchr(host, ':');
	if (port == NULL)
		return -EINVAL;
	*port++ = '\0';
	if (host[0] == '[' && port - host > 2 && port[-2] == ']') {
		port[-2] = '\0';
		memmove(host, host + 1, strlen(host + 1) + 1);
	}
	if (getaddrinfo(host, port, &hints, &found) != 0)
		return -EADDRNOTAVAIL;
	ret = try_address(found);
	freeaddrinfo(found);
	return ret;
}
