/* SPDX-License-Identifier: MIT */
/*
 * One poll loop: signals, the control socket, a migration away, an arrival. The guest's vCPUs and
 * the library's threads run beside it and are never waited for in here.
 */
#include "host_state.h"

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <vmferry/vmferry.h>

#include "report.h"
#include "signals.h"
#include "units.h"

/* How long a guest that stopped may go unseen, and the time between two progress lines. */
#define TICK_MS 50
/* What a destination takes at most, once its guest runs, to tell the source all and to clear up. */
#define ARRIVAL_NS  (2 * NS_PER_S)
#define PROGRESS_NS (100 * NS_PER_MS)
#define SAY_MAX	    1024

__attribute__((format(printf, 2, 3))) static void say(const struct host *host, const char *fmt, ...)
{
	char text[SAY_MAX];
	va_list args;

	va_start(args, fmt);
	vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (host->quiet)
		return;
	fputs(text, stdout);
	fflush(stdout);
}

static void finish(struct host *host, enum exit_code code)
{
	host->over = true;
	host->code = code;
}

void host_quit(struct host *host)
{
	host->quitting = true;
	if (host->departure != NULL)
		departure_cancel(host->departure);
	if (host->waiting)
		vmferry_destination_cancel(host->destination);
}

/* ---- events ---------------------------------------------------------------------------------- */

static void conclude(struct host *host, struct json_object *report, const char *uri)
{
	const char *result = report_text(report, "result", "failed");
	const char *reason = report_text(report, "reason", "no reason was given");

	if (strcmp(result, "completed") == 0) {
		say(host, "the guest runs at %s now\n", uri);
		finish(host, report_exit_code(report));
	} else if (strcmp(result, "indeterminate") == 0) {
		host->indeterminate = true;
		say(host,
		    "the migration to %s is indeterminate: %s: the guest stays paused here; look "
		    "whether it runs there before you end this process\n",
		    uri, reason);
	} else {
		say(host, "the migration to %s %s: %s: the guest runs on here\n", uri,
		    strcmp(result, "cancelled") == 0 ? "was cancelled" : "failed", reason);
	}
}

/* The log knows the cause and the remedy; the report's reason is the engine's and shorter. */
static struct json_object *add_detail(struct host *host, struct json_object *report)
{
	char error[LOG_LINE_MAX];

	log_take_error(host->log, error, "");
	if (*error == '\0' || strcmp(report_text(report, "result", ""), "failed") != 0)
		return report;
	return report_insert(report, "reason", "detail", json_object_new_string(error));
}

static void on_departed(struct host *host)
{
	char *uri = strdup(departure_uri(host->departure));
	struct json_object *report = add_detail(host, departure_finish(&host->departure));
	struct json_object *message = json_object_new_object();

	conclude(host, report, uri == NULL ? "the destination" : uri);
	free(uri);
	json_object_object_add(message, "event", json_object_new_string("report"));
	json_object_object_add(message, "report", report);
	control_send(host->control, host->watcher, message);
}

static void write_arrival(const struct host *host)
{
	struct json_object *report;
	char *json;

	if (host->arrival_json == NULL || vmferry_destination_report(host->destination, &json) < 0)
		return;
	report = json_tokener_parse(json);
	if (report != NULL)
		report_write(host->arrival_json, report);
	json_object_put(report);
	free(json);
}

static void on_arrived(struct host *host)
{
	int rc = vmferry_destination_wait(host->destination, vmferry_now() + ARRIVAL_NS);

	if (rc == -ETIMEDOUT)
		return;
	host->waiting = false;
	host->vmm = host->arriving.vmm;
	if (rc < 0) {
		finish(host, rc == -ECANCELED ? EXIT_CANCELLED : EXIT_FAILED);
		return;
	}
	write_arrival(host);
	/*
	 * Whoever asked to quit asked it of an empty process: a guest is not thrown away for that.
	 */
	if (host->quitting)
		say(host, "a guest had already arrived: ask again to stop it\n");
	host->quitting = false;
	say(host, "the guest has arrived and runs here\n");
}

static void look_at_guest(struct host *host)
{
	struct vmm_status status;

	if (host->vmm == NULL || host->departure != NULL || host->over)
		return;
	if (host->quitting) {
		finish(host, host->indeterminate ? EXIT_INDETERMINATE : EXIT_COMPLETED);
		return;
	}
	vmm_status(host->vmm, &status);
	if (!status.stopped)
		return;
	fprintf(stderr, "vmferry: the guest has stopped: %s\n", status.stop_reason);
	finish(host, EXIT_FAILED);
}

