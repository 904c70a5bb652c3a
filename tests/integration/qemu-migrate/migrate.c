/* SPDX-License-Identifier: MIT */
/* Migrations that complete: where the guest is then, and whether it runs. */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "migrator/qemu/ask.h"
#include "migrator/qemu/qmp.h"
#include "pair.h"

static struct pair pair;

static void tear_down(void)
{
	pair_free(&pair);
}

TestSuite(qemu_migrate, .fini = tear_down);

static void expect_moved(const char *status)
{
	cr_expect_str_eq(machine_status(&pair.source), "postmigrate");
	cr_expect_str_eq(machine_status(&pair.destination), status);
	pair_expect_memory(&pair);
}

static struct json_object *member(struct json_object *object, const char *name)
{
	struct json_object *value = json_object_object_get(object, name);

	cr_assert(value, "no %s in %s", name, json_object_to_json_string(object));
	return value;
}

/* What the adaptor needs, beside the right to trace a QEMU of the same user. */
static bool may_force_buffers(void)
{
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), bytes = 1 << 20;
	bool may = setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof(bytes)) == 0;

	close(fd);
	return may;
}

Test(qemu_migrate, private_memory__with_multifd)
{
	struct json_object *report;

	pair_new(&pair, &(struct setting){.incoming = "defer"});
	cr_assert_eq(MIGRATE(&pair, NOTHING), COMPLETED, "%s", program_err(&pair.program));
	expect_moved("running");
	report = pair_report(&pair);
	cr_expect_str_eq(ask_text(report, "result"), "completed");
	cr_expect_str_eq(ask_text(report, "mode"), "offload");
	cr_expect_str_eq(ask_text(report, "transport"), "tcp");
	cr_expect_eq(ask_number(report, "channels"), 2);
	cr_expect_gt(ask_number(report, "cont_us"), 0);
	cr_expect_str_eq(ask_text(member(report, "query_migrate"), "status"), "completed");
	cr_expect_geq(ask_number(member(member(report, "adaptor"), "pages"), "moved"),
		      FILLED / 4096);
	cr_expect_eq(ask_number(member(report, "adaptor"), "send_buffer_bytes") > 0,
		     may_force_buffers());
	json_object_put(report);
}

Test(qemu_migrate, shared_memory__one_stream_to_one_that_listens)
{
	struct json_object *report;

	pair_new(&pair, &(struct setting){.shared = true});
	cr_assert_eq(MIGRATE(&pair, NOTHING), COMPLETED, "%s", program_err(&pair.program));
	expect_moved("running");
	report = pair_report(&pair);
	cr_expect_eq(ask_number(report, "channels"), 1);
	json_object_put(report);
}

Test(qemu_migrate, forward__passes_everything_through)
{
	struct json_object *report;

	pair_new(&pair, &(struct setting){.incoming = "defer"});
	cr_assert_eq(MIGRATE(&pair, "--place", "forward"), COMPLETED, "%s",
		     program_err(&pair.program));
	expect_moved("running");
	report = pair_report(&pair);
	cr_expect_str_eq(ask_text(report, "mode"), "forward");
	json_object_put(report);
}

Test(qemu_migrate, paused_guest__stays_paused)
{
	pair_new(&pair, &(struct setting){.incoming = "defer"});
	cr_assert_eq(qmp_open(pair.source_qmp, UINT64_MAX, &pair.source.qmp), 0);
	machine_tell(&pair.source, "stop", NULL);
	qmp_close(&pair.source.qmp);
	cr_assert_eq(MIGRATE(&pair, NOTHING), COMPLETED, "%s", program_err(&pair.program));
	expect_moved("paused");
}

Test(qemu_migrate, autostart__only_when_it_is_allowed)
{
	pair_new(&pair, &(struct setting){.incoming = "defer", .starts = true});
	cr_assert_eq(MIGRATE(&pair, NOTHING), UNABLE);
	cr_expect(strstr(program_err(&pair.program), "--allow-autostart"));
	cr_expect_str_eq(machine_status(&pair.source), "running");
	qmp_close(&pair.source.qmp);
	qmp_close(&pair.destination.qmp);
	cr_assert_eq(MIGRATE(&pair, "--allow-autostart"), COMPLETED, "%s",
		     program_err(&pair.program));
	expect_moved("running");
}

/* A receiver that runs already is used: it knows the incoming socket. */
Test(qemu_migrate, receiver_that_runs__is_used)
{
	struct program receiver;
	char uri[64] = "";

	pair_new(&pair, &(struct setting){.incoming = "defer"});
	PROGRAM(&receiver, "qemu-receive", "--incoming", pair.incoming, "tcp:127.0.0.1:0");
	cr_assert(file_says(receiver.out, "for qemu-send", SECONDS));
	cr_assert_eq(sscanf(program_out(&receiver), "listening at %63s", uri), 1);
	cr_assert_eq(MIGRATE(&pair, uri), COMPLETED, "%s", program_err(&pair.program));
	expect_moved("running");
	cr_expect(file_says(receiver.out, "completed", SECONDS));
	program_kill(&receiver);
}
