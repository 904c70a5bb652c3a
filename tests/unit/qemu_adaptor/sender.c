/* SPDX-License-Identifier: MIT */
/* Which connections the source host's service takes for one migration, and where it listens. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "migrator/qemu/sender.h"
#include "rig.h"

struct service {
	struct rig rig;
	char path[64];
	struct qemu_sender *sender;
	int stop_fd;
	pthread_t thread;
	pthread_mutex_t lock;
	unsigned int completed;
	unsigned int failed;
};

static void count(void *ctx, bool completed, struct json_object *report)
{
	struct service *s = ctx;

	(void)report;
	pthread_mutex_lock(&s->lock);
	s->completed += completed;
	s->failed += !completed;
	pthread_mutex_unlock(&s->lock);
}

static struct qemu_sender_options options_of(struct service *s)
{
	return (struct qemu_sender_options){
		.uri = qemu_receiver_uri(s->rig.receiver),
		.path = s->path,
		.listen_fd = -1,
		.transport = {.size = sizeof(struct vmferry_transport_options),
			      .transport = VMFERRY_TRANSPORT_TCP,
			      .lanes = 2},
		.report = count,
		.ctx = s,
	};
}

static void *run(void *arg)
{
	struct service *s = arg;

	qemu_sender_run(s->sender, s->stop_fd);
	return NULL;
}

static void open_service(struct service *s)
{
	struct qemu_sender_options options;

	memset(s, 0, sizeof(*s));
	rig_open(&s->rig);
	pthread_mutex_init(&s->lock, NULL);
	snprintf(s->path, sizeof(s->path), "%s/sender", s->rig.directory);
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	options = options_of(s);
	cr_assert_eq(qemu_sender_open(&options, &s->sender), 0);
	cr_assert_eq(pthread_create(&s->thread, NULL, run, s), 0);
}

static void close_service(struct service *s)
{
	cr_assert_eq(eventfd_write(s->stop_fd, 1), 0);
	pthread_join(s->thread, NULL);
	qemu_sender_close(&s->sender);
	cr_expect_eq(access(s->path, F_OK), -1);
	close(s->stop_fd);
	rig_close(&s->rig);
}

static int connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	cr_assert_eq(connect(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	return fd;
}

/* A migration of this process, whose connections are there already. */
static void expect_arrival(struct service *s, const struct plan *plan, const int *fds)
{
	static const enum placement_kind kinds[] = {PLACEMENT_MAPPED};
	unsigned int before = rig_destinations(&s->rig);
	struct qemu_from from;
	struct guest guest;
	struct qemu_to to;

	guest_open(&guest, 3, kinds, 1, 500);
	guest_set_current(&guest);
	qemu_to_start(&to, plan, &guest, s->rig.path);
	qemu_from_start(&from, plan, &guest, fds);
	cr_expect(qemu_from_join(&from));
	rig_await_destinations(&s->rig, before + 1);
	qemu_to_join(&to);
	cr_expect(to.loaded);
	cr_expect_eq(to.wrong_at_end, 0);
	cr_expect_gt(to.connection_count, plan->channels);
	guest_close(&guest);
}

Test(qemu_sender, channels_before_their_main_connection__are_one_migration)
{
	struct plan plan = {.rounds = 2, .channels = 3, .return_path = true};
	struct service s;
	int fds[4];

	open_service(&s);
	for (unsigned int i = 4; i-- > 0;)
		fds[i] = connect_to(s.path);
	expect_arrival(&s, &plan, fds);
	close_service(&s);
	cr_expect_eq(s.completed, 1);
}

/*
 * The process has an earlier migration that channels could still join, e.g. one that it has just
 * cancelled.
 */
Test(qemu_sender, channels_before_their_main_connection_has_spoken__wait_for_it)
{
	struct plan early = {.cut = 1}, plan = {.rounds = 2, .channels = 2, .return_path = true};
	struct service s;
	struct guest guest;
	struct qemu_to to;
	int fds[3], old;

	open_service(&s);
	guest_open(&guest, 1, (const enum placement_kind[]){PLACEMENT_FORWARD}, 1, 8);
	guest_set_current(&guest);
	qemu_to_start(&to, &early, &guest, s.rig.path);
	old = connect_to(s.path);
	cr_assert_eq(send(old, "QEVM\0\0\0\3", 8, 0), 8);
	while (!qemu_to_is_connected(&to))
		usleep(1000);
	for (unsigned int i = 0; i < 3; i++)
		fds[i] = connect_to(s.path);
	expect_arrival(&s, &plan, fds);
	close(old);
	rig_await_destinations(&s.rig, 2);
	qemu_to_join(&to);
	guest_close(&guest);
	close_service(&s);
	cr_expect_eq(s.completed, 1);
	cr_expect_eq(s.failed, 1);
}

