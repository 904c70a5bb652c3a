/* SPDX-License-Identifier: MIT */
/*
 * Migrations that do not complete: the guest runs on at the source, and its QEMU is set as it was.
 */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <signal.h>
#include <string.h>

#include "migrator/qemu/ask.h"
#include "migrator/qemu/qmp.h"
#include "pair.h"

/*
 * So slow that it takes more than a minute. With multifd QEMU 7.2 may not end when its connections
 * do, but wait for a channel.
 */
#define SLOWLY "--log", "debug", "--bandwidth", "1M", "--channels", "1"

static struct pair pair;

static void set_up(void)
{
	pair_new(&pair, &(struct setting){.incoming = "defer"});
}

static void tear_down(void)
{
	pair_free(&pair);
}

TestSuite(qemu_migrate_fails, .init = set_up, .fini = tear_down);

static void expect_source_as_before(void)
{
	struct json_object *parameters;
	struct json_object *capabilities;

	cr_expect_str_eq(machine_status(&pair.source), "running");
	parameters = machine_ask(&pair.source, "query-migrate-parameters");
	capabilities = machine_ask(&pair.source, "query-migrate-capabilities");
	cr_expect_eq(ask_number(parameters, "max-bandwidth"), 128 * MIB);
	cr_expect_eq(ask_number(parameters, "downtime-limit"), 300);
	cr_expect_not(ask_capability(capabilities, "multifd"));
	cr_expect_not(ask_capability(capabilities, "return-path"));
	cr_expect_not(ask_capability(capabilities, "events"));
	json_object_put(parameters);
	json_object_put(capabilities);
}

/* It ends with @code, and so does the destination, which is spoilt. */
static void expect_stayed(int code)
{
	cr_expect_eq(program_finish(&pair.program, SECONDS), code, "%s",
		     program_err(&pair.program));
	cr_assert_eq(qmp_open(pair.source_qmp, UINT64_MAX, &pair.source.qmp), 0);
	expect_source_as_before();
	cr_expect(machine_ends(&pair.destination));
}

Test(qemu_migrate_fails, interrupt__cancels)
{
	START(&pair, SLOWLY);
	pair_await_traffic(&pair);
	kill(pair.program.pid, SIGINT);
	expect_stayed(CANCELLED);
}

Test(qemu_migrate_fails, time_is_up)
{
	START(&pair, SLOWLY, "--timeout", "2s");
	expect_stayed(FAILED);
	cr_expect(strstr(program_err(&pair.program), "not completed in time"));
}

Test(qemu_migrate_fails, destination_dies)
{
	START(&pair, SLOWLY);
	pair_await_traffic(&pair);
	kill(pair.destination.pid, SIGKILL);
	expect_stayed(FAILED);
}

/* Nobody is left to restore anything; but the guest runs on, and the other side is gone. */
Test(qemu_migrate_fails, killed_itself)
{
	START(&pair, SLOWLY);
	pair_await_traffic(&pair);
	kill(pair.program.pid, SIGKILL);
	program_finish(&pair.program, SECONDS);
	cr_expect(machine_ends(&pair.destination));
	cr_assert_eq(qmp_open(pair.source_qmp, UINT64_MAX, &pair.source.qmp), 0);
	cr_expect(machine_becomes(&pair.source, "running"));
}

/* What is there after a failure can be migrated again, to a new destination. */
Test(qemu_migrate_fails, and_is_tried_again)
{
	START(&pair, SLOWLY);
	pair_await_traffic(&pair);
	kill(pair.program.pid, SIGTERM);
	expect_stayed(CANCELLED);
	qmp_close(&pair.source.qmp);
	pair_renew_destination(&pair, &(struct setting){.incoming = "defer"});
	cr_assert_eq(MIGRATE(&pair, NOTHING), COMPLETED, "%s", program_err(&pair.program));
	cr_expect_str_eq(machine_status(&pair.destination), "running");
	pair_expect_memory(&pair);
}
