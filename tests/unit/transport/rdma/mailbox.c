/* SPDX-License-Identifier: MIT */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "../pair.h"
#include "common/wire.h"
#include "fake/fake.h"
#include "transport/rdma/rdma.h"

/* As mailbox.c has them: what is on the wire is a contract between two sides. */
#define HEADER	   16
#define SLOT_BYTES 16384
#define PAYLOAD	   (SLOT_BYTES - HEADER)
#define SLOTS	   32
#define CREDIT	   0xffffffffu

static struct pair pair;

static void setup(void)
{
	log_keep();
	pair_open_rdma(&pair, 1);
}

/*
 * However a test ended: no fragment found the other side without a receive, no queue was too short,
 * and nothing is left.
 */
static void teardown(void)
{
	struct fake_counts counts;

	pair_close(&pair);
	fake_counts(&counts);
	cr_expect_eq(counts.rnr, 0);
	cr_expect_eq(counts.enomem, 0);
	cr_expect_eq(counts.overruns, 0);
	cr_expect_not(fake_leaks());
}

TestSuite(mailbox, .init = setup, .fini = teardown, .timeout = 120);

static int send_to(struct vmferry_session *from, uint32_t type, const void *data, size_t length)
{
	return vmferry_send(from, VMFERRY_MAILBOX, type, data, length, PATIENT);
}

static void expect(struct vmferry_session *at, uint32_t type, const void *data, size_t length)
{
	struct vmferry_message m;
	int ret = vmferry_recv(at, &m, PATIENT);

	cr_assert_eq(ret, 0, "%s", strerror(-ret));
	cr_expect_eq(m.type, type);
	cr_assert_eq(m.length, length);
	cr_expect(length == 0 || memcmp(m.data, data, length) == 0, "%zu bytes differ", length);
	vmferry_message_free(&m);
}

Test(mailbox, all_sizes_both_ways__arrive)
{
	static const size_t lengths[] = {0,	      1,
					 200,	      204,
					 205,	      PAYLOAD - 1,
					 PAYLOAD,     PAYLOAD + 1,
					 2 * PAYLOAD, SLOTS * PAYLOAD,
					 1 << 20,     VMFERRY_MESSAGE_MAX};
	uint8_t *data = malloc(VMFERRY_MESSAGE_MAX);

	fill_random(data, VMFERRY_MESSAGE_MAX, 7);
	for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++) {
		cr_assert_eq(send_to(pair.source, 5, data, lengths[i]), 0);
		expect(pair.destination, 5, data, lengths[i]);
		cr_assert_eq(send_to(pair.destination, VMFERRY_MESSAGE_TYPE_MAX, data, lengths[i]),
			     0);
		expect(pair.source, VMFERRY_MESSAGE_TYPE_MAX, data, lengths[i]);
	}
	free(data);
}

Test(mailbox, far_more_than_receives_one_way__arrive)
{
	for (uint32_t i = 0; i < 20 * SLOTS; i++)
		cr_assert_eq(send_to(pair.source, i, &i, sizeof(i)), 0);
	for (uint32_t i = 0; i < 20 * SLOTS; i++)
		expect(pair.destination, i, &i, sizeof(i));
}

struct sending {
	struct vmferry_session *session;
	uint32_t type;
	size_t length;
	unsigned int count;
	int ret;
	pthread_t thread;
};

static void *send_thread(void *arg)
{
	struct sending *s = arg;
	uint8_t *data = malloc(s->length);

	memset(data, (int)s->type, s->length);
	for (unsigned int i = 0; i < s->count && s->ret == 0; i++)
		s->ret = send_to(s->session, s->type, data, s->length);
	free(data);
	return NULL;
}

static void send_begin(struct sending *s)
{
	cr_assert_eq(pthread_create(&s->thread, NULL, send_thread, s), 0);
}

/* Takes a message that one of @s must have sent. */
static void take_one(struct vmferry_session *at, const struct sending *s, unsigned int senders)
{
	struct vmferry_message m;

	cr_assert_eq(vmferry_recv(at, &m, PATIENT), 0);
	cr_assert_lt(m.type, senders);
	cr_assert_eq(m.length, s[m.type].length);
	for (size_t i = 0; i < m.length; i++)
		cr_assert_eq(((uint8_t *)m.data)[i], m.type);
	vmferry_message_free(&m);
}

