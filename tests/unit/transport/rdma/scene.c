/* SPDX-License-Identifier: MIT */
#include "scene.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../pair.h"
#include "fake/fake.h"

/* A sweep slows down: of the later ones one in so many is tried. */
#define SLOWER	  6
#define SIZE	  (1ull << 20)
#define PAGE	  4096ull
#define PAGES	  (SIZE / PAGE)
#define ADDRESS	  (1ull << 32)
#define LANES	  2
#define LETTER	  40000u /* bytes of a message that is longer than a slot of the mailbox */
#define ROUND_ONE 2	 /* of so many pages one is written again in the round */
#define ROUND_TWO 7
#define STEP	  (vmferry_now() + SCENE_STEP_MS * MS)
#define ALL_MS	  8000u

struct scene {
	struct vmferry_listener *listener;
	pthread_t acceptor;
	_Atomic(struct vmferry_session *) came; /* the last that was accepted, until it is taken */
	struct vmferry_session *source, *destination;
	struct vmferry_memory *local, *remote;
};

void (*scene_moment)(unsigned int moment);
const char *scene_cause;

static uint8_t *from, *to, *back, *letter;
static _Atomic unsigned int complaints;

static const struct vmferry_transport_options options = {
	.size = sizeof(options),
	.transport = VMFERRY_TRANSPORT_RDMA,
	.lanes = LANES,
	.insecure = true,
	.rails = {"10.99.0.1", "10.99.1.1"},
	.rail_count = 2,
	.write_bytes = PAGE,
	.window_bytes = 64 * PAGE,
};

static void moment(unsigned int number)
{
	if (scene_moment != NULL)
		scene_moment(number);
}

static void count_complaints(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	fprintf(stderr, "%s\n", line);
	if (level <= VMFERRY_LOG_WARN && (scene_cause == NULL || strstr(line, scene_cause) != NULL))
		atomic_fetch_add(&complaints, 1);
}

void scene_await_complaint(void)
{
	for (int ms = 0; ms < 20000 && atomic_load(&complaints) == 0; ms++)
		usleep(1000);
}

void scene_begin(void)
{
	vmferry_set_log(count_complaints, NULL, VMFERRY_LOG_WARN);
	from = pages_new(SIZE, 0);
	to = pages_new(SIZE, 0);
	back = pages_new(SIZE, 0);
	letter = pages_new(LETTER, 0);
	fill_random(letter, LETTER, 10);
}

void scene_end(void)
{
	pages_free(from, SIZE);
	pages_free(to, SIZE);
	pages_free(back, SIZE);
	pages_free(letter, LETTER);
}

/* ---- steps ----------------------------------------------------------------------------------- */

/* Takes in whoever comes, also who fails afterwards and of whom this side does not know yet. */
static void *accept_all(void *arg)
{
	struct scene *s = arg;
	struct vmferry_session *session, *old;
	int ret;

	do {
		ret = vmferry_accept(s->listener, PATIENT, &session);
		if (ret < 0)
			continue;
		old = atomic_exchange(&s->came, session);
		vmferry_session_close(&old);
	} while (ret == 0 || ret == -ETIMEDOUT);
	return NULL;
}

static int listen_and_accept(struct scene *s)
{
	int ret = vmferry_listen(LOOP, &options, &s->listener);

	if (ret == 0)
		cr_assert_eq(pthread_create(&s->acceptor, NULL, accept_all, s), 0);
	return ret;
}

static void stop_listening(struct scene *s)
{
	struct vmferry_session *session;

	if (s->listener == NULL)
		return;
	vmferry_listener_shutdown(s->listener);
	pthread_join(s->acceptor, NULL);
	session = atomic_load(&s->came);
	vmferry_session_close(&session);
	vmferry_listener_close(&s->listener);
}

static int take_destination(struct scene *s)
{
	uint64_t until = STEP;

	vmferry_session_close(&s->destination);
	while (s->destination == NULL && vmferry_now() < until) {
		s->destination = atomic_exchange(&s->came, NULL);
		usleep(100);
	}
	return s->destination == NULL ? -ETIMEDOUT : 0;
}

static int start(struct scene *s)
{
	int ret = vmferry_connect(vmferry_listener_uri(s->listener), &options, STEP, &s->source);

	return ret == 0 ? take_destination(s) : ret;
}

