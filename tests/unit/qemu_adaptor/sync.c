/* SPDX-License-Identifier: MIT */
/* Who waits for whom at a SYNC. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"
#include "migrator/qemu/moment.h"
#include "migrator/qemu/sync.h"

#define CHANNELS 4u
#define ROUNDS	 300u

/* Only the lock and the condition of a relay are used. */
struct scene {
	struct relay relay;
	struct sync sync;
	_Atomic uint64_t reached[CHANNELS + 1]; /* the main stream last */
	atomic_uint violations;
};

struct walker {
	struct scene *scene;
	unsigned int number;
	pthread_t thread;
};

static void open_scene(struct scene *s)
{
	memset(s, 0, sizeof(*s));
	pthread_mutex_init(&s->relay.lock, NULL);
	pthread_cond_init(&s->relay.changed, NULL);
	s->relay.name = "test";
	s->sync.relay = &s->relay;
	for (unsigned int i = 0; i < CHANNELS; i++)
		cr_assert_eq(sync_add_channel(&s->sync), (int)i);
}

static void jitter(uint64_t *random)
{
	uint32_t what = guest_draw(random, 8);

	if (what == 0)
		usleep(guest_draw(random, 200));
	else if (what < 4)
		sched_yield();
}

/* Nobody is behind SYNC @round before all have come to it. */
static void *walk(void *arg)
{
	struct walker *w = arg;
	struct scene *s = w->scene;
	uint64_t random = w->number + 5;

	for (uint64_t round = 1; round <= ROUNDS; round++) {
		jitter(&random);
		atomic_store(&s->reached[w->number], round);
		if (w->number == CHANNELS)
			cr_assert_eq(sync_main_arrives(&s->sync, true), 0);
		else
			cr_assert_eq(sync_channel_arrives(&s->sync, w->number), 0);
		for (unsigned int i = 0; i <= CHANNELS; i++)
			if (atomic_load(&s->reached[i]) < round)
				atomic_fetch_add(&s->violations, 1);
	}
	return NULL;
}

Test(qemu_sync, channels_and_main__pass_together)
{
	struct walker walkers[CHANNELS + 1];
	struct scene s;

	open_scene(&s);
	for (unsigned int i = 0; i <= CHANNELS; i++) {
		walkers[i] = (struct walker){.scene = &s, .number = i};
		cr_assert_eq(pthread_create(&walkers[i].thread, NULL, walk, &walkers[i]), 0);
	}
	for (unsigned int i = 0; i <= CHANNELS; i++)
		pthread_join(walkers[i].thread, NULL);
	cr_expect_eq(s.violations, 0);
}

struct waiter {
	struct scene *scene;
	pthread_t thread;
	atomic_bool passed;
};

static void *arrive(void *arg)
{
	struct waiter *w = arg;

	cr_assert_eq(sync_channel_arrives(&w->scene->sync, 0), 0);
	atomic_store(&w->passed, true);
	return NULL;
}

static void begin(struct waiter *w, struct scene *s)
{
	*w = (struct waiter){.scene = s};
	cr_assert_eq(pthread_create(&w->thread, NULL, arrive, w), 0);
	usleep(20000);
	cr_assert_not(atomic_load(&w->passed));
}

static void expect_passes(struct waiter *w)
{
	pthread_join(w->thread, NULL);
	cr_expect(atomic_load(&w->passed));
}

Test(qemu_sync, main_has_not_come__a_channel_waits)
{
	struct waiter w;
	struct scene s;

	open_scene(&s);
	for (unsigned int i = 1; i < CHANNELS; i++)
		sync_channel_ended(&s.sync, i);
	begin(&w, &s);
	cr_assert_eq(sync_main_arrives(&s.sync, true), 0);
	expect_passes(&w);
}

Test(qemu_sync, channel_that_ended__is_not_waited_for)
{
	struct waiter w;
	struct scene s;

	open_scene(&s);
	cr_assert_eq(sync_main_arrives(&s.sync, false), 0);
	begin(&w, &s);
	for (unsigned int i = 1; i < CHANNELS; i++)
		sync_channel_ended(&s.sync, i);
	expect_passes(&w);
}

Test(qemu_sync, main_that_ended__is_not_waited_for)
{
	struct waiter w;
	struct scene s;

	open_scene(&s);
	for (unsigned int i = 1; i < CHANNELS; i++)
		sync_channel_ended(&s.sync, i);
	begin(&w, &s);
	sync_main_ended(&s.sync);
	expect_passes(&w);
}

/* ---- the end of pages ---- */

static void make_channels_idle(struct scene *s, struct connection *connections, int fds[][2])
{
	for (unsigned int i = 0; i < CHANNELS; i++) {
		cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds[i]), 0);
		connections[i] = (struct connection){.fd = fds[i][0]};
		s->sync.channels[i].connection = &connections[i];
		sync_channel_idle(&s->sync, i, true);
	}
}

Test(qemu_sync, all_channels_idle_with_nothing_to_read__are_drained)
{
	struct connection connections[CHANNELS];
	int fds[CHANNELS][2];
	struct scene s;

	open_scene(&s);
	make_channels_idle(&s, connections, fds);
	cr_expect_eq(sync_drain(&s.sync, vmferry_now() + NS_PER_S), 0);
}

struct late_idle {
	struct scene *scene;
	int fd;
};

static void *read_late(void *arg)
{
	struct late_idle *l = arg;
	char byte;

	usleep(50000);
	sync_channel_idle(&l->scene->sync, 2, false);
	cr_assert_eq(read(l->fd, &byte, 1), 1);
	usleep(50000);
	atomic_store(&l->scene->reached[2], 1);
	sync_channel_idle(&l->scene->sync, 2, true);
	return NULL;
}

Test(qemu_sync, channel_with_something_to_read__is_waited_for)
{
	struct connection connections[CHANNELS];
	int fds[CHANNELS][2];
	struct late_idle l;
	pthread_t thread;
	struct scene s;

	open_scene(&s);
	make_channels_idle(&s, connections, fds);
	cr_assert_eq(write(fds[2][1], "x", 1), 1);
	l = (struct late_idle){&s, fds[2][0]};
	cr_assert_eq(pthread_create(&thread, NULL, read_late, &l), 0);
	cr_expect_eq(sync_drain(&s.sync, vmferry_now() + 20 * NS_PER_S), 0);
	cr_expect_eq(atomic_load(&s.reached[2]), 1);
	pthread_join(thread, NULL);
}

Test(qemu_sync, too_many_channels__are_refused)
{
	struct scene s;

	open_scene(&s);
	for (unsigned int i = CHANNELS; i < PEER_CONNECTIONS_MAX; i++)
		cr_assert_eq(sync_add_channel(&s.sync), (int)i);
	cr_expect_eq(sync_add_channel(&s.sync), -ENOSPC);
}
