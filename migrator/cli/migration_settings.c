/* SPDX-License-Identifier: MIT */
/* The migration's side of the settings, and how they travel over the control socket: as the text of the options. */
#include "settings.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

static const char *const tracker_choices[] = {"auto", "ring", "log", NULL};
static const char *const transport_choices[] = {"auto", "tcp", "rdma", NULL};
static const char *const log_choices[] = {"error", "warn", "info", "debug", NULL};

#define AT(member) offsetof(struct migration_settings, member)

static const struct option_spec migration_specs[] = {
	OPTION("downtime", "TIME", "10ms",
	       "Switch over when the predicted blackout is no longer than this.", OPTION_DURATION,
	       AT(downtime), .min = 1000, .max = 3600000000000ull),
	OPTION("bandwidth", "SIZE", "unlimited", "Bytes a second to send at most, over all lanes.",
	       OPTION_SIZE, AT(bandwidth), .min = 1 << 20, .word = "unlimited", .word_value = 0),
	OPTION("timeout", "TIME", "300s",
	       "Give up, the guest running on, when the migration is not committed by then.",
	       OPTION_DURATION, AT(timeout), .min = 1000000, .max = 604800000000000ull),
	OPTION("lanes", "N", "auto",
	       "Connections that carry memory; auto is as many as are useful.", OPTION_COUNT,
	       AT(lanes), .min = 1, .max = VMFERRY_LANES_MAX, .word = "auto", .word_value = 0),
	OPTION("transport", "KIND", "auto",
	       "How memory travels: tcp, or auto. rdma is not in this version.", OPTION_CHOICE,
	       AT(transport), .choices = transport_choices),
	{.name = NULL},
};

const struct option_group migration_group = {"Migration options", migration_specs};

static const struct option_spec migrate_specs[] = {
	OPTION("verify", NULL, "no",
	       "Compare all memory of both sides as it was in the pause. The blackout grows by that.",
	       OPTION_SWITCH, AT(verify)),
	OPTION("tracker", "KIND", "auto",
	       "How dirty pages are found: ring and log need a guest that was started for them; auto takes "
	       "what it was started for.",
	       OPTION_CHOICE, AT(tracker), .choices = tracker_choices),
	OPTION("insecure", NULL, "no",
	       "Allow addresses other than loopback, although nothing is authenticated or encrypted.",
	       OPTION_SWITCH, AT(insecure)),
	{.name = NULL},
};

#undef AT

const struct option_group migrate_group = {"Options of vmferry migrate", migrate_specs};

static const struct option_spec common_specs[] = {
	OPTION("log", "LEVEL", "warn",
	       "What to tell on standard error: error, warn, info or debug.", OPTION_CHOICE,
	       offsetof(struct common_settings, log), .choices = log_choices),
	{.name = NULL},
};

const struct option_group common_group = {"Common options", common_specs};

const char *migration_check(const struct migration_settings *migration)
{
	if (migration->transport == VMFERRY_TRANSPORT_RDMA)
		return "--transport rdma: not in this version: use tcp or auto";
	return NULL;
}

void migration_options(const struct migration_settings *migration,
		       struct vmferry_source_options *options)
{
	*options = (struct vmferry_source_options){
		.size = sizeof(*options),
		.transport =
			{
				.size = sizeof(options->transport),
				.transport = (enum vmferry_transport)migration->transport,
				.lanes = (unsigned int)migration->lanes,
				.insecure = migration->insecure,
			},
		.tracker = (enum vmferry_tracker)migration->tracker,
		.downtime_ns = migration->downtime,
		.bandwidth = migration->bandwidth,
		.timeout_ns = migration->timeout,
		.verify = migration->verify,
	};
}

struct json_object *migration_to_json(const struct migration_settings *migration)
{
	struct json_object *object = json_object_new_object();

	option_to_json(&migration_group, migration, object);
	option_to_json(&migrate_group, migration, object);
	return object;
}

static int set_one(struct migration_settings *migration, const char *name,
		   struct json_object *value, char why[OPTION_WHY_MAX])
{
	char reason[OPTION_WHY_MAX];
	const char *text;
	int rc;

	if (!json_object_is_type(value, json_type_string)) {
		snprintf(why, OPTION_WHY_MAX,
			 "option %.40s: not a string: write \"5ms\" or \"yes\"", name);
		return -EINVAL;
	}
	text = json_object_get_string(value);
	rc = option_set(&migration_group, migration, name, text, reason);
	if (rc == -ENOENT)
		rc = option_set(&migrate_group, migration, name, text, reason);
	if (rc == -ENOENT)
		snprintf(why, OPTION_WHY_MAX,
			 "option %.40s: no such option: see vmferry migrate --help", name);
	else if (rc < 0)
		snprintf(why, OPTION_WHY_MAX, "option %.40s: %.200s", name, reason);
	return rc;
}

int migration_from_json(struct json_object *object, struct migration_settings *migration,
			char why[OPTION_WHY_MAX])
{
	const char *wrong;

	option_defaults(&migration_group, migration);
	option_defaults(&migrate_group, migration);
	if (object != NULL && !json_object_is_type(object, json_type_object)) {
		snprintf(why, OPTION_WHY_MAX,
			 "options: not an object: write {\"downtime\":\"5ms\"}");
		return -EINVAL;
	}
	if (object != NULL) {
		json_object_object_foreach(object, name, value)
		{
			if (set_one(migration, name, value, why) < 0)
				return -EINVAL;
		}
	}
	wrong = migration_check(migration);
	if (wrong == NULL)
		return 0;
	snprintf(why, OPTION_WHY_MAX, "%s", wrong);
	return -EINVAL;
}