/* In a process of its own: what a QEMU opens and says nothing on would belong to its migration. */
static pid_t start_strangers(const char *path)
{
	pid_t pid = fork();

	if (pid != 0)
		return pid;
	/* Also when the test fails. */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	for (unsigned int i = 0; i < 20; i++) {
		struct sockaddr_un address = {.sun_family = AF_UNIX};
		int fd = socket(AF_UNIX, SOCK_STREAM, 0);

		strcpy(address.sun_path, path);
		if (connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
			_exit(1);
		if (i % 4 == 1 && send(fd, "\x11\x22", 2, 0) != 2)
			_exit(1);
		if (i % 4 == 3)
			shutdown(fd, SHUT_WR);
	}
	pause();
	_exit(0);
}

Test(qemu_sender, connections_that_say_nothing_or_nonsense__disturb_no_migration)
{
	struct plan plan = {.rounds = 1};
	struct service s;
	pid_t strangers;
	int fd;

	open_service(&s);
	strangers = start_strangers(s.path);
	cr_assert_gt(strangers, 0);
	usleep(50000);
	fd = connect_to(s.path);
	expect_arrival(&s, &plan, &fd);
	close_service(&s);
	cr_assert_eq(kill(strangers, SIGKILL), 0);
	cr_assert_eq(waitpid(strangers, NULL, 0), strangers);
	cr_expect_eq(s.completed, 1);
}

/* ---- where it listens ---- */

static int try_open(struct service *s, const char *path, const char *group)
{
	struct qemu_sender_options options = options_of(s);
	struct qemu_sender *sender = NULL;
	int ret;

	options.path = path;
	options.group = group;
	ret = qemu_sender_open(&options, &sender);
	qemu_sender_close(&sender);
	return ret;
}

Test(qemu_sender, paths_where_it_cannot_listen__are_refused)
{
	char path[200], file[100];
	struct service s;

	open_service(&s);
	cr_expect_eq(try_open(&s, s.path, NULL), -EADDRINUSE);
	cr_expect_eq(try_open(&s, "relative", NULL), -EINVAL);
	memset(path, 'x', sizeof(path) - 1);
	path[0] = '/';
	path[sizeof(path) - 1] = '\0';
	cr_expect_eq(try_open(&s, path, NULL), -EINVAL);
	cr_expect_eq(try_open(&s, "/no/such/folder/s", NULL), -ENOENT);
	snprintf(file, sizeof(file), "%s/file", s.rig.directory);
	close(open(file, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	cr_expect_eq(try_open(&s, file, NULL), -EEXIST);
	cr_expect_eq(access(file, F_OK), 0);
	unlink(file);
	cr_expect_eq(try_open(&s, file, "no-such-group-here"), -ENOENT);
	cr_expect_eq(access(file, F_OK), -1);
	close_service(&s);
}

Test(qemu_sender, socket_of_a_process_that_was_killed__is_replaced)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct service s;
	struct stat st;
	int fd;

	open_service(&s);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/stale", s.rig.directory);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, sizeof(address)), 0);
	close(fd);
	cr_assert_eq(stat(address.sun_path, &st), 0);
	cr_expect_eq(try_open(&s, address.sun_path, NULL), 0);
	close_service(&s);
}

/* A listener whose queue is full would make a blocking connect() wait. */
Test(qemu_sender, listener_that_does_not_accept__is_somebody)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	struct service s;
	int listener, fd[3];

	open_service(&s);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s/full", s.rig.directory);
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	cr_assert_eq(bind(listener, (struct sockaddr *)&address, sizeof(address)), 0);
	cr_assert_eq(listen(listener, 0), 0);
	for (unsigned int i = 0; i < 3; i++) {
		fd[i] = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		(void)!connect(fd[i], (struct sockaddr *)&address, sizeof(address));
	}
	cr_expect_eq(try_open(&s, address.sun_path, NULL), -EADDRINUSE);
	for (unsigned int i = 0; i < 3; i++)
		close(fd[i]);
	close(listener);
	unlink(address.sun_path);
	close_service(&s);
}
