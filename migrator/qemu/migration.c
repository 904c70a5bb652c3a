/* SPDX-License-Identifier: MIT */
/*
 * The return path makes the source wait for the destination's word that it has loaded the guest. So
 * when the source says "completed" it will not run the guest again, and the destination, started
 * with -S, has it and does not run it yet: cont there is sent then, and never before. Whatever goes
 * wrong earlier, QEMU lets the source run on by itself.
 */
#include "migration.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <vmferry/vmferry.h>

#include "ask.h"
#include "log.h"
#include "process.h"
#include "qmp.h"

#define ANSWER_NS 10000000000U
#define PERIOD_NS 200000000U /* of looking at the progress */
#define CANCEL_NS 10000000000U
#define RUN_NS	  30000000000U
#define NS_PER_MS 1000000U
#define GONE_MS	  2000
#define URI_BYTES 128

struct qemu_migration {
	struct qemu_migration_options options;
	struct qmp *source;
	struct qmp *destination;
	struct qemu_process receiver; /* pidfd -1: not known */
	unsigned int channels;
	bool running; /* the guest did, when the migration began */
	uint64_t cont_ns;
	struct json_object *info;
	struct json_object *capabilities; /* the source's, as they were */
	struct json_object *parameters;
};

static uint64_t soon(void)
{
	return vmferry_now() + ANSWER_NS;
}

static int execute(struct qmp *qmp, const char *command, struct json_object *arguments)
{
	return qmp_execute(qmp, command, arguments, soon(), NULL);
}

/* ---- looking --------------------------------------------------------------------------------- */

static int refuse(int error, const char *side, const char *what, const char *remedy)
{
	qemu_error("%s: refused: %s; %s", side, what, remedy);
	return error;
}

static int look_at_source(struct qemu_migration *migration)
{
	struct json_object *info = NULL;
	char status[ASK_STATUS_MAX];
	int ret = ask_status(migration->source, soon(), status);

	if (ret < 0)
		return ret;
	migration->running = strcmp(status, "running") == 0;
	if (!migration->running && strcmp(status, "paused") != 0)
		return refuse(-EINVAL, "source", status,
			      "only a guest that runs or is paused can be migrated");
	ret = qmp_execute(migration->source, "query-migrate", NULL, soon(), &info);
	if (ret < 0)
		return ret;
	if (ask_busy(info))
		ret = refuse(-EBUSY, "source", "another migration is under way",
			     "wait for its end, or migrate_cancel");
	else if (ask_blocker(info) != NULL)
		ret = refuse(-EINVAL, "source", ask_blocker(info), "remove it for the migration");
	json_object_put(info);
	return ret;
}

/* What would be no migration by lanes at all. One that wants it does not need this. */
static int look_at_settings(struct qemu_migration *migration)
{
	static const char *const unwanted[] = {"xbzrle",
					       "compress",
					       "block",
					       "postcopy-ram",
					       "dirty-bitmaps",
					       "x-ignore-shared",
					       "mapped-ram",
					       "x-colo",
					       "zero-copy-send",
					       "background-snapshot",
					       "pause-before-switchover"};
	const char *compression;
	int ret;

	ret = qmp_execute(migration->source, "query-migrate-capabilities", NULL, soon(),
			  &migration->capabilities);
	if (ret == 0)
		ret = qmp_execute(migration->source, "query-migrate-parameters", NULL, soon(),
				  &migration->parameters);
	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < sizeof(unwanted) / sizeof(*unwanted); i++)
		if (ask_capability(migration->capabilities, unwanted[i]))
			return refuse(-EINVAL, "source: capability on", unwanted[i],
				      "turn it off: migrate_set_capability NAME off");
	if (*ask_text(migration->parameters, "tls-creds") != '\0')
		return refuse(-EINVAL, "source", "parameter tls-creds is set",
			      "memory that QEMU encrypts does not go by lanes: unset it");
	compression = ask_text(migration->parameters, "multifd-compression");
	if (*compression != '\0' && strcmp(compression, "none") != 0)
		return refuse(-EINVAL, "source", "parameter multifd-compression is set",
			      "set it to none");
	return 0;
}

/*
 * The socket's own process tells of -S, if it is a QEMU: it may be a forwarded one. The receiver
 * looks at its QEMU again, whatever was found here.
 */
