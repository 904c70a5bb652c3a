/* SPDX-License-Identifier: MIT */
#include "adaptors.h"

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "channel.h"

#define START_NS  (10 * NS_PER_S)
#define REPORT_NS (10 * NS_PER_S)
/* Of a command line, with the end: four words and four options. */
#define ARGS_MAX       13
#define NAME_MAX_BYTES 128

/* ---- processes ------------------------------------------------------------------------------- */

/*
 * Looks for the port among this network namespace's sockets: to connect would be a migration to the
 * receiver.
 */
static bool listens(unsigned int port)
{
	FILE *file = fopen("/proc/net/tcp", "re");
	char line[256];
	unsigned int local;
	unsigned int state;
	bool found = false;

	if (file == NULL)
		die("/proc/net/tcp cannot be read");
	while (!found && fgets(line, sizeof(line), file) != NULL)
		found = sscanf(line, " %*u: %*x:%x %*x:%*x %x", &local, &state) == 2 &&
			local == port && state == 0x0a;
	fclose(file);
	return found;
}

static bool is_socket(const char *path)
{
	struct stat st;

	return stat(path, &st) == 0 && S_ISSOCK(st.st_mode);
}

static void await_listening(const struct adaptors *a, unsigned int port)
{
	uint64_t deadline = now_ns() + START_NS;

	while (!listens(port) || !is_socket(a->source + strlen("unix:"))) {
		if (waitpid(a->send.pid, NULL, WNOHANG) != 0 ||
		    waitpid(a->receive.pid, NULL, WNOHANG) != 0)
			die("an adaptor ended at its start, what it said is above");
		if (now_ns() >= deadline)
			die("the adaptors do not listen");
		sleep_ns(5 * NS_PER_MS);
	}
}

static void append(char **args, const char *name, const char *value)
{
	while (*args != NULL)
		args++;
	args[0] = (char *)name;
	args[1] = (char *)value;
}

static pid_t start(const struct adaptor *adaptor, char **args, const struct adaptors_options *o)
{
	append(args, "--json", adaptor->report);
	append(args, "--transport", o->rail != NULL ? "rdma" : "tcp");
	if (o->rail != NULL)
		append(args, "--rail", o->rail);
	return spawn(args);
}

void adaptors_start(struct adaptors *a, const struct adaptors_options *o, unsigned int port)
{
	char uri[32];
	char *send[ARGS_MAX] = {(char *)o->vmferry, "qemu-send", a->source, uri};
	char *receive[ARGS_MAX] = {(char *)o->vmferry, "qemu-receive", uri};

	*a = (struct adaptors){.directory = "/tmp/perf-qemu-XXXXXX",
			       .send.name = "send",
			       .receive.name = "receive"};
	if (mkdtemp(a->directory) == NULL)
		die("/tmp: cannot make a directory");
	snprintf(a->source, sizeof(a->source), "unix:%s/source", a->directory);
	snprintf(a->destination, sizeof(a->destination), "unix:%s/destination", a->directory);
	snprintf(a->send.report, sizeof(a->send.report), "%s/send.json", a->directory);
	snprintf(a->receive.report, sizeof(a->receive.report), "%s/receive.json", a->directory);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", port);
	append(receive, "--incoming", a->destination + strlen("unix:"));
	if (o->place != NULL)
		append(receive, "--place", o->place);
	a->receive.pid = start(&a->receive, receive, o);
	a->send.pid = start(&a->send, send, o);
	await_listening(a, port);
}

void adaptors_end(struct adaptors *a)
{
	if (a->send.pid > 0)
		reap(a->send.pid);
	if (a->receive.pid > 0)
		reap(a->receive.pid);
	if (a->directory[0] == '\0')
		return;
	unlink(a->source + strlen("unix:"));
	unlink(a->destination + strlen("unix:"));
	unlink(a->send.report);
	unlink(a->receive.report);
	rmdir(a->directory);
}

/* ---- reports --------------------------------------------------------------------------------- */

static void print_numbers(struct json_object *value, const char *name)
{
	char inner[NAME_MAX_BYTES];
	enum json_type type = json_object_get_type(value);

	if (type == json_type_int || type == json_type_double) {
		printf("%s %.17g\n", name, json_object_get_double(value));
	} else if (type == json_type_object) {
		json_object_object_foreach(value, key, member)
		{
			snprintf(inner, sizeof(inner), "%s/%s", name, key);
			print_numbers(member, inner);
		}
	}
}

/*
 * The report is written at the end of a migration, which the destination's first beat may come
 * before.
 */
static struct json_object *await_report(const struct adaptor *a)
{
	uint64_t deadline = now_ns() + REPORT_NS;
	struct json_object *report;

	while ((report = json_object_from_file(a->report)) == NULL) {
		if (now_ns() >= deadline)
			die("%s: no report in %s", a->name, a->report);
		sleep_ns(10 * NS_PER_MS);
	}
	return report;
}

/* A migration that was passed through must not be measured as one whose pages went by lanes. */
static void expect(struct json_object *report, const char *name, const char *text)
{
	if (strcmp(member_text(report, name), text) != 0)
		die("the adaptor's %s is not %s: %s", name, text,
		    json_object_to_json_string(report));
}

void adaptors_print(const struct adaptors *a, const struct adaptors_options *o)
{
	struct json_object *send = await_report(&a->send);
	struct json_object *receive = await_report(&a->receive);
	bool forward = o->place != NULL && strcmp(o->place, "forward") == 0;

	expect(send, "result", "completed");
	expect(send, "mode", forward ? "forward" : "offload");
	if (o->rail != NULL)
		expect(send, "transport", "rdma");
	print_numbers(send, a->send.name);
	print_numbers(receive, a->receive.name);
	json_object_put(send);
	json_object_put(receive);
}
