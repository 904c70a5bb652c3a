/* SPDX-License-Identifier: MIT */
/*
 * A small machine over the events that a host sends: started, progress, cancelling, error, report.
 */
#include "drive.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include <vmferry/vmferry.h>

#include "exit.h"
#include "progress.h"
#include "report.h"
#include "signals.h"
#include "units.h"

/*
 * Beyond the migration's own timeout: GO may be out, and the source asks for its answer again for a
 * while.
 */
#define SPARE_NS (60 * NS_PER_S)

static struct json_object *request_migrate(const char *uri,
					   const struct migration_settings *settings)
{
	struct json_object *request = client_request("migrate");

	json_object_object_add(request, "uri", json_object_new_string(uri));
	json_object_object_add(request, "options", migration_to_json(settings));
	return request;
}

static int lost(int rc)
{
	progress_clear();
	fprintf(stderr,
		"vmferry: the source process: %s: how the migration ended is unknown: look where "
		"the guest runs\n",
		rc == -ECONNRESET ? "it is gone" : strerror(-rc));
	return EXIT_INDETERMINATE;
}

static int cancel(struct client *client, int signal_fd)
{
	signals_take(signal_fd);
	progress_clear();
	fprintf(stderr, "cancelling\n");
	return client_send(client, client_request("cancel"));
}

struct drive {
	struct json_object **report;
	bool started;
	bool over;
	int code;
};

static bool is_usage(struct json_object *event)
{
	struct json_object *usage;

	return json_object_object_get_ex(event, "usage", &usage) && json_object_get_boolean(usage);
}

static void take_event(struct drive *drive, struct json_object *event)
{
	const char *name = report_text(event, "event", "");
	struct json_object *report;

	if (strcmp(name, "started") == 0)
		drive->started = true;
	if (strcmp(name, "progress") == 0)
		progress_show(event);
	if (strcmp(name, "error") == 0) {
		progress_clear();
		fprintf(stderr, "vmferry: %s\n", report_text(event, "message", "an error"));
		/* Once it has started an error answers a cancel; the report is still to come. */
		drive->over = !drive->started;
		drive->code = is_usage(event) ? EXIT_USAGE : EXIT_FAILED;
	}
	if (strcmp(name, "report") == 0 && json_object_object_get_ex(event, "report", &report)) {
		progress_clear();
		*drive->report = json_object_get(report);
		drive->code = (int)report_exit_code(report);
		drive->over = true;
	}
}

int drive_migration(struct client *client, const char *uri,
		    const struct migration_settings *settings, int signal_fd,
		    struct json_object **report)
{
	uint64_t deadline = vmferry_now() + settings->timeout + SPARE_NS;
	struct drive drive = {.report = report};
	int rc;

	*report = NULL;
	rc = client_send(client, request_migrate(uri, settings));
	while (!drive.over) {
		struct json_object *event = NULL;

		if (rc == 0)
			rc = client_recv(client, signal_fd, deadline, &event);
		if (rc == -EINTR) {
			rc = cancel(client, signal_fd);
			continue;
		}
		if (rc < 0)
			return lost(rc);
		take_event(&drive, event);
		json_object_put(event);
	}
	return drive.code;
}