static int look_at_process(struct qemu_migration *migration)
{
	struct qemu_process *receiver = &migration->receiver;

	if (qemu_process_of_socket(qmp_fd(migration->destination), receiver) < 0)
		return 0;
	if (!receiver->incoming)
		qemu_process_close(receiver);
	else if (receiver->autostart && !migration->options.allow_autostart)
		return refuse(-EPERM, "destination", "it starts the guest by itself",
			      "start it with -S, or allow it: --allow-autostart");
	return 0;
}

static int look_at_destination(struct qemu_migration *migration)
{
	char status[ASK_STATUS_MAX];
	int ret = ask_status(migration->destination, soon(), status);

	if (ret < 0)
		return ret;
	if (strcmp(status, "inmigrate") != 0)
		return refuse(-EINVAL, "destination", status,
			      "start it with -incoming defer -S, and anew for each attempt");
	ret = look_at_process(migration);
	if (ret < 0)
		return ret;
	migration->channels = migration->options.channels;
	if (migration->channels == 0)
		migration->channels = migration->receiver.deferred ? 2 : 1;
	return 0;
}

/* ---- setting up ------------------------------------------------------------------------------ */

static struct json_object *capability(const char *name, bool state)
{
	struct json_object *item = json_object_new_object();

	json_object_object_add(item, "capability", json_object_new_string(name));
	json_object_object_add(item, "state", json_object_new_boolean(state));
	return item;
}

static int set_capabilities(struct qmp *qmp, bool events, bool return_path, bool multifd)
{
	struct json_object *arguments = json_object_new_object();
	struct json_object *list = json_object_new_array();

	json_object_array_add(list, capability("events", events));
	json_object_array_add(list, capability("return-path", return_path));
	json_object_array_add(list, capability("multifd", multifd));
	json_object_object_add(arguments, "capabilities", list);
	return execute(qmp, "migrate-set-capabilities", arguments);
}

