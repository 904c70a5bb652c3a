/* SPDX-License-Identifier: MIT */
/* When the destination is told to run the guest, with monitors that say what QEMUs would. */
#include "migrator/qemu/migration.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "migrator/qemu/log.h"
#include "monitor.h"

#define RUNNING	  "{\"status\": \"running\"}"
#define PAUSED	  "{\"status\": \"paused\"}"
#define INMIGRATE "{\"status\": \"inmigrate\"}"
#define ACTIVE	  "{\"status\": \"active\"}"
#define COMPLETED "{\"status\": \"completed\"}"
#define OFF	  "[{\"capability\": \"xbzrle\", \"state\": false}]"
#define LIMITS \
	"{\"max-bandwidth\": 1000, \"downtime-limit\": 300, \"multifd-channels\": 2, \"tls-creds\": \"\"}"

static struct monitor source;
static struct monitor destination;
static struct qemu_migration *migration;
static char heard[4096];

static void ignore(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	(void)line;
}

static void set_up(void)
{
	qemu_set_log(ignore, NULL, VMFERRY_LOG_ERROR);
	cr_assert_eq(monitor_open(&source, READY), 0);
	cr_assert_eq(monitor_open(&destination, READY), 0);
}

static void tear_down(void)
{
	qemu_migration_free(&migration);
	monitor_free(&source);
	monitor_free(&destination);
}

TestSuite(migration, .init = set_up, .fini = tear_down);

/* The results of the commands from number @id on, said before they come. NULL ends them. */
static void answer(struct monitor *monitor, unsigned int id, const char *const *results)
{
	for (; *results != NULL; results++, id++)
		monitor_answer(monitor, id, *results);
}
#define ANSWER(monitor, id, ...) answer(monitor, id, (const char *const[]){__VA_ARGS__, NULL})

static int prepare(const char *source_status, int cancel_fd)
{
	const struct qemu_migration_options options = {
		.socket = "/run/source",
		.incoming = "/run/incoming",
		.downtime_ns = 5000000,
		.deadline = far(),
		.cancel_fd = cancel_fd,
	};

	ANSWER(&source, 2, source_status, "{}", OFF, LIMITS, "{}", "{}");
	ANSWER(&destination, 2, INMIGRATE, "{}", "{}");
	return qemu_migration_new(&options, source.qmp, destination.qmp, &migration);
}

static bool hears(struct monitor *monitor, const char *what)
{
	snprintf(heard, sizeof(heard), "%s", monitor_heard(monitor));
	return strstr(heard, what) != NULL;
}

static bool was_continued(void)
{
	return hears(&destination, "\"cont\"");
}

Test(migration, completed__continues_the_destination)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	cr_expect_eq(qemu_migration_channels(migration), 1);
	cr_expect_not(was_continued());
	ANSWER(&source, 8, "{}", COMPLETED);
	ANSWER(&destination, 5, "{}", RUNNING);
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_COMPLETED);
	cr_expect(was_continued());
	cr_expect_gt(qemu_migration_cont_ns(migration), 0);
	cr_assert(hears(&source, "\"uri\":\"unix:\\/run\\/source\""));
	cr_expect(strstr(heard, "\"max-bandwidth\":0,\"downtime-limit\":5,\"multifd-channels\":1"));
	cr_expect(strstr(heard, "{\"capability\":\"return-path\",\"state\":true}"));
}

Test(migration, completed_guest_that_was_paused__is_not_continued)
{
	cr_assert_eq(prepare(PAUSED, -1), 0);
	ANSWER(&source, 8, "{}", COMPLETED);
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_COMPLETED);
	cr_expect_not(was_continued());
}

Test(migration, failed__is_not_continued_and_the_settings_return)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	hears(&source, "");
	ANSWER(&source, 8, "{}", "{\"status\": \"failed\", \"error-desc\": \"x\"}", "{}", "{}",
	       RUNNING);
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_FAILED);
	cr_expect_not(was_continued());
	cr_assert(hears(&source, "\"max-bandwidth\":1000,\"downtime-limit\":300"));
	cr_expect(strstr(heard, "{\"capability\":\"return-path\",\"state\":false}"));
}

Test(migration, failed__waits_until_the_source_runs)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	ANSWER(&source, 8, "{}", "{\"status\": \"failed\"}", "{}", "{}",
	       "{\"status\": \"finish-migrate\"}", RUNNING);
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_FAILED);
	cr_expect_not(was_continued());
}

Test(migration, refused_by_qemu__is_failed)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	ANSWER(&source, 8, "error", "{}", "{}", RUNNING);
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_FAILED);
	cr_expect_not(was_continued());
}

Test(migration, source_that_is_gone__is_indeterminate)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	ANSWER(&source, 8, "{}", ACTIVE);
	close(source.fd);
	source.fd = -1;
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_INDETERMINATE);
	cr_expect_not(was_continued());
}

Test(migration, destination_that_is_gone__is_indeterminate)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	ANSWER(&source, 8, "{}", COMPLETED);
	close(destination.fd);
	destination.fd = -1;
	cr_expect_eq(qemu_migration_run(migration), QEMU_MIGRATION_INDETERMINATE);
}

/* While it waits for news, an answer that nothing was asked for would be one too many. */
static enum qemu_migration_outcome run_by(const char *const *results, bool cancelled)
{
	struct monitor_script script;
	enum qemu_migration_outcome outcome;

