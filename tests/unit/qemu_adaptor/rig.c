/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <criterion/criterion.h>
#include <dirent.h>
#include <json-c/json.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "late_session.h"
#include "migrator/qemu/log.h"
#include "migrator/qemu/relay.h"

#define PATIENCE_S 60
/* What most systems have. */
#define SOCKET_BYTES (208 << 10)

static void log_line(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	if (getenv("RIG_LOG") != NULL)
		fprintf(stderr, "%d %s\n", (int)level, line);
}

static void await(pthread_cond_t *changed, pthread_mutex_t *lock)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += PATIENCE_S;
	cr_assert_eq(pthread_cond_clockwait(changed, lock, CLOCK_MONOTONIC, &until), 0,
		     "a migration does not end");
}

/* ---- the destination host ---- */

static void destination_over(void *ctx, bool completed, struct json_object *report)
{
	struct rig *rig = ctx;

	pthread_mutex_lock(&rig->lock);
	rig->destinations_over++;
	rig->destination_completed = completed;
	snprintf(rig->destination_reason, sizeof(rig->destination_reason), "%s",
		 rig_text(report, "reason"));
	pthread_cond_broadcast(&rig->changed);
	pthread_mutex_unlock(&rig->lock);
}

static void *receiver_main(void *arg)
{
	struct rig *rig = arg;

	qemu_receiver_run(rig->receiver, rig->stop_fd);
	return NULL;
}

void rig_open(struct rig *rig)
{
	struct qemu_receiver_options options = {
		.uri = "tcp:127.0.0.1:0",
		.transport = {.size = sizeof(options.transport),
			      .transport = VMFERRY_TRANSPORT_TCP},
		.destination = {.incoming = rig->path, .populate_threads = 1},
		.report = destination_over,
		.ctx = rig,
	};

	memset(rig, 0, sizeof(*rig));
	qemu_set_log(log_line, NULL, VMFERRY_LOG_DEBUG);
	snprintf(rig->directory, sizeof(rig->directory), "/tmp/adaptor-XXXXXX");
	cr_assert_not_null(mkdtemp(rig->directory));
	snprintf(rig->path, sizeof(rig->path), "%s/incoming", rig->directory);
	pthread_mutex_init(&rig->lock, NULL);
	pthread_cond_init(&rig->changed, NULL);
	rig->stop_fd = eventfd(0, EFD_CLOEXEC);
	cr_assert_eq(qemu_receiver_open(&options, &rig->receiver), 0);
	cr_assert_eq(pthread_create(&rig->thread, NULL, receiver_main, rig), 0);
}

void rig_close(struct rig *rig)
{
	cr_assert_eq(eventfd_write(rig->stop_fd, 1), 0);
	pthread_join(rig->thread, NULL);
	qemu_receiver_close(&rig->receiver);
	close(rig->stop_fd);
	unlink(rig->path);
	rmdir(rig->directory);
	pthread_cond_destroy(&rig->changed);
	pthread_mutex_destroy(&rig->lock);
}

unsigned int rig_destinations(struct rig *rig)
{
	unsigned int count;

	pthread_mutex_lock(&rig->lock);
	count = rig->destinations_over;
	pthread_mutex_unlock(&rig->lock);
	return count;
}

void rig_await_destinations(struct rig *rig, unsigned int count)
{
	pthread_mutex_lock(&rig->lock);
	while (rig->destinations_over < count)
		await(&rig->changed, &rig->lock);
	pthread_mutex_unlock(&rig->lock);
}

/* ---- the source host ---- */

static void source_over(void *ctx, struct qemu_source *source, bool completed,
			struct json_object *report)
{
	struct rig_source *s = ctx;

	(void)source;
	pthread_mutex_lock(&s->lock);
	s->over = true;
	s->completed = completed;
	s->report = report;
	pthread_cond_broadcast(&s->changed);
	pthread_mutex_unlock(&s->lock);
}

void rig_pair(int fds[2])
{
	const int half = SOCKET_BYTES / 2; /* the kernel doubles it */

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	for (int i = 0; i < 2; i++)
		cr_assert_eq(setsockopt(fds[i], SOL_SOCKET, SO_SNDBUF, &half, sizeof(half)), 0);
}

void rig_source_start(struct rig *rig, struct rig_source *s, int *fd)
{
	struct qemu_source_options options = {
		.uri = qemu_receiver_uri(rig->receiver),
		.path = "/run/adaptor/test",
		.transport = {.size = sizeof(options.transport),
			      .transport = VMFERRY_TRANSPORT_TCP,
			      .lanes = 3},
		.ended = source_over,
		.ctx = s,
	};
	int fds[2];

	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->lock, NULL);
	pthread_cond_init(&s->changed, NULL);
	rig_pair(fds);
	cr_assert_eq(qemu_source_start(&options, fds[1], getpid(), &s->source), 0);
	*fd = fds[0];
}

