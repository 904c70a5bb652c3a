/* SPDX-License-Identifier: MIT */
/* One line, written over and over, as narrow as a terminal of 80 columns. */
#include "progress.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include "report.h"
#include "units.h"

static uint64_t number(struct json_object *object, const char *name)
{
	struct json_object *value;

	return json_object_object_get_ex(object, name, &value) ? json_object_get_uint64(value) : 0;
}

void progress_show(struct json_object *progress)
{
	uint64_t predicted = number(progress, "predicted_blackout_us");
	char rate[UNITS_TEXT_MAX];
	char dirty[UNITS_TEXT_MAX];
	char blackout[UNITS_TEXT_MAX] = "?";

	if (isatty(STDERR_FILENO) != 1)
		return;
	/* Nothing else changes meanwhile. */
	if (number(progress, "reconnecting") != 0) {
		fprintf(stderr,
			"\r\033[K%s %" PRIu64 " %%  connection lost (%" PRIu64
			" times so far), connecting again",
			report_text(progress, "phase", "?"), number(progress, "percent"),
			number(progress, "losses"));
		return;
	}
	if (predicted != 0)
		units_format_duration(blackout, predicted * NS_PER_US);
	fprintf(stderr, "\r\033[K%s %" PRIu64 " %%  round %" PRIu64 "  %s  dirtied %s  blackout %s",
		report_text(progress, "phase", "?"), number(progress, "percent"),
		number(progress, "round"),
		units_format_rate(rate, number(progress, "bytes_per_second")),
		units_format_rate(dirty, number(progress, "dirty_bytes_per_second")), blackout);
}

void progress_clear(void)
{
	if (isatty(STDERR_FILENO) == 1)
		fputs("\r\033[K", stderr);
}