static int offer(struct scene *s)
{
	int ret = vmferry_register(s->source, from, SIZE, 0, VMFERRY_ACCESS_LOCAL, &s->local);

	if (ret == 0)
		ret = vmferry_register(s->destination, to, SIZE, ADDRESS,
				       VMFERRY_ACCESS_REMOTE_WRITE | VMFERRY_ACCESS_REMOTE_READ,
				       &s->remote);
	if (ret == 0)
		ret = vmferry_prepare(s->remote, 0, SIZE);
	return ret == 0 ? vmferry_prepare(s->local, 0, SIZE) : ret;
}

static int hear(struct vmferry_session *session, uint32_t length)
{
	struct vmferry_message m = {0};
	int ret = vmferry_recv(session, &m, STEP);

	if (ret < 0)
		return ret;
	cr_expect_eq(m.length, length);
	cr_expect(m.length == length && memcmp(m.data, letter, length) == 0);
	vmferry_message_free(&m);
	return 0;
}

static int tell(struct vmferry_session *one, struct vmferry_session *other, uint32_t length)
{
	int ret = vmferry_send(one, VMFERRY_MAILBOX, 1, letter, length, STEP);

	return ret == 0 ? hear(other, length) : ret;
}

static int write_all_of(struct scene *s, unsigned int lane, const struct vmferry_write *writes,
			unsigned int count)
{
	unsigned int done = 0;

	while (done < count) {
		int n = vmferry_lane_write(s->source, lane, writes + done, count - done, STEP);

		if (n < 0)
			return n;
		done += (unsigned int)n;
	}
	return 0;
}

static int write_bulk(struct scene *s)
{
	int ret = 0;

	for (unsigned int lane = 0; ret == 0 && lane < LANES; lane++) {
		uint64_t offset = lane * (SIZE / LANES);
		struct vmferry_write w = {s->local, offset, ADDRESS + offset, SIZE / LANES};

		ret = write_all_of(s, lane, &w, 1);
	}
	return ret;
}

/* Backwards, so that no two of them can become one request. */
static int write_scattered(struct scene *s, unsigned int lane, unsigned int every)
{
	struct vmferry_write writes[PAGES / LANES];
	unsigned int count = 0;

	for (uint64_t p = (lane + 1) * (PAGES / LANES); p-- > lane * (PAGES / LANES);) {
		if (p % every != 0)
			continue;
		from[p * PAGE + every]++;
		writes[count++] =
			(struct vmferry_write){s->local, p * PAGE, ADDRESS + p * PAGE, PAGE};
	}
	return write_all_of(s, lane, writes, count);
}

static int write_round(struct scene *s, unsigned int every)
{
	int ret = 0;

	for (unsigned int lane = 0; ret == 0 && lane < LANES; lane++)
		ret = write_scattered(s, lane, every);
	return ret;
}

/* What the fences have passed is there. */
static int fence(struct scene *s, uint32_t epoch)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < LANES; i++)
		ret = vmferry_lane_fence(s->source, i, epoch, STEP);
	/* First: what became of requests only shows to who uses the lane. */
	for (unsigned int i = 0; ret == 0 && i < LANES; i++)
		ret = vmferry_lane_fence_wait(s->source, i, epoch, STEP);
	if (ret == 0)
		ret = vmferry_fence_wait(s->destination, epoch, STEP);
	if (ret == 0)
		cr_expect_eq(memcmp(from, to, SIZE), 0, "fence %u has passed, the bytes have not",
			     epoch);
	return ret;
}

static int read_back(struct scene *s)
{
	struct vmferry_memory *memory = NULL;
	int ret = vmferry_register(s->source, back, SIZE, 2 * SIZE, VMFERRY_ACCESS_LOCAL, &memory);

	memset(back, 0, SIZE);
	if (ret == 0)
		ret = vmferry_lane_read(s->source, 1, memory, 0, ADDRESS, SIZE, STEP);
	if (ret == 0)
		cr_expect_eq(memcmp(back, to, SIZE), 0, "other bytes were read");
	vmferry_deregister(&memory);
	return ret;
}

/* ---- scenes ---------------------------------------------------------------------------------- */