static void look_at_departure(struct host *host)
{
	uint64_t now = vmferry_now();

	if (host->departure == NULL || now < host->next_progress)
		return;
	host->next_progress = now + PROGRESS_NS;
	host_send_progress(host);
}

/*
 * The source may know that its guest runs here, and tell people, a moment before the destination
 * has cleared up.
 */
static bool arriving(const struct host *host)
{
	return host->waiting && vmferry_destination_phase(host->destination) == VMFERRY_RUNNING;
}

int host_serve(struct host *host)
{
	while (!host->over) {
		struct pollfd fds[] = {
			{.fd = host->signal_fd, .events = POLLIN},
			{.fd = control_fd(host->control), .events = POLLIN},
			{.fd = host->departure == NULL ? -1 : departure_fd(host->departure),
			 .events = POLLIN},
			{.fd = host->waiting ? vmferry_destination_fd(host->destination) : -1,
			 .events = POLLIN},
		};

		if (poll(fds, 4, TICK_MS) < 0 && errno != EINTR) {
			fprintf(stderr, "vmferry: poll: %s: free memory\n", strerror(errno));
			return EXIT_FAILED;
		}
		if (fds[2].revents != 0)
			on_departed(host);
		if (fds[3].revents != 0 || (fds[1].revents != 0 && arriving(host)))
			on_arrived(host);
		if (fds[0].revents != 0 && signals_take(host->signal_fd))
			host_quit(host);
		if (fds[1].revents != 0)
			control_serve(host->control, host_request, host);
		look_at_departure(host);
		look_at_guest(host);
	}
	return host->code;
}

/* ---- life ------------------------------------------------------------------------------------ */

/* $XDG_RUNTIME_DIR is the user's alone; /tmp is not, so the socket's own mode must do there. */
static void own_path(char *path, size_t size)
{
	const char *directory = getenv("XDG_RUNTIME_DIR");

	if (directory == NULL || *directory != '/')
		directory = "/tmp";
	snprintf(path, size, "%s/vmferry-%d.sock", directory, (int)getpid());
}

static int open_control(struct host *host, const struct host_setup *setup)
{
	const char *path = setup->control;
	int fd = setup->control_fd;
	char own[256];
	int rc = 0;

	if (path == NULL) {
		own_path(own, sizeof(own));
		path = own;
	}
	if (fd < 0)
		rc = control_listen(path, &fd);
	if (rc == 0)
		rc = control_new(fd, path, &host->control);
	if (rc == 0)
		say(host, "control socket %s\n", path);
	return rc;
}

int host_new(const struct host_setup *setup, struct host **host)
{
	struct host *h;
	int rc;

	h = calloc(1, sizeof(*h));
	if (h == NULL)
		return -ENOMEM;
	h->log = setup->log;
	h->quiet = setup->quiet;
	rc = signals_open(&h->signal_fd);
	if (rc == 0)
		rc = open_control(h, setup);
	if (rc == 0)
		*host = h;
	else
		host_free(&h);
	return rc;
}

void host_adopt(struct host *host, struct vmm *vmm)
{
	host->vmm = vmm;
}

int host_await(struct host *host, const struct host_arrival *arrival)
{
	struct vmferry_destination_options options = {.size = sizeof(options)};
	int rc;

	transport_options(arrival->transport, &options.transport);
	options.transport.insecure = arrival->insecure;
	host->arriving = (struct vmm_arrival){
		.console_fd = arrival->console_fd,
		.numa_node = arrival->numa_node,
		.memory_limit = arrival->memory_limit,
	};
	host->arrival_json = arrival->json;
	rc = vmferry_destination_new(&vmm_destination_ops, &host->arriving, arrival->uri, &options,
				     &host->destination);
	if (rc < 0)
		return rc;
	rc = vmferry_destination_start(host->destination);
	if (rc < 0)
		return rc;
	host->waiting = true;
	say(host, "waiting for a guest at %s\n", vmferry_destination_uri(host->destination));
	return 0;
}

void host_free(struct host **host)
{
	struct host *h = *host;

	if (h == NULL)
		return;
	control_free(&h->control);
	/* The destination may look at the vmm's memory and fds until it is freed. */
	vmferry_destination_free(&h->destination);
	vmm_free(&h->vmm);
	if (h->signal_fd > 0)
		close(h->signal_fd);
	free(h);
	*host = NULL;
}
