/* SPDX-License-Identifier: MIT */
/*
 * What the engine cannot know, the guest's own view of the blackout, is added to its report here.
 */
#include "departure.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include "report.h"
#include "units.h"

struct departure {
	struct vmm *vmm;
	struct vmferry_source *source;
	char *uri;
};

static void release(struct departure **departure)
{
	struct departure *d = *departure;

	/*
	 * vCPU threads may be in vmferry_source_ring_full() until the vmm has let go of the source.
	 */
	vmm_set_source(d->vmm, NULL);
	vmferry_source_free(&d->source);
	free(d->uri);
	free(d);
	*departure = NULL;
}

int departure_start(struct vmm *vmm, const char *uri, const struct migration_settings *settings,
		    struct departure **departure)
{
	struct vmferry_source_options options;
	struct departure *d;
	struct vmferry_vm vm;
	int rc = -ENOMEM;

	d = calloc(1, sizeof(*d));
	if (d == NULL)
		return rc;
	d->vmm = vmm;
	d->uri = strdup(uri);
	if (d->uri == NULL)
		goto err_release;
	migration_options(settings, &options);
	vmm_describe_vm(vmm, &vm);
	rc = vmferry_source_new(&vm, &vmm_source_ops, vmm, uri, &options, &d->source);
	if (rc < 0)
		goto err_release;
	vmm_set_source(vmm, d->source);
	rc = vmferry_source_start(d->source);
	if (rc < 0)
		goto err_release;
	*departure = d;
	return 0;

err_release:
	release(&d);
	return rc;
}

int departure_fd(const struct departure *departure)
{
	return vmferry_source_fd(departure->source);
}

int departure_cancel(struct departure *departure)
{
	return vmferry_source_cancel(departure->source);
}

const char *departure_uri(const struct departure *departure)
{
	return departure->uri;
}

static void add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static uint64_t percent(const struct vmferry_progress *p)
{
	/* Before the first pass has begun nothing is known to remain. */
	if (p->bytes_sent == 0 || p->bytes_total == 0 || p->bytes_remaining >= p->bytes_total)
		return 0;
	return (p->bytes_total - p->bytes_remaining) * 100 / p->bytes_total;
}

struct json_object *departure_progress(const struct departure *departure)
{
	struct json_object *object = json_object_new_object();
	struct vmferry_progress p;
	const char *phase;

	vmferry_source_progress(departure->source, &p);
	phase = vmferry_phase_name(p.phase);
	json_object_object_add(object, "phase",
			       json_object_new_string(phase == NULL ? "unknown" : phase));
	add_u64(object, "percent", percent(&p));
	add_u64(object, "round", p.round);
	add_u64(object, "elapsed_us", p.elapsed_ns / NS_PER_US);
	add_u64(object, "bytes_total", p.bytes_total);
	add_u64(object, "bytes_sent", p.bytes_sent);
	add_u64(object, "bytes_remaining", p.bytes_remaining);
	add_u64(object, "bytes_per_second", p.rate);
	add_u64(object, "dirty_bytes_per_second", p.dirty_rate);
	add_u64(object, "predicted_blackout_us", p.predicted_ns / NS_PER_US);
	add_u64(object, "losses", p.losses);
	json_object_object_add(object, "reconnecting", json_object_new_boolean(p.reconnecting));
	return object;
}

/* A report that the engine could not make is still one that says how it ended. */
static struct json_object *engine_report(const struct departure *d, int result)
{
	struct json_object *report = NULL;
	char *json = NULL;
	int rc = vmferry_source_report(d->source, &json);

	if (rc == 0)
		report = json_tokener_parse(json);
	free(json);
	if (report != NULL)
		return report;
	report = json_object_new_object();
	json_object_object_add(report, "result",
			       json_object_new_string(result == 0	       ? "completed"
						      : result == -ECANCELED   ? "cancelled"
						      : result == -EINPROGRESS ? "indeterminate"
									       : "failed"));
	json_object_object_add(report, "reason", json_object_new_string("the report was lost"));
	return report;
}

static struct json_object *observed(const struct vmm *vmm)
{
	uint64_t ns;

	if (vmm_observed_blackout(vmm, &ns) < 0)
		return NULL;
	return json_object_new_uint64(ns / NS_PER_US);
}

/* observed_blackout_us is the longest of these. */
static void add_silence(const struct vmm *vmm, struct json_object *guest, unsigned int vcpus)
{
	struct json_object *list = json_object_new_array();

	for (unsigned int i = 0; i < vcpus; i++) {
		struct json_object *one = json_object_new_object();

		add_u64(one, "vcpu", i);
		add_u64(one, "observed_blackout_us", vmm_observed_silence(vmm, i) / NS_PER_US);
		json_object_array_add(list, one);
	}
	json_object_object_add(guest, "per_vcpu", list);
}

static void add_guest(const struct vmm *vmm, struct json_object *report, bool moved)
{
	struct json_object *guest = json_object_new_object();
	struct vmm_status status;

	vmm_status(vmm, &status);
	add_u64(guest, "faults", moved ? vmm_peer_faults(vmm) : status.faults);
	add_u64(guest, "vcpus", status.vcpus);
	add_u64(guest, "memory", status.memory);
	if (moved)
		add_silence(vmm, guest, status.vcpus);
	json_object_object_add(report, "guest", guest);
}

struct json_object *departure_finish(struct departure **departure)
{
	struct departure *d = *departure;
	int result = vmferry_source_wait(d->source, vmferry_now());
	bool moved = result == 0 || result == -EILSEQ;
	struct json_object *report = engine_report(d, result);

	report = report_insert(report, "blackout_us", "observed_blackout_us",
			       moved ? observed(d->vmm) : NULL);
	add_guest(d->vmm, report, moved);
	release(departure);
	return report;
}
