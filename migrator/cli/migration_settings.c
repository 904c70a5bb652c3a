/* SPDX-License-Identifier: MIT */
/*
 * The migration's side of the settings, and how they travel over the control socket: as the text of
 * the options.
 */
#include "settings.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

static const char *const tracker_choices[] = {"auto", "ring", "log", NULL};
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
	OPTION("reconnect", "TIME", "10s",
	       "When lanes or the control connection are lost, connect again for so long and go "
	       "on; 0 or never: fail.",
	       OPTION_DURATION, AT(reconnect), .max = 3600000000000ull, .word = "never",
	       .word_value = 0),
	OPTION("lanes", "N", "auto",
	       "Connections that carry memory; auto is as many as are useful.", OPTION_COUNT,
	       AT(lanes), .min = 1, .max = VMFERRY_LANES_MAX, .word = "auto", .word_value = 0),
	{.name = NULL},
};

const struct option_group migration_group = {"Migration options", migration_specs};

static const struct option_spec migrate_specs[] = {
	OPTION("verify", NULL, "no",
	       "Compare all memory of both sides as it was in the pause. The blackout grows by "
	       "that.",
	       OPTION_SWITCH, AT(verify)),
	OPTION("tracker", "KIND", "auto",
	       "How dirty pages are found: ring and log need a guest that was started for them; "
	       "auto takes what it was started for.",
	       OPTION_CHOICE, AT(tracker), .choices = tracker_choices),
	OPTION("insecure", NULL, "no",
	       "Allow addresses other than loopback, although nothing is authenticated or "
	       "encrypted.",
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

void migration_options(const struct migration_settings *migration,
		       struct vmferry_source_options *options)
{
	*options = (struct vmferry_source_options){
		.size = sizeof(*options),
		.tracker = (enum vmferry_tracker)migration->tracker,
		.downtime_ns = migration->downtime,
		.bandwidth = migration->bandwidth,
		.timeout_ns = migration->timeout,
		.verify = migration->verify,
		.reconnect_ns =
			migration->reconnect == 0 ? VMFERRY_RECONNECT_NEVER : migration->reconnect,
	};
	transport_options(&migration->transport, &options->transport);
	options->transport.lanes = (unsigned int)migration->lanes;
	options->transport.insecure = migration->insecure;
}

/* The groups that travel, and where each one's fields are. */
static const struct {
	const struct option_group *group;
	size_t offset;
} sections[] = {
	{&migration_group, 0},
	{&transport_group, offsetof(struct migration_settings, transport)},
	{&migrate_group, 0},
};

#define SECTIONS (sizeof(sections) / sizeof(sections[0]))

struct json_object *migration_to_json(const struct migration_settings *migration)
{
	struct json_object *object = json_object_new_object();

	for (size_t i = 0; i < SECTIONS; i++)
		option_to_json(sections[i].group, (const char *)migration + sections[i].offset,
			       object);
	return object;
}

static int set_text(struct migration_settings *migration, const char *name,
		    struct json_object *value, char why[OPTION_WHY_MAX])
{
	char reason[OPTION_WHY_MAX];
	int rc = -ENOENT;

	if (!json_object_is_type(value, json_type_string)) {
		snprintf(why, OPTION_WHY_MAX,
			 "option %.40s: not a string: write \"5ms\" or \"yes\"", name);
		return -EINVAL;
	}
	for (size_t i = 0; rc == -ENOENT && i < SECTIONS; i++)
		rc = option_set(sections[i].group, (char *)migration + sections[i].offset, name,
				json_object_get_string(value), reason);
	if (rc == -ENOENT)
		snprintf(why, OPTION_WHY_MAX,
			 "option %.40s: no such option: see vmferry migrate --help", name);
	else if (rc < 0)
		snprintf(why, OPTION_WHY_MAX, "option %.40s: %.200s", name, reason);
	return rc;
}

/* An array is an option that was given several times. */
static int set_one(struct migration_settings *migration, const char *name,
		   struct json_object *value, char why[OPTION_WHY_MAX])
{
	int rc = 0;

	if (!json_object_is_type(value, json_type_array))
		return set_text(migration, name, value, why);
	for (size_t i = 0; rc == 0 && i < json_object_array_length(value); i++)
		rc = set_text(migration, name, json_object_array_get_idx(value, i), why);
	return rc;
}

int migration_from_json(struct json_object *object, struct migration_settings *migration,
			char why[OPTION_WHY_MAX])
{
	const char *wrong;

	*migration = (struct migration_settings){0};
	for (size_t i = 0; i < SECTIONS; i++)
		option_defaults(sections[i].group, (char *)migration + sections[i].offset);
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
	wrong = transport_check(&migration->transport);
	if (wrong == NULL)
		return 0;
	snprintf(why, OPTION_WHY_MAX, "%s", wrong);
	return -EINVAL;
}