Test(mailbox, many_senders_on_both_sides_at_once__whole_messages)
{
	enum { SENDERS = 3, EACH = 60 };
	struct sending s[2][SENDERS];

	for (unsigned int side = 0; side < 2; side++)
		for (unsigned int i = 0; i < SENDERS; i++) {
			s[side][i] = (struct sending){
				.session = side == 0 ? pair.source : pair.destination,
				.type = i,
				.length = 1 + 50000 * i,
				.count = EACH,
			};
			send_begin(&s[side][i]);
		}
	for (unsigned int i = 0; i < SENDERS * EACH; i++) {
		take_one(pair.destination, s[0], SENDERS);
		take_one(pair.source, s[1], SENDERS);
	}
	for (unsigned int side = 0; side < 2; side++)
		for (unsigned int i = 0; i < SENDERS; i++) {
			pthread_join(s[side][i].thread, NULL);
			cr_expect_eq(s[side][i].ret, 0);
		}
}

/* Nobody but these two threads is needed to move anything. */
Test(mailbox, busy_polling__questions_and_answers)
{
	vmferry_session_busy_poll(pair.source, vmferry_now() + 5000 * MS);
	vmferry_session_busy_poll(pair.destination, vmferry_now() + 5000 * MS);
	for (uint32_t i = 0; i < 3 * SLOTS; i++) {
		cr_assert_eq(send_to(pair.source, i, &i, sizeof(i)), 0);
		expect(pair.destination, i, &i, sizeof(i));
		cr_assert_eq(send_to(pair.destination, i, &i, sizeof(i)), 0);
		expect(pair.source, i, &i, sizeof(i));
	}
}

Test(mailbox, busy_polling_over__arrives_all_the_same)
{
	vmferry_session_busy_poll(pair.destination, vmferry_now() + 20 * MS);
	while (vmferry_now() < rdma_session_of(pair.destination)->busy_poll_until)
		rdma_poll(pair.destination);
	for (uint32_t i = 0; i < 3 * SLOTS; i++) {
		cr_assert_eq(send_to(pair.source, i, NULL, 0), 0);
		expect(pair.destination, i, NULL, 0);
	}
}

/* ---- deadlines ------------------------------------------------------------------------------- */

Test(mailbox, nothing_moves__etimedout_and_what_was_taken_arrives)
{
	uint64_t begun;
	uint32_t sent = 0;

	fake_hold_wire(true);
	while (vmferry_send(pair.source, VMFERRY_MAILBOX, sent, &sent, sizeof(sent), 0) == 0)
		sent++;
	cr_expect_geq(sent, SLOTS - 4);
	cr_expect_leq(sent, SLOTS);
	begun = vmferry_now();
	cr_expect_eq(vmferry_send(pair.source, VMFERRY_MAILBOX, 1, "", 1, begun + 30 * MS),
		     -ETIMEDOUT);
	cr_expect_geq(vmferry_now(), begun + 30 * MS);
	fake_hold_wire(false);
	for (uint32_t i = 0; i < sent; i++)
		expect(pair.destination, i, &i, sizeof(i));
	cr_assert_eq(send_to(pair.source, 1, "more", 4), 0);
	expect(pair.destination, 1, "more", 4);
}

Test(mailbox, a_part_was_sent__session_over)
{
	uint8_t *data = calloc(1, 2 * SLOTS * PAYLOAD);
	struct vmferry_message m;

	fake_hold_wire(true);
	cr_expect_eq(vmferry_send(pair.source, VMFERRY_MAILBOX, 1, data, 2 * SLOTS * PAYLOAD,
				  vmferry_now() + 30 * MS),
		     -ETIMEDOUT);
	cr_expect(log_has("the peer did not take a whole message in time"));
	/* Nobody shall try again. */
	cr_expect_eq(vmferry_recv(pair.source, &m, PATIENT), -ECONNRESET);
	cr_expect_eq(send_to(pair.source, 1, "", 0), -ECONNRESET);
	fake_hold_wire(false);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
	free(data);
}

Test(mailbox, turn_of_another__etimedout_and_session_lives)
{
	struct sending s = {
		.session = pair.source, .type = 0, .length = 2 * SLOTS * PAYLOAD, .count = 1};
	struct fake_counts counts;
	uint64_t before;

	fake_hold_wire(true);
	fake_counts(&counts);
	before = counts.wrs;
	send_begin(&s);
	/* He has posted what he can, and is in the middle of his message. */
	do
		fake_counts(&counts);
	while (counts.wrs < before + SLOTS - 4);
	cr_expect_eq(
		vmferry_send(pair.source, VMFERRY_MAILBOX, 9, NULL, 0, vmferry_now() + 20 * MS),
		-ETIMEDOUT);
	fake_hold_wire(false);
	pthread_join(s.thread, NULL);
	cr_expect_eq(s.ret, 0);
	take_one(pair.destination, &s, 1);
	cr_assert_eq(send_to(pair.source, 3, NULL, 0), 0);
	expect(pair.destination, 3, NULL, 0);
}

/* ---- the end --------------------------------------------------------------------------------- */

