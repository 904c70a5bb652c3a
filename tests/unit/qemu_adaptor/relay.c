/* SPDX-License-Identifier: MIT */
/* The relay over sessions of the library, with socket pairs as QEMUs. */
#include <criterion/criterion.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "guest.h"
#include "migrator/qemu/log.h"
#include "migrator/qemu/moment.h"
#include "migrator/qemu/relay.h"
#include "rig.h"

#define PATIENCE_NS (20 * NS_PER_S)
#define CONNECTIONS 3u

/* One end: a relay, and QEMU's ends of its connections. */
struct side {
	struct relay relay;
	struct connection *connections[CONNECTIONS];
	int qemu[CONNECTIONS];
	unsigned int slow_ms; /* what a message to the owner takes */
};

struct scene {
	struct vmferry_listener *listener;
	struct vmferry_session *raw; /* in place of the second side's relay */
	bool is_raw;
	struct side sides[2];
};

static int take_message(void *ctx, const struct vmferry_message *m)
{
	struct side *side = ctx;

	if (m->type != PEER_BLOCKS)
		return relay_fail(&side->relay, -EPROTO, "a message of type %u", m->type);
	usleep(side->slow_ms * 1000);
	return 0;
}

static const struct relay_ops ops = {.message = take_message};

static void quiet(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

struct accepting {
	struct vmferry_listener *listener;
	struct vmferry_session *session;
	pthread_t thread;
};

static void *accept_main(void *arg)
{
	struct accepting *a = arg;

	cr_assert_eq(vmferry_accept(a->listener, vmferry_now() + PATIENCE_NS, &a->session), 0);
	return NULL;
}

static void connect_sessions(struct scene *s, struct vmferry_session *ends[2])
{
	struct vmferry_transport_options options = {
		.size = sizeof(options), .transport = VMFERRY_TRANSPORT_TCP, .lanes = 1};
	struct accepting a = {0};

	qemu_set_log(quiet, NULL, VMFERRY_LOG_ERROR);
	cr_assert_eq(vmferry_listen("tcp:127.0.0.1:0", &options, &s->listener), 0);
	a.listener = s->listener;
	cr_assert_eq(pthread_create(&a.thread, NULL, accept_main, &a), 0);
	cr_assert_eq(vmferry_connect(vmferry_listener_uri(s->listener), &options,
				     vmferry_now() + PATIENCE_NS, &ends[0]),
		     0);
	pthread_join(a.thread, NULL);
	ends[1] = a.session;
}

static void open_side(struct side *side, struct vmferry_session *session)
{
	cr_assert_eq(relay_init(&side->relay, session, &ops, side, "test"), 0);
	cr_assert_eq(relay_start(&side->relay), 0);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		int fds[2];

		rig_pair(fds);
		side->qemu[i] = fds[0];
		cr_assert_eq(relay_add(&side->relay, fds[1], NULL, &side->connections[i]), 0);
	}
}

static void open_scene(struct scene *s)
{
	struct vmferry_session *ends[2];

	memset(s, 0, sizeof(*s));
	connect_sessions(s, ends);
	for (unsigned int i = 0; i < 2; i++)
		open_side(&s->sides[i], ends[i]);
}

/* The peer is the test itself. */
static void open_raw(struct scene *s)
{
	struct vmferry_session *ends[2];

	memset(s, 0, sizeof(*s));
	connect_sessions(s, ends);
	open_side(&s->sides[0], ends[0]);
	s->raw = ends[1];
	s->is_raw = true;
}

static void close_side(struct side *side)
{
	relay_close(&side->relay);
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		close(side->qemu[i]);
}

static void close_scene(struct scene *s)
{
	close_side(&s->sides[0]);
	if (!s->is_raw)
		close_side(&s->sides[1]);
	vmferry_session_close(&s->raw);
	vmferry_listener_close(&s->listener);
}

/*
 * Whether QEMU sees that its connection is closed, behind what it had to read, before @ms have
 * passed.
 */
static bool is_closed_within(int fd, int ms)
{
	uint64_t deadline = vmferry_now() + (uint64_t)ms * NS_PER_MS;
	struct pollfd p = {.fd = fd, .events = POLLIN};
	static uint8_t bytes[65536];

	while (poll(&p, 1, moment_poll_ms(deadline)) == 1)
		if (recv(fd, bytes, sizeof(bytes), 0) <= 0)
			return true;
	return false;
}

static void expect_closed(const struct side *side, int ms)
{
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		cr_expect(is_closed_within(side->qemu[i], ms), "connection %u is open", i);
}

/* ---- bytes ---- */

struct flow {
	int from;
	int to;
	uint64_t seed;
	size_t bytes;
	bool right;
	pthread_t writer;
	pthread_t reader;
};

static void *write_flow(void *arg)
{
	struct flow *f = arg;
	uint64_t content = f->seed, sizes = f->seed + 1;
	uint8_t bytes[70000];
	size_t left = f->bytes;

	while (left > 0) {
		size_t n = 1 + guest_draw(&sizes, sizeof(bytes));

		n = n < left ? n : left;
		for (size_t i = 0; i < n; i++)
			bytes[i] = (uint8_t)guest_random(&content);
		if (send(f->from, bytes, n, MSG_NOSIGNAL) != (ssize_t)n)
			break;
		left -= n;
	}
	return NULL;
}

