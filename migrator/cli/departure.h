/* SPDX-License-Identifier: MIT */
/*
 * One migration away from this process: a vmferry_source over a vmm, and its report with what the
 * guest has seen.
 */
#ifndef CLI_DEPARTURE_H
#define CLI_DEPARTURE_H

#include "settings.h"

struct json_object;
struct departure;

/*
 * Starts to migrate. A negative errno with the reason logged; nothing has happened to the guest
 * then.
 */
int departure_start(struct vmm *vmm, const char *uri, const struct migration_settings *settings,
		    struct departure **departure);

/* Readable when it is over. */
int departure_fd(const struct departure *departure);

/* 0, or -EALREADY when it can no longer be stopped. */
int departure_cancel(struct departure *departure);

/* {"phase": ..., "percent": ..., ...} as it is now. */
struct json_object *departure_progress(const struct departure *departure);

const char *departure_uri(const struct departure *departure);

/* When it is over: the report, the caller's to put. Frees the departure. */
struct json_object *departure_finish(struct departure **departure);

#endif