Test(mailbox, last_words__heard_before_the_end)
{
	enum { WORDS = 3 * SLOTS };
	struct vmferry_message m;

	for (uint32_t i = 0; i < WORDS; i++)
		cr_assert_eq(send_to(pair.source, i, &i, sizeof(i)), 0);
	vmferry_session_close(&pair.source);
	for (uint32_t i = 0; i < WORDS; i++)
		expect(pair.destination, i, &i, sizeof(i));
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
	cr_expect_eq(send_to(pair.destination, 1, "", 0), -ECONNRESET);
}

static void *close_source(void *arg)
{
	(void)arg;
	vmferry_session_close(&pair.source);
	return NULL;
}

Test(mailbox, closed_with_words_under_way__heard_before_the_end)
{
	struct vmferry_message m;
	pthread_t thread;

	fake_hold_wire(true);
	cr_assert_eq(send_to(pair.source, 1, "last", 4), 0);
	cr_assert_eq(pthread_create(&thread, NULL, close_source, NULL), 0);
	usleep(100000);
	fake_hold_wire(false);
	expect(pair.destination, 1, "last", 4);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
	pthread_join(thread, NULL);
}

/* The end of the control connection is there first, as nobody can poll for the mailbox. */
Test(mailbox, words_not_taken_when_the_end_is_seen__heard_before_it)
{
	struct rdma_session *r = rdma_session_of(pair.destination);
	struct vmferry_message m;

	pthread_mutex_lock(&r->poll_lock);
	vmferry_session_busy_poll(pair.destination, vmferry_now() + 20000 * MS);
	cr_assert_eq(send_to(pair.source, 1, "last", 4), 0);
	vmferry_session_close(&pair.source);
	usleep(100000);
	cr_expect_eq(session_error(pair.destination), 0);
	pthread_mutex_unlock(&r->poll_lock);
	expect(pair.destination, 1, "last", 4);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
}

/* Queues are armed when busy polling begins, and who waits polls. */
Test(mailbox, busy_polling__nobody_is_woken_by_completions)
{
	vmferry_session_busy_poll(pair.source, vmferry_now() + 20000 * MS);
	vmferry_session_busy_poll(pair.destination, vmferry_now() + 20000 * MS);
	usleep(50000);
	fake_fail_at(FAKE_GET_CQ_EVENT, 1, EIO);
	for (unsigned int i = 1; i <= 50; i++) {
		cr_assert_eq(send_to(pair.source, i, "there", 5), 0);
		expect(pair.destination, i, "there", 5);
		cr_assert_eq(send_to(pair.destination, i, "back", 4), 0);
		expect(pair.source, i, "back", 4);
	}
	cr_expect_not(fake_reached());
	fake_fail_at(FAKE_GET_CQ_EVENT, 0, 0);
	vmferry_session_busy_poll(pair.source, 0);
	vmferry_session_busy_poll(pair.destination, 0);
	cr_assert_eq(send_to(pair.source, 1, "asleep", 6), 0);
	expect(pair.destination, 1, "asleep", 6);
}

/*
 * The first long one finds its memory ready; what is as long as that, longer, or comes second is
 * not different for who takes it.
 */
Test(mailbox, long_messages_while_busy_polling__whole)
{
	static const size_t lengths[] = {4095, 65536, 4096, 65537, 20000};
	static uint8_t bytes[65537];

	fill_random(bytes, sizeof(bytes), 3);
	for (int i = 0; i < 2; i++) {
		vmferry_session_busy_poll(pair.destination, vmferry_now() + 20000 * MS);
		for (unsigned int n = 0; n < 5; n++)
			cr_assert_eq(send_to(pair.source, n + 1, bytes, lengths[n]), 0);
		for (unsigned int n = 0; n < 5; n++)
			expect(pair.destination, n + 1, bytes, lengths[n]);
	}
}

Test(mailbox, device_loses_the_connection__econnreset)
{
	struct fake_match mailbox = {
		.qp_num = rdma_mailbox_connection(rdma_session_of(pair.source))->id->qp->qp_num};
	struct vmferry_message m;

	fake_fail_wr(&mailbox, 1, IBV_WC_RETRY_EXC_ERR);
	cr_assert_eq(send_to(pair.source, 1, "", 0), 0);
	cr_expect_eq(vmferry_recv(pair.source, &m, PATIENT), -ECONNRESET);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -ECONNRESET);
}

Test(mailbox, post_fails__session_over)
{
	fake_fail_at(FAKE_POST_SEND, 1, EINVAL);
	cr_expect_eq(send_to(pair.source, 1, "", 0), -EINVAL);
	cr_expect_eq(send_to(pair.source, 1, "", 0), -EINVAL);
	cr_expect(log_has("cannot post a fragment"));
}

/* ---- a peer that does not keep to it --------------------------------------------------------- */