	monitor_script(&script, &source, 8, results);
	outcome = qemu_migration_run(migration);
	cr_expect_eq(strstr(monitor_script_end(&script), "migrate_cancel") != NULL, cancelled);
	return outcome;
}
#define RUN_BY(cancelled, ...) run_by((const char *const[]){__VA_ARGS__, NULL}, cancelled)

/* An event is reason to look, and nothing more: query-migrate has the truth. */
Test(migration, events__make_it_look)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	monitor_say(&source, "{\"event\": \"MIGRATION\", \"data\": {\"status\": \"failed\"}}\r\n");
	ANSWER(&destination, 5, "{}", INMIGRATE, RUNNING);
	cr_expect_eq(RUN_BY(false, "{}", ACTIVE, COMPLETED), QEMU_MIGRATION_COMPLETED);
	cr_expect(was_continued());
}

/* Without events it looks every now and then. */
Test(migration, without_events__it_looks_too)
{
	cr_assert_eq(prepare(RUNNING, -1), 0);
	ANSWER(&destination, 5, "{}", RUNNING);
	cr_expect_eq(RUN_BY(false, "{}", ACTIVE, ACTIVE, COMPLETED), QEMU_MIGRATION_COMPLETED);
	cr_expect(was_continued());
}

static int readable(void)
{
	const int fd = eventfd(1, EFD_CLOEXEC);

	cr_assert_geq(fd, 0);
	return fd;
}

Test(migration, cancel)
{
	const int fd = readable();

	cr_assert_eq(prepare(RUNNING, fd), 0);
	cr_expect_eq(RUN_BY(true, "{}", ACTIVE, "{}", "{\"status\": \"cancelling\"}",
			    "{\"status\": \"cancelled\"}", "{}", "{}", RUNNING),
		     QEMU_MIGRATION_CANCELLED);
	cr_expect_not(was_continued());
	close(fd);
}

Test(migration, cancel_too_late__completes)
{
	const int fd = readable();

	cr_assert_eq(prepare(RUNNING, fd), 0);
	ANSWER(&destination, 5, "{}", RUNNING);
	cr_expect_eq(RUN_BY(true, "{}", ACTIVE, "{}", COMPLETED), QEMU_MIGRATION_COMPLETED);
	cr_expect(was_continued());
	close(fd);
}

/* What the source says to the questions before anything is set, and that nothing was. */
static void expect_refused(int error, const char *status, const char *info,
			   const char *capabilities, const char *parameters)
{
	const struct qemu_migration_options options = {.deadline = far(), .cancel_fd = -1};

	ANSWER(&source, 2, status, info, capabilities, parameters);
	cr_expect_eq(qemu_migration_new(&options, source.qmp, destination.qmp, &migration), error);
	cr_expect_null(migration);
	cr_expect_not(hears(&source, "migrate-set"), "%s", heard);
	cr_expect_not(hears(&destination, "query-status"), "%s", heard);
}

Test(migration, refuses__a_guest_that_is_elsewhere)
{
	expect_refused(-EINVAL, "{\"status\": \"postmigrate\"}", "{}", OFF, LIMITS);
}

Test(migration, refuses__a_second_migration)
{
	expect_refused(-EBUSY, RUNNING, ACTIVE, OFF, LIMITS);
}

Test(migration, refuses__what_qemu_refuses)
{
	expect_refused(-EINVAL, RUNNING, "{\"blocked-reasons\": [\"VFIO\"]}", OFF, LIMITS);
}

Test(migration, refuses__xbzrle)
{
	expect_refused(-EINVAL, RUNNING, "{}", "[{\"capability\": \"xbzrle\", \"state\": true}]",
		       LIMITS);
}

Test(migration, refuses__tls)
{
	expect_refused(-EINVAL, RUNNING, "{}", OFF, "{\"tls-creds\": \"tls0\"}");
}

Test(migration, refuses__compressed_multifd)
{
	expect_refused(-EINVAL, RUNNING, "{}", OFF, "{\"multifd-compression\": \"zstd\"}");
}

/* Answers that are not of the form are no reason to go on. */
Test(migration, refuses__nonsense)
{
	expect_refused(-EINVAL, "[]", "{}", OFF, LIMITS);
}

Test(migration, refuses__a_destination_that_runs)
{
	const struct qemu_migration_options options = {.deadline = far(), .cancel_fd = -1};

	ANSWER(&source, 2, RUNNING, "{}", OFF, LIMITS);
	ANSWER(&destination, 2, RUNNING);
	cr_expect_eq(qemu_migration_new(&options, source.qmp, destination.qmp, &migration),
		     -EINVAL);
	cr_expect_not(hears(&source, "migrate-set"), "%s", heard);
}

Test(migration, source_that_refuses_its_settings__gets_the_old_ones)
{
	const struct qemu_migration_options options = {.deadline = far(), .cancel_fd = -1};

	ANSWER(&source, 2, RUNNING, "{}", OFF, LIMITS, "{}", "error", "{}", "{}");
	ANSWER(&destination, 2, INMIGRATE, "{}", "{}");
	cr_expect_eq(qemu_migration_new(&options, source.qmp, destination.qmp, &migration),
		     -EREMOTEIO);
	cr_expect(hears(&source, "\"max-bandwidth\":1000"), "%s", heard);
}