static int first_part(struct scene *s)
{
	int ret = start(s);

	moment(1);
	if (ret == 0)
		ret = offer(s);
	moment(2);
	if (ret == 0)
		ret = tell(s->destination, s->source, 2);
	moment(3);
	if (ret == 0)
		ret = tell(s->source, s->destination, LETTER);
	moment(4);
	if (ret == 0)
		ret = write_bulk(s);
	moment(5);
	return ret == 0 ? fence(s, 1) : ret;
}

static int second_part(struct scene *s)
{
	int ret = write_round(s, ROUND_ONE);

	moment(7);
	if (ret == 0)
		ret = fence(s, 2);
	moment(8);
	if (ret == 0)
		ret = write_round(s, ROUND_TWO);
	moment(9);
	if (ret == 0)
		ret = fence(s, 3);
	moment(10);
	if (ret == 0)
		ret = read_back(s);
	moment(11);
	if (ret == 0)
		vmferry_session_revoke(s->destination);
	moment(12);
	return ret == 0 ? tell(s->destination, s->source, 100) : ret;
}

static void part(struct scene *s)
{
	vmferry_deregister(&s->remote);
	moment(13);
	vmferry_deregister(&s->local);
	moment(14);
	vmferry_session_close(&s->source);
	moment(15);
	vmferry_session_close(&s->destination);
}

static int play(struct scene *s)
{
	int ret = listen_and_accept(s);

	moment(0);
	if (ret < 0)
		return ret;
	fill_random(from, SIZE, 9);
	ret = first_part(s);
	moment(6);
	if (ret == 0)
		ret = second_part(s);
	part(s);
	return ret;
}

/* Who came first may be what is left of the first session. */
static int start_again(struct scene *s)
{
	int ret = start(s);

	if (ret < 0 || tell(s->source, s->destination, 1) == 0)
		return ret;
	ret = take_destination(s);
	return ret == 0 ? hear(s->destination, 1) : ret;
}

static int play_again(struct scene *s)
{
	int ret = 0;

	if (s->listener == NULL)
		ret = listen_and_accept(s);
	if (ret == 0)
		ret = start_again(s);
	if (ret == 0)
		ret = offer(s);
	if (ret == 0)
		ret = tell(s->source, s->destination, 2);
	if (ret == 0)
		ret = write_bulk(s);
	if (ret == 0)
		ret = fence(s, 1);
	part(s);
	return ret;
}

struct scene_result scene_run(const char *what, unsigned int number, bool left)
{
	uint64_t begun = vmferry_now();
	struct scene_result result;
	struct scene s = {0};
	int next;

	atomic_store(&complaints, 0);
	memset(to, 0, SIZE);
	result.error = play(&s);
	result.reached = fake_reached();
	result.calls = fake_calls();
	cr_expect_lt(vmferry_now() - begun, ALL_MS * MS, "%s %u: %s took too long", what, number,
		     strerror(-result.error));
	/* A deadline that passes is the caller's affair. */
	cr_expect(result.error == 0 || result.error == -ETIMEDOUT || atomic_load(&complaints) > 0,
		  "%s %u: nobody said why: %s", what, number, strerror(-result.error));
	fprintf(stderr, "%s %u: function %d\n", what, number, (int)fake_failed());
	scene_moment = NULL;
	fake_forget();
	memset(to, 0, SIZE);
	next = left ? play_again(&s) : 0;
	cr_expect_eq(next, 0, "%s %u: the next session: %s", what, number, strerror(-next));
	stop_listening(&s);
	cr_expect_not(fake_leaks(), "%s %u: something was left behind", what, number);
	return result;
}

unsigned int scene_sweep(const char *what, scene_order order, void *ctx)
{
	struct scene_result result;
	unsigned int failed = 0;
	unsigned int i = 1;

	do {
		fake_reset();
		fake_seed(i);
		order(ctx, i);
		result = scene_run(what, i, true);
		cr_expect(result.error == 0 || result.reached, "%s %u: another error", what, i);
		cr_expect_neq(result.error, -ETIMEDOUT, "%s %u: not noticed", what, i);
		failed += result.error < 0;
		i += 1 + i / SLOWER;
	} while (result.reached);
	return failed;
}
