/* SPDX-License-Identifier: MIT */
/* The destination's report of its last attempt. Times in microseconds, sizes in bytes. */
#include <errno.h>

#include "destination.h"
#include "report.h"

static const char *result_text(const struct vmferry_destination *d)
{
	switch (d->attempt_result) {
	case 0:
		return "completed";
	case -ENODATA:
		return "none";
	case -ECANCELED:
		return "cancelled";
	default:
		return "failed";
	}
}

static void add_transport(const struct attempt *a, struct report *top)
{
	struct report registration;

	report_string(top, "transport", a->transport);
	report_string(top, "transport_reason",
		      a->transport_reason[0] != 0 ? a->transport_reason : NULL);
	report_number(top, "lanes", a->lanes);
	report_init(&registration);
	report_number(&registration, "bytes", a->registration.bytes);
	report_number(&registration, "regions", a->registration.regions);
	report_us(&registration, "us", a->registration.ns);
	report_object(top, "registration", &registration);
	/*
	 * One-sided writes pass by everybody who could count them here: only the source knows then.
	 */
	if (a->placed_bytes == 0)
		report_null(top, "placed_bytes");
	else
		report_number(top, "placed_bytes", a->placed_bytes);
}

int vmferry_destination_report(const struct vmferry_destination *d, char **json)
{
	const struct attempt *a = &d->attempt;
	struct report top, blackout;
	bool over;

	pthread_mutex_lock((pthread_mutex_t *)&d->lock);
	over = d->over || !d->busy;
	pthread_mutex_unlock((pthread_mutex_t *)&d->lock);
	if (!over)
		return -EBUSY;
	report_init(&top);
	report_string(&top, "result", result_text(d));
	report_string(&top, "reason", a->reason[0] != 0 ? a->reason : NULL);
	report_number(&top, "losses", a->losses);
	add_transport(a, &top);
	report_us(&top, "prepare_us", a->prepare_ns);
	report_us(&top, "populate_us", a->populate_ns);
	report_us(&top, "rehearsal_load_us", a->rehearse_ns);
	report_us(&top, "lanes_cpu_us", a->lanes_cpu_ns);
	report_init(&blackout);
	report_us(&blackout, "fence_us", a->times.fence_ns);
	report_us(&blackout, "verify_us", a->times.hash_ns);
	report_us(&blackout, "load_us", a->times.load_ns);
	report_us(&blackout, "ready_to_go_us", a->times.go_ns);
	report_us(&blackout, "run_us", a->times.run_ns);
	report_object(&top, "blackout", &blackout);
	return report_text(&top, json);
}