struct raw_fragment {
	uint32_t type;
	uint32_t total;
	uint32_t length;
	uint16_t credits;
	uint16_t rest;
	uint32_t bytes; /* that are sent, with the header */
};

/* Behind the source's back: its own counting is wrong after that. */
static void post_raw(const struct raw_fragment *f)
{
	struct rdma_connection *conn = rdma_mailbox_connection(rdma_session_of(pair.source));
	uint8_t bytes[HEADER + 64] = {0};
	struct ibv_sge sge = {.addr = (uintptr_t)bytes, .length = f->bytes};
	struct ibv_send_wr *bad, wr = {
					 .sg_list = &sge,
					 .num_sge = 1,
					 .opcode = IBV_WR_SEND,
					 .send_flags = IBV_SEND_INLINE,
				 };

	wire_put_u32(bytes, f->type);
	wire_put_u32(bytes + 4, f->total);
	wire_put_u32(bytes + 8, f->length);
	wire_put_u16(bytes + 12, f->credits);
	wire_put_u16(bytes + 14, f->rest);
	cr_assert_eq(ibv_post_send(conn->id->qp, &wr, &bad), 0);
}

static void refused(const struct raw_fragment *f, const char *why)
{
	struct vmferry_message m;

	post_raw(f);
	cr_expect_eq(vmferry_recv(pair.destination, &m, PATIENT), -EPROTO);
	cr_expect(log_has(why), "not said: %s", why);
}

Test(mailbox, good_by_hand__taken)
{
	post_raw(&(struct raw_fragment){.type = 6, .total = 2, .length = 2, .bytes = HEADER + 2});
	expect(pair.destination, 6, "\0", 2);
}

Test(mailbox, header_cut__eproto)
{
	refused(&(struct raw_fragment){.bytes = HEADER - 1}, "is shorter than its header");
}

Test(mailbox, length_not_its_own__eproto)
{
	refused(&(struct raw_fragment){.total = 9, .length = 9, .bytes = HEADER + 8},
		"has a header that does not fit it");
}

Test(mailbox, rest_of_header_used__eproto)
{
	refused(&(struct raw_fragment){.rest = 1, .bytes = HEADER},
		"has a header that does not fit it");
}

Test(mailbox, impossible_type__eproto)
{
	refused(&(struct raw_fragment){.type = VMFERRY_MESSAGE_TYPE_MAX + 1, .bytes = HEADER},
		"has an impossible type");
}

Test(mailbox, too_long__eproto)
{
	refused(&(struct raw_fragment){.total = VMFERRY_MESSAGE_MAX + 1,
				       .length = 1,
				       .bytes = HEADER + 1},
		"is of a message that is too long");
}

Test(mailbox, more_than_the_message__eproto)
{
	refused(&(struct raw_fragment){.total = 1, .length = 2, .bytes = HEADER + 2},
		"has not the bytes that are missing");
}

Test(mailbox, fragment_of_nothing__eproto)
{
	refused(&(struct raw_fragment){.total = 1, .bytes = HEADER},
		"has not the bytes that are missing");
}

Test(mailbox, another_message_between__eproto)
{
	post_raw(&(struct raw_fragment){.type = 1, .total = 4, .length = 2, .bytes = HEADER + 2});
	refused(&(struct raw_fragment){.type = 2, .total = 4, .length = 2, .bytes = HEADER + 2},
		"is of another message than the one before it");
}

Test(mailbox, another_length_between__eproto)
{
	post_raw(&(struct raw_fragment){.type = 1, .total = 4, .length = 2, .bytes = HEADER + 2});
	refused(&(struct raw_fragment){.type = 1, .total = 5, .length = 2, .bytes = HEADER + 2},
		"is of another message than the one before it");
}

Test(mailbox, more_than_is_missing__eproto)
{
	post_raw(&(struct raw_fragment){.type = 1, .total = 4, .length = 2, .bytes = HEADER + 2});
	refused(&(struct raw_fragment){.type = 1, .total = 4, .length = 3, .bytes = HEADER + 3},
		"has not the bytes that are missing");
}

Test(mailbox, credits_with_bytes__eproto)
{
	refused(
		&(struct raw_fragment){
			.type = CREDIT, .total = 1, .length = 1, .bytes = HEADER + 1},
		"of credits has bytes");
}

Test(mailbox, credits_that_nobody_used__eproto)
{
	refused(&(struct raw_fragment){.type = CREDIT, .credits = 1, .bytes = HEADER},
		"gives back more than there was");
}

Test(mailbox, nobody_reads__enobufs)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < 2 * INBOX_COUNT_MAX; i++)
		ret = vmferry_send(pair.source, VMFERRY_MAILBOX, 1, NULL, 0, PATIENT);
	cr_expect_eq(ret, -ECONNRESET);
	cr_expect(log_has("mailbox: messages are not taken"));
}
