/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/wire.h"
#include "pair.h"
#include "raw.h"
#include "support/fake_clock.h"

static struct pair pair;

static void setup(void)
{
	pair_open(&pair, VMFERRY_LANES_NONE);
}

static void teardown(void)
{
	pair_close(&pair);
}

TestSuite(message, .init = setup, .fini = teardown, .timeout = 120);

struct sending {
	struct vmferry_session *session;
	const void *data;
	size_t length;
	uint32_t type;
	int count;
	int ret;
	pthread_t thread;
};

static void *send_thread(void *arg)
{
	struct sending *s = arg;

	for (int i = 0; i < s->count && s->ret == 0; i++)
		s->ret = vmferry_send(s->session, VMFERRY_CONTROL, s->type, s->data, s->length,
				      PATIENT);
	return NULL;
}

static void exchange(struct vmferry_session *from, struct vmferry_session *to, size_t length)
{
	uint8_t *data = malloc(length + 1);
	struct sending s = {.session = from, .data = data, .length = length, .type = 3, .count = 1};
	struct vmferry_message m;

	fill_random(data, length + 1, length + 1);
	pthread_create(&s.thread, NULL, send_thread, &s);
	cr_assert_eq(vmferry_recv(to, &m, PATIENT), 0);
	pthread_join(s.thread, NULL);
	cr_expect_eq(s.ret, 0);
	cr_expect_eq(m.type, 3);
	cr_assert_eq(m.length, length);
	cr_expect_eq(m.data == NULL, length == 0);
	cr_expect(length == 0 || memcmp(m.data, data, length) == 0, "%zu bytes differ", length);
	vmferry_message_free(&m);
	cr_expect_null(m.data);
	free(data);
}

Test(message, all_sizes_both_ways__arrive)
{
	static const size_t lengths[] = {
		0, 1, 1015, 1016, 1017, 1024, 65536, 1 << 20, VMFERRY_MESSAGE_MAX};

	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		exchange(pair.source, pair.destination, lengths[i]);
		exchange(pair.destination, pair.source, lengths[i]);
	}
}

Test(message, mailbox__arrives)
{
	struct vmferry_message m;

	cr_assert_eq(vmferry_send(pair.source, VMFERRY_MAILBOX, VMFERRY_MESSAGE_TYPE_MAX, "go", 2,
				  PATIENT),
		     0);
	cr_assert_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
	cr_expect_eq(m.type, VMFERRY_MESSAGE_TYPE_MAX);
	cr_expect_eq(memcmp(m.data, "go", 2), 0);
	vmferry_message_free(&m);
}

Test(message, impossible__refused_and_session_lives)
{
	cr_expect_eq(vmferry_send(pair.source, VMFERRY_CONTROL, 1, "", VMFERRY_MESSAGE_MAX + 1ul,
				  PATIENT),
		     -EMSGSIZE);
	cr_expect_eq(vmferry_send(pair.source, VMFERRY_CONTROL, VMFERRY_MESSAGE_TYPE_MAX + 1, "", 0,
				  PATIENT),
		     -EINVAL);
	cr_expect_eq(vmferry_send(pair.source, 9, 1, "", 0, PATIENT), -EINVAL);
	exchange(pair.source, pair.destination, 5);
}

Test(message, none__etimedout)
{
	struct vmferry_message m;
	uint64_t begun;

	cr_expect_eq(vmferry_recv(pair.source, &m, 0), -ETIMEDOUT);
	fake_clock_stop();
	fake_clock_rush(true);
	begun = vmferry_now();
	cr_expect_eq(vmferry_recv(pair.source, &m, begun + 30 * MS), -ETIMEDOUT);
	cr_expect_eq(vmferry_now() - begun, 30 * MS);
	fake_clock_rush(false);
	exchange(pair.source, pair.destination, 5);
}

