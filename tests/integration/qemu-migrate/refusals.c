/* SPDX-License-Identifier: MIT */
/* What is refused before anything happens, and what --check tells. */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "migrator/qemu/ask.h"
#include "migrator/qemu/qmp.h"
#include "pair.h"

static struct pair pair;

static void tear_down(void)
{
	pair_free(&pair);
}

TestSuite(qemu_migrate_refuses, .fini = tear_down);

static void tell_source(const char *command, const char *arguments)
{
	cr_assert_eq(qmp_open(pair.source_qmp, UINT64_MAX, &pair.source.qmp), 0);
	machine_tell(&pair.source, command, arguments);
	qmp_close(&pair.source.qmp);
}

/* Nothing has happened to either. */
static void expect_refused(const char *why)
{
	cr_expect_eq(MIGRATE(&pair, NOTHING), UNABLE);
	cr_expect(strstr(program_err(&pair.program), why), "%s", program_err(&pair.program));
	cr_expect_str_eq(machine_status(&pair.source), "running");
	qmp_close(&pair.source.qmp);
	qmp_close(&pair.destination.qmp);
}

Test(qemu_migrate_refuses, xbzrle_and_tls)
{
	pair_new(&pair, &(struct setting){.incoming = "defer"});
	tell_source("migrate-set-capabilities",
		    "{\"capabilities\": [{\"capability\": \"xbzrle\", \"state\": true}]}");
	expect_refused("xbzrle");
	tell_source("migrate-set-capabilities",
		    "{\"capabilities\": [{\"capability\": \"xbzrle\", \"state\": false}]}");
	tell_source("migrate-set-parameters", "{\"tls-creds\": \"tls0\"}");
	expect_refused("tls-creds");
	tell_source("migrate-set-parameters", "{\"tls-creds\": \"\"}");
	/* The destination was not spoilt by any of it. */
	cr_expect_eq(MIGRATE(&pair, NOTHING), COMPLETED, "%s", program_err(&pair.program));
	pair_expect_memory(&pair);
}

Test(qemu_migrate_refuses, destination_that_does_not_wait)
{
	pair_new(&pair, &(struct setting){.incoming = ""});
	expect_refused("-incoming defer -S");
}

/* Newer versions want to know of multifd before they listen; older ones take it. */
Test(qemu_migrate_refuses, multifd_to_one_that_listens)
{
	int code;

	pair_new(&pair, &(struct setting){.incoming = NULL});
	code = MIGRATE(&pair, "--channels", "2");
	if (code == COMPLETED)
		return pair_expect_memory(&pair);
	cr_expect_eq(code, UNABLE);
	cr_expect(strstr(program_err(&pair.program), "-incoming defer"));
	cr_expect_str_eq(machine_status(&pair.source), "running");
}

Test(qemu_migrate_refuses, sockets_and_words_that_are_wrong)
{
	struct program program;

	pair_new(&pair, &(struct setting){.incoming = "defer"});
	cr_expect_eq(RUN_TO_END(&program, "qemu-migrate", "tcp:127.0.0.1:0"), USAGE);
	cr_expect_eq(RUN_TO_END(&program, "qemu-migrate", "--qmp", pair.source_qmp, "--to-qmp",
				pair.destination_qmp, "tcp:127.0.0.1:0"),
		     USAGE);
	cr_expect_eq(RUN_TO_END(&program, "qemu-migrate", "--qmp", pair.source_qmp, "--to-qmp",
				pair.destination_qmp, "--incoming", "/x", "nonsense"),
		     USAGE);
	cr_expect_eq(RUN_TO_END(&program, "qemu-migrate", "--qmp", work_path("none"), "--to-qmp",
				pair.destination_qmp, "--incoming", "/x", "tcp:127.0.0.1:0"),
		     FAILED);
	cr_expect(strstr(program_err(&program), "-qmp unix:"));
}

static const char *status_of(struct json_object *report, const char *name)
{
	struct json_object *checks = json_object_object_get(report, "checks");

	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *item = json_object_array_get_idx(checks, i);

		if (strcmp(ask_text(item, "name"), name) == 0)
			return ask_text(item, "status");
	}
	return "none";
}

static bool shared_memory_is_huge(void)
{
	FILE *file = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "re");
	char line[128] = "";

	if (file == NULL)
		return false;
	if (fgets(line, sizeof(line), file) == NULL)
		line[0] = '\0';
	fclose(file);
	return strstr(line, "[advise]") != NULL || strstr(line, "[always]") != NULL ||
	       strstr(line, "[within_size]") != NULL;
}

static const char *expected_of_socket_buffers(void)
{
	FILE *file = fopen("/proc/sys/net/core/wmem_default", "re");
	unsigned long bytes = 0;

	if (file == NULL)
		return "none";
	cr_assert_eq(fscanf(file, "%lu", &bytes), 1);
	fclose(file);
	return bytes < 1ul << 20 ? "slow" : "ok";
}

Test(qemu_migrate_refuses, check__of_what_is_well)
{
	struct json_object *report;

	pair_new(&pair, &(struct setting){.incoming = "defer", .shared = true});
	cr_expect_eq(MIGRATE(&pair, "--check"), COMPLETED, "%s", program_err(&pair.program));
	report = pair_report(&pair);
	cr_expect_str_eq(status_of(report, "source state"), "ok");
	cr_expect_str_eq(status_of(report, "capabilities"), "ok");
	cr_expect_str_eq(status_of(report, "-S"), "ok");
	cr_expect_str_eq(status_of(report, "socket buffers"), expected_of_socket_buffers());
	/* Small pages are worth a word. */
	cr_expect_str_eq(status_of(report, "block m0"), shared_memory_is_huge() ? "ok" : "slow");
	cr_expect_str_eq(status_of(report, "block pc.bios"), "none");
	json_object_put(report);
	cr_expect_str_eq(machine_status(&pair.source), "running");
	cr_expect_str_eq(machine_status(&pair.destination), "inmigrate");
}

Test(qemu_migrate_refuses, check__of_what_is_not)
{
	struct json_object *report;

	pair_new(&pair, &(struct setting){.incoming = "defer", .starts = true});
	tell_source("migrate-set-capabilities",
		    "{\"capabilities\": [{\"capability\": \"postcopy-ram\", \"state\": true}, "
		    "{\"capability\": \"pause-before-switchover\", \"state\": true}]}");
	cr_expect_eq(MIGRATE(&pair, "--check"), UNABLE);
	report = pair_report(&pair);
	cr_expect_str_eq(status_of(report, "-S"), "stop");
	cr_expect_str_eq(status_of(report, "pause-before-switchover"), "stop");
	cr_expect_str_eq(status_of(report, "postcopy-ram"), "slow");
	cr_expect_str_eq(status_of(report, "block pc.ram"), "slow");
	json_object_put(report);
	cr_expect(strstr(program_out(&pair.program), "would be refused"));
}
