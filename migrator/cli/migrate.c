/* SPDX-License-Identifier: MIT */
/* vmferry migrate: moves the guest of a running process, over its control socket. */
#include <json-c/json.h>
#include <stdio.h>
#include <unistd.h>

#include "client.h"
#include "command.h"
#include "drive.h"
#include "exit.h"
#include "report.h"
#include "settings.h"
#include "signals.h"

struct migrate_settings {
	const char *json;
};

static const struct option_spec output_specs[] = {
	OPTION("json", "FILE", NULL, JSON_HELP, OPTION_TEXT,
	       offsetof(struct migrate_settings, json)),
	{.name = NULL},
};

static const struct option_group output_group = {"Output of vmferry migrate", output_specs};

static const struct option_group *const groups[] = {
	&migration_group, &transport_group, &migrate_group, &output_group, &common_group, NULL,
};

static int migrate(struct client *client, const char *uri,
		   const struct migration_settings *migration, const char *json, int signal_fd)
{
	struct json_object *report;
	int code = drive_migration(client, uri, migration, signal_fd, &report);

	if (report == NULL)
		return code;
	report_print(stdout, report);
	if (json != NULL && report_write(json, report) < 0 && code == EXIT_COMPLETED)
		code = EXIT_FAILED;
	json_object_put(report);
	return code;
}

static int migrate_main(struct cli *cli, int argc, char **argv)
{
	struct migration_settings migration = {0};
	struct migrate_settings own = {0};
	struct common_settings common = {0};
	void *const targets[] = {&migration, &migration.transport, &migration, &own, &common};
	struct option_result result;
	struct client *client;
	const char *wrong;
	int signal_fd;
	int code;

	if (!option_parse(&command_migrate, argc, argv, targets, &result, &code))
		return code;
	log_open(&cli->log, (enum vmferry_log_level)common.log);
	wrong = transport_check(&migration.transport);
	if (wrong != NULL) {
		fprintf(stderr, "vmferry migrate: %s\n", wrong);
		return EXIT_USAGE;
	}
	if (signals_open(&signal_fd) < 0)
		return EXIT_FAILED;
	code = EXIT_FAILED;
	if (client_connect(result.arguments[0], &client) == 0) {
		code = migrate(client, result.arguments[1], &migration, own.json, signal_fd);
		client_free(&client);
	}
	close(signal_fd);
	return code;
}

const struct command command_migrate = {
	.name = "migrate",
	.arguments = "SOCKET URI",
	.argument_count = 2,
	.summary =
		"Move the guest of the process with this control socket to tcp:HOST:PORT. Ctrl-C "
		"cancels, and the guest runs on.",
	.groups = groups,
	.main = migrate_main,
};