static void add_number(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static uint64_t downtime_ms(uint64_t ns)
{
	return ns < NS_PER_MS ? 1 : ns / NS_PER_MS;
}

static int set_up_source(struct qemu_migration *migration)
{
	struct json_object *arguments = json_object_new_object();
	int ret;

	add_number(arguments, "max-bandwidth", migration->options.bandwidth);
	add_number(arguments, "downtime-limit", downtime_ms(migration->options.downtime_ns));
	add_number(arguments, "multifd-channels", migration->channels);
	ret = execute(migration->source, "migrate-set-parameters", arguments);
	if (ret == 0)
		ret = set_capabilities(migration->source, true, true, migration->channels > 1);
	return ret;
}

/* Back to what it was: the guest stays, and who set the limits had their reasons. */
static void restore_source(struct qemu_migration *migration)
{
	static const char *const names[] = {"max-bandwidth", "downtime-limit", "multifd-channels"};
	struct json_object *arguments = json_object_new_object();

	for (unsigned int i = 0; i < sizeof(names) / sizeof(*names); i++)
		add_number(arguments, names[i], ask_number(migration->parameters, names[i]));
	if (execute(migration->source, "migrate-set-parameters", arguments) == 0)
		set_capabilities(migration->source,
				 ask_capability(migration->capabilities, "events"),
				 ask_capability(migration->capabilities, "return-path"),
				 ask_capability(migration->capabilities, "multifd"));
}

static int set_up_destination(struct qemu_migration *migration)
{
	struct json_object *arguments = json_object_new_object();
	char uri[URI_BYTES];
	int ret;

	add_number(arguments, "multifd-channels", migration->channels);
	ret = execute(migration->destination, "migrate-set-parameters", arguments);
	if (ret == 0)
		ret = set_capabilities(migration->destination, true, true, migration->channels > 1);
	if (ret == -EREMOTEIO)
		return refuse(-EINVAL, "destination", qmp_error(migration->destination),
			      "start it with -incoming defer, or migrate with --channels 1");
	if (ret < 0 || !migration->receiver.deferred)
		return ret;
	snprintf(uri, sizeof(uri), "unix:%s", migration->options.incoming);
	arguments = json_object_new_object();
	json_object_object_add(arguments, "uri", json_object_new_string(uri));
	ret = qmp_ask(migration->destination, "migrate-incoming", arguments, soon(), NULL);
	/* Somebody was there before: the receiver will find out where it listens. */
	if (ret == -EREMOTEIO && strstr(qmp_error(migration->destination), "already") == NULL)
		return refuse(-EINVAL, "destination", qmp_error(migration->destination),
			      "let it listen at the path of --incoming");
	return ret == -EREMOTEIO ? 0 : ret;
}

int qemu_migration_new(const struct qemu_migration_options *options, struct qmp *source,
		       struct qmp *destination, struct qemu_migration **migration)
{
	struct qemu_migration *new = calloc(1, sizeof(*new));
	int ret;

	if (new == NULL)
		return -ENOMEM;
	new->options = *options;
	new->source = source;
	new->destination = destination;
	new->receiver.pidfd = -1;
	ret = look_at_source(new);
	if (ret == 0)
		ret = look_at_settings(new);
	if (ret == 0)
		ret = look_at_destination(new);
	if (ret == 0)
		ret = set_up_destination(new);
	if (ret == 0) {
		ret = set_up_source(new);
		if (ret < 0)
			restore_source(new);
	}
	if (ret < 0)
		qemu_migration_free(&new);
	else
		*migration = new;
	return ret;
}

void qemu_migration_free(struct qemu_migration **migration)
{
	struct qemu_migration *old = *migration;

	*migration = NULL;
	if (old == NULL)
		return;
	qemu_process_close(&old->receiver);
	json_object_put(old->info);
	json_object_put(old->capabilities);
	json_object_put(old->parameters);
	free(old);
}

/* ---- running --------------------------------------------------------------------------------- */

static int look(struct qemu_migration *migration)
{
	struct json_object *info;
	const int ret = qmp_execute(migration->source, "query-migrate", NULL, soon(), &info);

	if (ret < 0)
		return ret;
	if (strcmp(ask_text(info, "status"), ask_text(migration->info, "status")) != 0)
		qemu_info("migration: %s", ask_text(info, "status"));
	qemu_debug("migration: %" PRIu64 " bytes sent",
		   ask_number(json_object_object_get(info, "ram"), "transferred"));
	json_object_put(migration->info);
	migration->info = info;
	if (migration->options.progress != NULL)
		migration->options.progress(migration->options.ctx, info);
	return 0;
}

/*
 * Takes the events in; they carry no more than that it is worth looking. Whether there was one of
 * the migration.
 */
static int take_events(struct qemu_migration *migration, bool *any)
{
	struct json_object *event;
	int ret;

	*any = false;
	while ((ret = qmp_event(migration->source, 0, &event)) == 0) {
		*any |= strcmp(ask_text(event, "event"), "MIGRATION") == 0;
		json_object_put(event);
	}
	return ret == -ETIMEDOUT ? 0 : ret;
}

/*
 * Until an event of the migration came, @until has come, or @cancel_fd (-1: none) is readable,
 * which -ECANCELED tells.
 */
static int await_news(struct qemu_migration *migration, int cancel_fd, uint64_t until)
{
	struct pollfd fds[] = {{.fd = qmp_fd(migration->source), .events = POLLIN},
			       {.fd = cancel_fd, .events = POLLIN}};
	bool any;

	for (;;) {
		const int ret = take_events(migration, &any);
		const uint64_t now = vmferry_now();
		int milliseconds;

		if (ret < 0 || any || now >= until)
			return ret;
		milliseconds = (int)((until - now + NS_PER_MS - 1) / NS_PER_MS);
		if (poll(fds, 2, milliseconds) < 0 && errno != EINTR)
			return -errno;
		if ((fds[1].revents & POLLIN) != 0)
			return -ECANCELED;
	}
}

static bool is(const struct qemu_migration *migration, const char *status)
{
	return strcmp(ask_text(migration->info, "status"), status) == 0;
}

static bool is_over(const struct qemu_migration *migration)
{
	return is(migration, "completed") || is(migration, "failed") || is(migration, "cancelled");
}

/* Until it is over at the source. -ECANCELED and -ETIMEDOUT: it is not, and is to be cancelled. */
static int await_end(struct qemu_migration *migration, int cancel_fd, uint64_t deadline)
{
	int ret = look(migration);

	while (ret == 0 && !is_over(migration)) {
		const uint64_t now = vmferry_now();

		if (now >= deadline)
			return -ETIMEDOUT;
		ret = await_news(migration, cancel_fd,
				 deadline - now < PERIOD_NS ? deadline : now + PERIOD_NS);
		if (ret == 0)
			ret = look(migration);
	}
	return ret;
}

static int start(struct qemu_migration *migration)
{
	struct json_object *arguments = json_object_new_object();
	char uri[URI_BYTES];

	snprintf(uri, sizeof(uri), "unix:%s", migration->options.socket);
	json_object_object_add(arguments, "uri", json_object_new_string(uri));
	return execute(migration->source, "migrate", arguments);
}

/* It may complete nevertheless: the caller looks at what it came to. */
static int cancel(struct qemu_migration *migration, int why)
{
	if (why == -ETIMEDOUT)
		qemu_error("migration: not completed in time: cancelled; allow more with --timeout "
			   "or --downtime");
	if (execute(migration->source, "migrate_cancel", NULL) < 0)
		return -EIO;
	return await_end(migration, -1, vmferry_now() + CANCEL_NS);
}

/*
 * Its memory is half that of a guest, and it ends by itself as soon as its connections are closed.
 * QEMU 7.2 may hang there with multifd, waiting for a channel that is no more.
 */
static void look_after_destination(const struct qemu_migration *migration)
{
	struct pollfd fd = {.fd = migration->receiver.pidfd, .events = POLLIN};

	if (fd.fd >= 0 && poll(&fd, 1, GONE_MS) == 0)
		qemu_warn("destination: %s (process %d) has not ended: end it, and start it anew "
			  "for the next attempt",
			  migration->receiver.name, migration->receiver.pid);
}

/*
 * The source has the guest, and it has to run there if it ran. QEMU lets it run by itself a moment
 * after the failure.
 */
static enum qemu_migration_outcome stay(struct qemu_migration *migration,
					enum qemu_migration_outcome outcome)
{
	const uint64_t deadline = vmferry_now() + RUN_NS;
	char status[ASK_STATUS_MAX];

	restore_source(migration);
	if (migration->info != NULL)
		look_after_destination(migration);
	do {
		if (ask_status(migration->source, soon(), status) < 0)
			return QEMU_MIGRATION_INDETERMINATE;
		if (!migration->running || strcmp(status, "running") == 0)
			return outcome;
		poll(NULL, 0, 10);
	} while (vmferry_now() < deadline);
	qemu_error("source: the guest does not run on: it is %s; cont in its monitor, if the "
		   "destination has ended",
		   status);
	return QEMU_MIGRATION_INDETERMINATE;
}

/* The source has given the guest away. */
static enum qemu_migration_outcome go(struct qemu_migration *migration)
{
	const uint64_t begin = vmferry_now();
	char status[ASK_STATUS_MAX];

	if (!migration->running)
		return QEMU_MIGRATION_COMPLETED;
	/* While it is still loading it keeps this in mind, and goes when it has loaded. */
	if (execute(migration->destination, "cont", NULL) < 0)
		goto lost;
	do {
		if (ask_status(migration->destination, soon(), status) < 0)
			goto lost;
		if (strcmp(status, "running") == 0) {
			migration->cont_ns = vmferry_now() - begin;
			return QEMU_MIGRATION_COMPLETED;
		}
		poll(NULL, 0, 1);
	} while (vmferry_now() < begin + RUN_NS);
	qemu_error("destination: the guest does not run: it is %s", status);
lost:
	qemu_error("migration: the source has given the guest away, and the destination does not "
		   "say that it runs; look there first, and only if that QEMU has ended: cont at "
		   "the source");
	return QEMU_MIGRATION_INDETERMINATE;
}

enum qemu_migration_outcome qemu_migration_run(struct qemu_migration *migration)
{
	bool cancelled = false;
	int ret = start(migration);

	if (ret == -EREMOTEIO)
		return stay(migration, QEMU_MIGRATION_FAILED);
	if (ret == 0)
		ret = await_end(migration, migration->options.cancel_fd,
				migration->options.deadline);
	if (ret == -ECANCELED || ret == -ETIMEDOUT) {
		cancelled = ret == -ECANCELED;
		ret = cancel(migration, ret);
	}
	if (ret < 0) {
		qemu_error("migration: the source does not tell how it ended; look whether its "
			   "guest runs before anything is done at the destination");
		return QEMU_MIGRATION_INDETERMINATE;
	}
	if (is(migration, "completed"))
		return go(migration);
	if (is(migration, "failed"))
		qemu_error("migration: the source failed: %s",
			   *ask_text(migration->info, "error-desc") == '\0'
				   ? "it does not say why, see what the receiver says"
				   : ask_text(migration->info, "error-desc"));
	return stay(migration, cancelled ? QEMU_MIGRATION_CANCELLED : QEMU_MIGRATION_FAILED);
}

unsigned int qemu_migration_channels(const struct qemu_migration *migration)
{
	return migration->channels;
}

struct json_object *qemu_migration_info(const struct qemu_migration *migration)
{
	return migration->info;
}

uint64_t qemu_migration_cont_ns(const struct qemu_migration *migration)
{
	return migration->cont_ns;
}
