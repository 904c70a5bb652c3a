/* SPDX-License-Identifier: MIT */
#include "rig.h"

#include <criterion/criterion.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct fakevm here, there;
struct vmferry_source *source;
struct vmferry_destination *destination;
struct vmferry_source_options options;
const char *way;
vmferry_phase_fn phase_there;

static void log_to_stderr(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	fprintf(stderr, "[%d] %s\n", level, line);
}

static void tell_phase(void *ctx, enum vmferry_phase phase)
{
	if (phase_there != NULL)
		phase_there(ctx, phase);
}

void rig_open(const struct vmferry_transport_options *transport)
{
	struct vmferry_destination_options d = {
		.size = sizeof(d), .transport = *transport, .on_phase = tell_phase};

	vmferry_set_log(log_to_stderr, NULL, VMFERRY_LOG_WARN);
	fakevm_init(&here);
	fakevm_init(&there);
	there.compare_with = &here;
	fakevm_fill(&here, 70);
	options = (struct vmferry_source_options){
		.size = sizeof(options),
		.transport = *transport,
		.downtime_ns = SECOND / 2,
		.timeout_ns = 20 * SECOND,
	};
	cr_assert_eq(vmferry_destination_new(&fakevm_destination_ops, &there, "tcp:127.0.0.1:0", &d,
					     &destination),
		     0);
	cr_assert_eq(vmferry_destination_start(destination), 0);
}

void rig_end_source(void)
{
	atomic_store(&here.source, NULL);
	/* The guest may be inside a mark: pausing it makes sure that it is not. */
	if (here.started)
		fakevm_source_ops.pause(&here);
	vmferry_source_free(&source);
}

void rig_close(void)
{
	rig_end_source();
	vmferry_destination_free(&destination);
	fakevm_destroy(&here);
	fakevm_destroy(&there);
}

void rig_start(void)
{
	struct vmferry_vm vm;

	fakevm_describe(&here, &vm);
	cr_assert_eq(vmferry_source_new(&vm, &fakevm_source_ops, &here,
					way != NULL ? way : vmferry_destination_uri(destination),
					&options, &source),
		     0);
	atomic_store(&here.source, source);
	fakevm_run(&here);
	cr_assert_eq(vmferry_source_start(source), 0);
}

int rig_migrate(void)
{
	rig_start();
	return vmferry_source_wait(source, vmferry_now() + 60 * SECOND);
}

struct json_object *rig_report(void)
{
	struct json_object *object;
	char *json = NULL;

	cr_assert_eq(vmferry_source_report(source, &json), 0);
	object = json_tokener_parse(json);
	cr_assert_not_null(object);
	free(json);
	return object;
}

struct json_object *rig_member(struct json_object *o, const char *name)
{
	struct json_object *value = NULL;

	cr_assert(json_object_object_get_ex(o, name, &value), "no %s in %s", name,
		  json_object_to_json_string(o));
	return value;
}

void assert_arrived(void)
{
	cr_assert_eq(vmferry_destination_wait(destination, vmferry_now() + 60 * SECOND), 0);
	cr_assert(atomic_load(&there.compared));
	cr_assert_eq(there.differing_pages, 0);
	for (int ms = 0; ms < 20000 && !atomic_load(&there.pulse->running); ms++)
		usleep(1000);
	cr_assert(atomic_load(&there.pulse->running));
	cr_assert_not(atomic_load(&here.pulse->running));
	cr_assert(here.committed);
	cr_assert_str_eq(here.words, "farewell");
}

void assert_stayed(int result, int expected)
{
	uint64_t writes = atomic_load(&here.pulse->writes);

	cr_assert_eq(result, expected, "%d (%s)", result, strerror(-result));
	for (int ms = 0; ms < 20000 && atomic_load(&here.pulse->writes) == writes; ms++)
		usleep(1000);
	cr_assert_gt(atomic_load(&here.pulse->writes), writes, "the guest does not run");
	cr_assert_not(atomic_load(&there.pulse->running));
	cr_assert_not(here.committed);
}

void assert_abandoned(void)
{
	for (int ms = 0; ms < 20000 && !atomic_load(&there.abandoned); ms++)
		usleep(1000);
	cr_assert(atomic_load(&there.abandoned));
}