Test(message, many_senders__whole_messages)
{
	enum { SENDERS = 4, EACH = 200 };
	struct sending s[SENDERS];
	unsigned int counts[SENDERS] = {0};
	uint8_t *data[SENDERS];

	for (unsigned int i = 0; i < SENDERS; i++) {
		size_t length = 3000 * (i + 1);

		data[i] = malloc(length);
		memset(data[i], (int)i, length);
		s[i] = (struct sending){.session = pair.source,
					.data = data[i],
					.type = i,
					.length = length,
					.count = EACH};
		pthread_create(&s[i].thread, NULL, send_thread, &s[i]);
	}
	for (unsigned int i = 0; i < SENDERS * EACH; i++) {
		struct vmferry_message m;

		cr_assert_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
		cr_assert_lt(m.type, SENDERS);
		cr_assert_eq(m.length, s[m.type].length);
		cr_assert_eq(memcmp(m.data, data[m.type], m.length), 0);
		counts[m.type]++;
		vmferry_message_free(&m);
	}
	for (unsigned int i = 0; i < SENDERS; i++) {
		pthread_join(s[i].thread, NULL);
		cr_expect_eq(counts[i], EACH);
		free(data[i]);
	}
}

Test(message, peer_reads_nothing__send_ends_at_its_deadline)
{
	static char big[VMFERRY_MESSAGE_MAX];
	uint64_t begun;
	int ret = 0;

	fake_clock_stop();
	fake_clock_rush(true);
	begun = vmferry_now();
	while (ret == 0)
		ret = vmferry_send(pair.source, VMFERRY_CONTROL, 1, big, sizeof(big),
				   begun + 50 * MS);
	cr_expect_eq(ret, -ETIMEDOUT);
	cr_expect_eq(vmferry_now() - begun, 50 * MS);
}

Test(message, peer_closes__heard_then_econnreset)
{
	struct vmferry_message m;

	cr_assert_eq(vmferry_send(pair.source, VMFERRY_CONTROL, 7, "bye", 3, PATIENT), 0);
	vmferry_session_close(&pair.source);
	cr_assert_eq(vmferry_recv(pair.destination, &m, PATIENT), 0);
	cr_expect_eq(m.type, 7);
	vmferry_message_free(&m);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
	cr_expect_eq(vmferry_send(pair.destination, VMFERRY_CONTROL, 1, "", 0, PATIENT),
		     -ECONNRESET);
}

Test(message, in_pieces_over_deadlines__nothing_lost, .init = NULL, .fini = NULL)
{
	struct raw_session raw = {0};
	struct vmferry_message m;
	uint8_t bytes[8 + 5] = {0};

	raw_session_open(&raw);
	fake_clock_stop();
	fake_clock_rush(true);
	wire_put_u32(bytes, 77);
	wire_put_u32(bytes + 4, 5);
	memcpy(bytes + 8, "hello", 5);
	for (unsigned int i = 0; i < sizeof(bytes) - 1; i++) {
		raw_send(raw.control, bytes + i, 1);
		raw_await_taken(raw.control);
		cr_assert_eq(vmferry_recv(raw.destination, &m, vmferry_now() + 2 * MS), -ETIMEDOUT);
	}
	fake_clock_rush(false);
	raw_send(raw.control, bytes + sizeof(bytes) - 1, 1);
	cr_assert_eq(vmferry_recv(raw.destination, &m, PATIENT), 0);
	cr_expect_eq(m.type, 77);
	cr_assert_eq(m.length, 5);
	cr_expect_eq(memcmp(m.data, "hello", 5), 0);
	vmferry_message_free(&m);
	raw_session_close(&raw);
	vmferry_listener_close(&raw.listener);
}

static void refused(uint32_t type, uint32_t length, int expected)
{
	struct raw_session raw = {0};
	struct vmferry_message m;
	uint8_t bytes[8];

	raw_session_open(&raw);
	wire_put_u32(bytes, type);
	wire_put_u32(bytes + 4, length);
	raw_send(raw.control, bytes, sizeof(bytes));
	cr_expect_eq(vmferry_recv(raw.destination, &m, PATIENT), expected);
	cr_expect_eq(vmferry_send(raw.destination, VMFERRY_CONTROL, 1, "", 0, PATIENT), expected);
	cr_expect(raw_closed(raw.control));
	cr_expect(raw_closed(raw.lane));
	raw_session_close(&raw);
	vmferry_listener_close(&raw.listener);
}

Test(message, oversized__session_over, .init = NULL, .fini = NULL)
{
	log_keep();
	refused(1, VMFERRY_MESSAGE_MAX + 1, -EMSGSIZE);
	refused(1, UINT32_MAX, -EMSGSIZE);
	refused(VMFERRY_MESSAGE_TYPE_MAX + 1, 1, -EPROTO);
	cr_expect(log_has("a message is longer than 4194304 bytes"));
}
