/* SPDX-License-Identifier: MIT */
/*
 * A source on its way to lanes over RDMA, and what the CM has to say at each step: in the way by
 * name, and a reason for TCP by default.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <string.h>

#include "../pair.h"
#include "fake/fake.h"

#define LINKS 3 /* the mailbox's and two lanes' */

static const struct {
	enum rdma_cm_event_type event;
	int status;
	const char *step;
	const char *cause;
} failures[] = {
	{RDMA_CM_EVENT_ADDR_ERROR, -ENETUNREACH, "no RDMA address here leads to the destination's",
	 "Network is unreachable"},
	{RDMA_CM_EVENT_ADDR_ERROR, -ETIMEDOUT, "no RDMA address here leads to the destination's",
	 "Connection timed out"},
	{RDMA_CM_EVENT_ROUTE_ERROR, -EHOSTDOWN, "no route to the destination's RDMA address",
	 "Host is down"},
	{RDMA_CM_EVENT_CONNECT_ERROR, -ECONNRESET, "no answer of the destination's RDMA port",
	 "Connection reset by peer"},
	{RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT, "no answer of the destination's RDMA port",
	 "No route to host"},
	{RDMA_CM_EVENT_REJECTED, 8, "no answer of the destination's RDMA port",
	 "nobody listens there"},
	{RDMA_CM_EVENT_REJECTED, 10, "no answer of the destination's RDMA port",
	 "reason 10 of the CM"},
};
#define FAILURES (sizeof(failures) / sizeof(failures[0]))

static struct vmferry_transport_options options;
static struct vmferry_listener *listener;

static void setup(void)
{
	log_keep();
	options = (struct vmferry_transport_options){
		.size = sizeof(options),
		.transport = VMFERRY_TRANSPORT_AUTO,
		.lanes = LINKS - 1,
		.insecure = true,
		.rails = {"10.99.0.1"},
		.rail_count = 1,
	};
	cr_assert_eq(vmferry_listen(LOOP, &options, &listener), 0);
}

static void teardown(void)
{
	vmferry_listener_close(&listener);
	cr_expect_not(fake_leaks());
}

TestSuite(connect, .init = setup, .fini = teardown, .timeout = 120);

/* Nobody comes of it: the destination's wait is ended by the next source. */
static void expect_refused(struct accepting *a, unsigned int ms)
{
	uint64_t begun = vmferry_now();
	struct vmferry_session *source = NULL;

	log_forget();
	options.transport = VMFERRY_TRANSPORT_RDMA;
	accept_begin(a, listener, PATIENT);
	cr_expect_eq(
		vmferry_connect(vmferry_listener_uri(listener), &options, begun + ms * MS, &source),
		-EREMOTEIO);
	cr_expect_lt(vmferry_now() - begun, (ms + 500) * MS);
	cr_expect(log_has("see vmferry check on both sides, or use the transport tcp or auto"));
}

static void expect_session(struct accepting *a, const char *transport, const char *step,
			   const char *cause)
{
	struct vmferry_session *source = NULL;
	const char *reason;
	int ret = vmferry_connect(vmferry_listener_uri(listener), &options, PATIENT, &source);

	cr_assert_eq(ret, 0, "%s", strerror(-ret));
	cr_assert_eq(accept_end(a), 0);
	reason = vmferry_session_transport_reason(source);
	cr_expect_str_eq(vmferry_session_transport(source), transport);
	cr_expect_not_null(strstr(reason, step), "%s", reason);
	cr_expect_not_null(strstr(reason, cause), "%s", reason);
	vmferry_session_close(&source);
	vmferry_session_close(&a->session);
}

static void expect_tcp(const char *step, const char *cause)
{
	struct accepting a;

	options.transport = VMFERRY_TRANSPORT_AUTO;
	accept_begin(&a, listener, PATIENT);
	expect_session(&a, "tcp", step, cause);
}

Test(connect, step_fails_and_rdma_is_asked_for__step_cause_and_remedy)
{
	for (unsigned int i = 0; i < LINKS * FAILURES; i++) {
		unsigned int f = i % FAILURES;
		struct accepting a;

		fake_cm_error_at(i / FAILURES + 1, failures[f].event, failures[f].status);
		expect_refused(&a, 1000);
		cr_expect(log_has(failures[f].step), "%s", failures[f].step);
		cr_expect(log_has(failures[f].cause), "%s", failures[f].cause);
		expect_session(&a, "rdma", "", "");
	}
}

Test(connect, step_fails__tcp_and_the_reason)
{
	for (unsigned int i = 0; i < LINKS * FAILURES; i++) {
		unsigned int f = i % FAILURES;

		fake_cm_error_at(i / FAILURES + 1, failures[f].event, failures[f].status);
		expect_tcp(failures[f].step, failures[f].cause);
	}
}

Test(connect, cm_says_nothing__deadline_and_then_the_next_source)
{
	struct accepting a;

	fake_hold_cm(true);
	expect_refused(&a, 700);
	cr_expect(log_has("no RDMA address here leads to the destination's"));
	cr_expect(log_has("Connection timed out"));
	fake_hold_cm(false);
	expect_session(&a, "rdma", "", "");
}

Test(connect, cm_says_nothing__tcp_while_there_is_time)
{
	fake_hold_cm(true);
	expect_tcp("no RDMA address here leads to the destination's", "Connection timed out");
	fake_hold_cm(false);
}

Test(connect, wire_cut__deadline_and_then_the_next_source)
{
	struct accepting a;

	fake_cut_wire(true);
	expect_refused(&a, 700);
	cr_expect(log_has("no answer of the destination's RDMA port: Connection timed out"));
	fake_cut_wire(false);
	expect_session(&a, "rdma", "", "");
}

Test(connect, wire_cut__tcp_while_there_is_time)
{
	fake_cut_wire(true);
	expect_tcp("no answer of the destination's RDMA port", "Connection timed out");
	fake_cut_wire(false);
}

/* The mailbox is there already, and could be asked to say goodbye. */
Test(connect, source_gives_up_at_the_last_lane__destination_says_that_it_has_gone)
{
	struct accepting a;

	fake_cm_error_at(LINKS, RDMA_CM_EVENT_UNREACHABLE, -ETIMEDOUT);
	expect_refused(&a, 1000);
	options.transport = VMFERRY_TRANSPORT_RDMA;
	expect_session(&a, "rdma", "", "");
	cr_expect(log_has("it has gone before all lanes came"));
	cr_expect_not(log_has("it sent something before it was ready"));
}