void rig_source_await(struct rig_source *s)
{
	pthread_mutex_lock(&s->lock);
	while (!s->over)
		await(&s->changed, &s->lock);
	pthread_mutex_unlock(&s->lock);
	qemu_source_free(&s->source);
	pthread_cond_destroy(&s->changed);
	pthread_mutex_destroy(&s->lock);
}

const char *rig_text(const struct json_object *report, const char *name)
{
	struct json_object *value = NULL;

	return json_object_object_get_ex(report, name, &value) ? json_object_get_string(value) : "";
}

static uint64_t moved_pages(const struct json_object *report)
{
	struct json_object *pages = NULL, *moved = NULL;

	if (!json_object_object_get_ex(report, "pages", &pages) ||
	    !json_object_object_get_ex(pages, "moved", &moved))
		return 0;
	return (uint64_t)json_object_get_int64(moved);
}

/* ---- migrations ---- */

ssize_t __real_connection_recv(struct connection *c, void *data, size_t length, uint64_t deadline);
ssize_t __wrap_connection_recv(struct connection *c, void *data, size_t length, uint64_t deadline);

/*
 * The number of the connection that is read late, so that others are ahead of it wherever nothing
 * holds them back.
 */
static atomic_uint slow_reader;
static _Thread_local uint64_t slowness = 7;

ssize_t __wrap_connection_recv(struct connection *c, void *data, size_t length, uint64_t deadline)
{
	if (c->number == atomic_load(&slow_reader) && guest_draw(&slowness, 3) == 0)
		usleep(guest_draw(&slowness, 4000));
	return __real_connection_recv(c, data, length, deadline);
}

static void note_source(struct rig_source *s, struct outcome *o)
{
	o->source_completed = s->completed;
	o->moved = moved_pages(s->report);
	snprintf(o->mode, sizeof(o->mode), "%s", rig_text(s->report, "mode"));
	snprintf(o->reason, sizeof(o->reason), "%s; %s", rig_text(s->report, "reason"),
		 rig_text(s->report, "mode_reason"));
	json_object_put(s->report);
}

void rig_migrate(struct rig *rig, const struct plan *plan, struct guest *guest, struct outcome *o)
{
	unsigned int before = rig_destinations(rig);
	struct qemu_from from;
	struct rig_source s;
	int fds[PLAN_CHANNELS_MAX + 1];

	memset(o, 0, sizeof(*o));
	atomic_store(&slow_reader, (unsigned int)(plan->seed % (plan->channels + 1)));
	guest_set_current(guest);
	qemu_to_start(&o->to, plan, guest, rig->path);
	rig_source_start(rig, &s, &fds[0]);
	for (unsigned int i = 0; i < plan->channels; i++) {
		int pair[2];

		rig_pair(pair);
		qemu_source_join(s.source, pair[1], true);
		fds[i + 1] = pair[0];
	}
	qemu_from_start(&from, plan, guest, fds);
	o->sent = qemu_from_join(&from);
	rig_source_await(&s);
	note_source(&s, o);
	rig_await_destinations(rig, before + 1);
	o->destination_completed = rig->destination_completed;
	qemu_to_join(&o->to);
	o->wrong_afterwards = guest_wrong_pages(guest);
}

void rig_expect_migration(struct rig *rig, const struct plan *plan)
{
	static const enum placement_kind kinds[] = {PLACEMENT_MAPPED, PLACEMENT_PROCESS,
						    PLACEMENT_MAPPED, PLACEMENT_FORWARD};
	struct guest guest;
	struct outcome o;

	guest_open(&guest, plan->seed, kinds, GUEST_BLOCKS, 2000);
	rig_migrate(rig, plan, &guest, &o);
	cr_expect(o.sent, "seed %lu: the source QEMU sees its connection closed: %s", plan->seed,
		  o.reason);
	cr_expect(o.to.ended, "seed %lu: the end of RAM has not come", plan->seed);
	cr_expect_eq(o.to.wrong_at_end, 0, "seed %lu: %u pages are wrong at the end of RAM",
		     plan->seed, o.to.wrong_at_end);
	cr_expect_eq(o.wrong_afterwards, 0, "seed %lu: %u pages are wrong afterwards", plan->seed,
		     o.wrong_afterwards);
	cr_expect(o.to.tail_right, "seed %lu: the devices' state is not what was sent", plan->seed);
	cr_expect(o.source_completed, "seed %lu: the source says: %s", plan->seed, o.reason);
	cr_expect(o.destination_completed, "seed %lu", plan->seed);
	cr_expect_eq(late_session_broken_rules(), 0, "seed %lu", plan->seed);
	guest_close(&guest);
}

unsigned int rig_open_files(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned int count = 0;

	cr_assert_not_null(directory);
	while (readdir(directory) != NULL)
		count++;
	closedir(directory);
	return count;
}
