/* SPDX-License-Identifier: MIT */
/*
 * The control socket's commands: status, migrate, cancel, quit. Every one is answered with one
 * object or more.
 */
#include "host_state.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "units.h"

struct request {
	const char *name;
	void (*serve)(struct host *host, uint64_t client, struct json_object *request);
};

static struct json_object *event(const char *name)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, "event", json_object_new_string(name));
	return object;
}

static void add_text(struct json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, value == NULL ? NULL : json_object_new_string(value));
}

static void add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static const char *state_name(const struct host *host, const struct vmm_status *status)
{
	if (host->vmm == NULL)
		return "waiting";
	if (host->departure != NULL)
		return "migrating";
	if (host->indeterminate)
		return "indeterminate";
	if (status->stopped)
		return "stopped";
	return status->running ? "running" : "paused";
}

static void add_guest(struct json_object *answer, const struct vmm_status *status)
{
	struct json_object *vcpus = json_object_new_array();

	json_object_object_add(answer, "ready", json_object_new_boolean(status->ready));
	add_u64(answer, "faults", status->faults);
	add_u64(answer, "scrubs", status->scrubs);
	add_u64(answer, "memory", status->memory);
	if (status->stopped)
		add_text(answer, "stop_reason", status->stop_reason);
	for (unsigned int i = 0; i < status->vcpus && i < VMM_VCPUS_MAX; i++) {
		struct json_object *vcpu = json_object_new_object();

		add_u64(vcpu, "beats", status->pulse[i].beats);
		add_u64(vcpu, "max_gap_us", status->pulse[i].max_gap_ns / NS_PER_US);
		json_object_array_add(vcpus, vcpu);
	}
	json_object_object_add(answer, "vcpus", vcpus);
}

static void serve_status(struct host *host, uint64_t client, struct json_object *request)
{
	struct json_object *answer = event("status");
	struct vmm_status status = {0};

	(void)request;
	if (host->vmm != NULL)
		vmm_status(host->vmm, &status);
	add_text(answer, "state", state_name(host, &status));
	add_u64(answer, "pid", (uint64_t)getpid());
	if (host->waiting)
		add_text(answer, "uri", vmferry_destination_uri(host->destination));
	if (host->vmm != NULL)
		add_guest(answer, &status);
	control_send(host->control, client, answer);
}

static const char *why_not_migrate(const struct host *host)
{
	struct vmm_status status;

	if (host->vmm == NULL)
		return "no guest is here yet: wait until one has arrived";
	if (host->departure != NULL)
		return "a migration is under way: wait for its end or cancel it";
	if (host->indeterminate)
		return "the last migration is indeterminate: the guest may run at its destination";
	if (host->quitting)
		return "this process is about to end";
	vmm_status(host->vmm, &status);
	return status.stopped ? "the guest has stopped: there is nothing to migrate" : NULL;
}

/* @usage: what was asked for can never work, whatever the guest does. */
static void refuse(struct host *host, uint64_t client, bool usage, const char *message)
{
	struct json_object *answer = event("error");

	add_text(answer, "message", message);
	json_object_object_add(answer, "usage", json_object_new_boolean(usage));
	control_send(host->control, client, answer);
}

static void serve_migrate(struct host *host, uint64_t client, struct json_object *request)
{
	struct migration_settings settings = {0};
	struct json_object *options = NULL;
	struct json_object *uri = NULL;
	const char *refusal = why_not_migrate(host);
	bool usage = refusal == NULL;
	char why[OPTION_WHY_MAX];
	char error[LOG_LINE_MAX];
	int rc;

	json_object_object_get_ex(request, "options", &options);
	if (refusal == NULL && (!json_object_object_get_ex(request, "uri", &uri) ||
				!json_object_is_type(uri, json_type_string)))
		refusal = "migrate: no uri: add \"uri\":\"tcp:HOST:PORT\"";
	if (refusal == NULL && migration_from_json(options, &settings, why) < 0)
		refusal = why;
	if (refusal != NULL) {
		refuse(host, client, usage, refusal);
		return;
	}
	log_take_error(host->log, error, "");
	rc = departure_start(host->vmm, json_object_get_string(uri), &settings, &host->departure);
	if (rc < 0) {
		log_take_error(host->log, error, strerror(-rc));
		refuse(host, client, rc == -EINVAL || rc == -EPERM, error);
		return;
	}
	host->watcher = client;
	host->next_progress = vmferry_now();
	control_send(host->control, client, event("started"));
}

static void serve_cancel(struct host *host, uint64_t client, struct json_object *request)
{
	(void)request;
	if (host->departure == NULL)
		control_send_error(host->control, client, "no migration is under way");
	else if (departure_cancel(host->departure) < 0)
		control_send_error(host->control, client,
				   "too late: the guest is already the destination's");
	else
		control_send(host->control, client, event("cancelling"));
}

static void serve_quit(struct host *host, uint64_t client, struct json_object *request)
{
	(void)request;
	control_send(host->control, client, event("quitting"));
	host_quit(host);
}

static const struct request requests[] = {
	{"status", serve_status},
	{"migrate", serve_migrate},
	{"cancel", serve_cancel},
	{"quit", serve_quit},
};

void host_request(void *ctx, uint64_t client, struct json_object *request)
{
	struct host *host = ctx;
	struct json_object *name = NULL;
	const char *text;

	json_object_object_get_ex(request, "command", &name);
	text = json_object_is_type(name, json_type_string) ? json_object_get_string(name) : "";
	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		if (strcmp(requests[i].name, text) == 0) {
			requests[i].serve(host, client, request);
			return;
		}
	}
	control_send_error(host->control, client,
			   "no such command: it is one of status, migrate, cancel, quit");
}

void host_send_progress(struct host *host)
{
	struct json_object *object = departure_progress(host->departure);

	json_object_object_add(object, "event", json_object_new_string("progress"));
	control_send(host->control, host->watcher, object);
}