static void *read_flow(void *arg)
{
	struct flow *f = arg;
	uint64_t content = f->seed, sizes = f->seed + 2;
	uint8_t bytes[70000];
	size_t left = f->bytes;

	f->right = true;
	while (left > 0) {
		size_t want = 1 + guest_draw(&sizes, sizeof(bytes));
		ssize_t n = recv(f->to, bytes, want < left ? want : left, 0);

		if (n <= 0)
			break;
		for (ssize_t i = 0; i < n; i++)
			f->right &= bytes[i] == (uint8_t)guest_random(&content);
		left -= (size_t)n;
	}
	f->right &= left == 0;
	return NULL;
}

static void begin_flow(struct flow *f, int from, int to, uint64_t seed, size_t bytes)
{
	*f = (struct flow){.from = from, .to = to, .seed = seed, .bytes = bytes};
	cr_assert_eq(pthread_create(&f->writer, NULL, write_flow, f), 0);
	cr_assert_eq(pthread_create(&f->reader, NULL, read_flow, f), 0);
}

static bool end_flow(struct flow *f)
{
	pthread_join(f->writer, NULL);
	pthread_join(f->reader, NULL);
	return f->right;
}

Test(qemu_relay, bytes_of_all_connections__come_in_order_both_ways)
{
	struct flow flows[2 * CONNECTIONS];
	struct scene s;

	open_scene(&s);
	for (unsigned int i = 0; i < CONNECTIONS; i++) {
		begin_flow(&flows[2 * i], s.sides[0].qemu[i], s.sides[1].qemu[i], i + 1, 5u << 20);
		begin_flow(&flows[2 * i + 1], s.sides[1].qemu[i], s.sides[0].qemu[i], i + 9,
			   3u << 20);
	}
	for (unsigned int i = 0; i < 2 * CONNECTIONS; i++)
		cr_expect(end_flow(&flows[i]), "flow %u", i);
	close_scene(&s);
}

static size_t write_until_full(int fd)
{
	static const uint8_t bytes[65536];
	struct pollfd p = {.fd = fd, .events = POLLOUT};
	size_t written = 0;

	while (poll(&p, 1, 300) == 1) {
		ssize_t n = send(fd, bytes, sizeof(bytes), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0 && errno != EAGAIN)
			break;
		written += n > 0 ? (size_t)n : 0;
		cr_assert_lt(written, 64u << 20);
	}
	return written;
}

Test(qemu_relay, qemu_that_does_not_read__holds_back_its_own_connection_only)
{
	struct scene s;
	struct flow f;

	open_scene(&s);
	cr_expect_lt(write_until_full(s.sides[0].qemu[0]), 4u << 20);
	begin_flow(&f, s.sides[0].qemu[1], s.sides[1].qemu[1], 1, 8u << 20);
	cr_expect(end_flow(&f));
	cr_expect_eq(relay_error(&s.sides[0].relay), 0);
	close_scene(&s);
}

/* ---- ends ---- */

Test(qemu_relay, close_of_one_side__is_one_at_the_other_behind_all_bytes)
{
	uint8_t bytes[100];
	struct scene s;

	open_scene(&s);
	cr_assert_eq(send(s.sides[0].qemu[1], "last words", 10, 0), 10);
	shutdown(s.sides[0].qemu[1], SHUT_RDWR);
	cr_expect_eq(recv(s.sides[1].qemu[1], bytes, sizeof(bytes), 0), 10);
	cr_expect_leq(recv(s.sides[1].qemu[1], bytes, sizeof(bytes), 0), 0);
	cr_expect_not(is_closed_within(s.sides[1].qemu[0], 100));
	for (unsigned int i = 0; i < CONNECTIONS; i += 2)
		shutdown(s.sides[1].qemu[i], SHUT_RDWR);
	cr_expect_eq(relay_wait(&s.sides[0].relay), 0);
	cr_expect_eq(relay_wait(&s.sides[1].relay), 0);
	close_scene(&s);
}

Test(qemu_relay, failure__closes_both_sides_and_tells_why)
{
	struct scene s;

	open_scene(&s);
	relay_fail(&s.sides[0].relay, -EIO, "the test wants it");
	expect_closed(&s.sides[0], 1000);
	expect_closed(&s.sides[1], 1000);
	cr_expect_eq(relay_wait(&s.sides[1].relay), -EREMOTEIO);
	cr_expect_str_eq(s.sides[1].relay.failure, "the other end says: the test wants it");
	close_scene(&s);
}

Test(qemu_relay, peer_that_dies__closes_the_connections)
{
	struct scene s;

	open_raw(&s);
	vmferry_session_close(&s.raw);
	expect_closed(&s.sides[0], 1000);
	close_scene(&s);
}

Test(qemu_relay, peer_that_says_nothing__is_taken_for_dead)
{
	struct scene s;

	open_raw(&s);
	expect_closed(&s.sides[0], 3000);
	cr_expect_eq(relay_error(&s.sides[0].relay), -ETIMEDOUT);
	close_scene(&s);
}

/* Its sockets fill, and so nothing is sent either. */
Test(qemu_relay, peer_that_reads_nothing__is_taken_for_dead)
{
	uint8_t bytes[4096];
	struct flow f;
	struct scene s;

	open_raw(&s);
	memset(bytes, 1, sizeof(bytes));
	for (unsigned int i = 0; i < 20000; i++)
		if (vmferry_send(s.sides[0].relay.session, VMFERRY_CONTROL, PEER_BYTES, bytes,
				 sizeof(bytes), vmferry_now() + NS_PER_MS) < 0)
			break;
	begin_flow(&f, s.sides[0].qemu[0], s.sides[0].qemu[1], 1, 8u << 20);
	expect_closed(&s.sides[0], 3000);
	end_flow(&f);
	close_scene(&s);
}

Test(qemu_relay, message_that_takes_long__is_no_silence)
{
	struct scene s;

	open_scene(&s);
	s.sides[1].slow_ms = 1500;
	cr_assert_eq(relay_send(&s.sides[0].relay, PEER_BLOCKS, NULL, 0), 0);
	cr_expect_not(is_closed_within(s.sides[1].qemu[0], 2500));
	cr_expect_eq(relay_error(&s.sides[0].relay), 0);
	cr_expect_eq(relay_error(&s.sides[1].relay), 0);
	close_scene(&s);
}

/* As a source behind the end of RAM with a destination that starts by itself. */
Test(qemu_relay, failure_of_a_lenient_one__takes_all_bytes_until_qemu_closes)
{
	static const uint8_t bytes[65536];
	struct scene s;

	open_scene(&s);
	relay_be_lenient(&s.sides[0].relay);
	relay_fail(&s.sides[0].relay, -EIO, "the test wants it");
	for (unsigned int i = 0; i < 100; i++)
		cr_assert_eq(send(s.sides[0].qemu[0], bytes, sizeof(bytes), MSG_NOSIGNAL),
			     sizeof(bytes));
	cr_expect_not(is_closed_within(s.sides[0].qemu[0], 0));
	for (unsigned int i = 0; i < CONNECTIONS; i++)
		shutdown(s.sides[0].qemu[i], SHUT_RDWR);
	relay_drain(&s.sides[0].relay);
	close_scene(&s);
}

/* ---- nonsense ---- */

static void say(struct scene *s, uint32_t type, const void *data, size_t length)
{
	vmferry_send(s->raw, VMFERRY_CONTROL, type, data, length, vmferry_now() + NS_PER_S);
}

static void expect_refused(struct scene *s)
{
	for (unsigned int i = 0; i < 3000 && relay_error(&s->sides[0].relay) == 0; i++)
		usleep(1000);
	expect_closed(&s->sides[0], 3000);
	cr_expect_eq(relay_error(&s->sides[0].relay), -EPROTO, "%s", s->sides[0].relay.failure);
	close_scene(s);
}

Test(qemu_relay, messages_that_make_no_sense__end_it)
{
	static const struct {
		uint32_t type;
		const char *data;
		size_t length;
	} messages[] = {
		{PEER_BYTES + CONNECTIONS, "x", 1},
		{PEER_CLOSE + 255, NULL, 0},
		{PEER_CREDIT, "\0\0\0\1", 4},
		{PEER_CREDIT, "\0\0\0", 3},
		{PEER_CREDIT + 1, NULL, 0},
		{PEER_FENCE, "\0\0\0\1\0\0\0\1", 8},
		{PEER_FENCE + 0x100, NULL, 0},
		{0xffff, NULL, 0},
		{0, NULL, 0},
		{PEER_OPEN + 3, NULL, 0},
	};

	for (unsigned int i = 0; i < sizeof(messages) / sizeof(messages[0]); i++) {
		struct scene s;

		open_raw(&s);
		say(&s, messages[i].type, messages[i].data, messages[i].length);
		expect_refused(&s);
	}
}

Test(qemu_relay, more_bytes_than_there_is_credit_for__end_it)
{
	static const uint8_t bytes[65536];
	struct scene s;

	open_raw(&s);
	for (unsigned int i = 0; i < 40; i++)
		say(&s, PEER_BYTES, bytes, sizeof(bytes));
	expect_refused(&s);
}

Test(qemu_relay, empty_messages_without_end__end_it)
{
	static const uint8_t bytes[65536];
	struct scene s;

	open_raw(&s);
	for (unsigned int i = 0; i < 10; i++)
		say(&s, PEER_BYTES, bytes, sizeof(bytes));
	for (unsigned int i = 0; i < 5000 && relay_error(&s.sides[0].relay) == 0; i++)
		say(&s, PEER_BYTES, NULL, 0);
	expect_refused(&s);
}

Test(qemu_relay, bytes_behind_a_close__end_it)
{
	struct scene s;

	open_raw(&s);
	say(&s, PEER_CLOSE + 1, NULL, 0);
	say(&s, PEER_BYTES + 1, "x", 1);
	expect_refused(&s);
}
