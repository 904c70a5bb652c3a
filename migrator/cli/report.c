/* SPDX-License-Identifier: MIT */
/* What can be asked of a report, and its way into a file. */
#include "report.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <string.h>

#define JSON_FLAGS \
	(JSON_C_TO_STRING_PRETTY | JSON_C_TO_STRING_SPACED | JSON_C_TO_STRING_NOSLASHESCAPE)

const char *report_text(struct json_object *report, const char *name, const char *otherwise)
{
	struct json_object *value;

	if (!json_object_object_get_ex(report, name, &value) ||
	    !json_object_is_type(value, json_type_string))
		return otherwise;
	return json_object_get_string(value);
}

/* Whether the guest found a fault, as far as its VMM could tell. */
static bool guest_faults(struct json_object *report)
{
	struct json_object *guest;
	struct json_object *faults;

	return json_object_object_get_ex(report, "guest", &guest) &&
	       json_object_object_get_ex(guest, "faults", &faults) &&
	       json_object_get_int64(faults) > 0;
}

enum exit_code report_exit_code(struct json_object *report)
{
	const char *result = report_text(report, "result", "");
	struct json_object *verified;

	if (strcmp(result, "cancelled") == 0)
		return EXIT_CANCELLED;
	if (strcmp(result, "indeterminate") == 0)
		return EXIT_INDETERMINATE;
	if (strcmp(result, "completed") != 0)
		return EXIT_FAILED;
	if (json_object_object_get_ex(report, "verified", &verified) &&
	    json_object_is_type(verified, json_type_boolean) && !json_object_get_boolean(verified))
		return EXIT_DIFFERENT;
	return guest_faults(report) ? EXIT_DIFFERENT : EXIT_COMPLETED;
}

struct json_object *report_insert(struct json_object *report, const char *before, const char *name,
				  struct json_object *value)
{
	struct json_object *copy;

	if (json_object_object_get_ex(report, name, NULL) ||
	    !json_object_object_get_ex(report, before, NULL)) {
		json_object_object_add(report, name, value);
		return report;
	}
	copy = json_object_new_object();
	json_object_object_foreach(report, key, item)
	{
		json_object_object_add(copy, key, json_object_get(item));
		if (strcmp(key, before) == 0)
			json_object_object_add(copy, name, value);
	}
	json_object_put(report);
	return copy;
}

int report_write(const char *path, struct json_object *report)
{
	FILE *file = fopen(path, "we");
	int rc = file == NULL ? -errno : 0;

	if (file != NULL) {
		fprintf(file, "%s\n", json_object_to_json_string_ext(report, JSON_FLAGS));
		if (ferror(file) != 0)
			rc = -EIO;
		if (fclose(file) != 0 && rc == 0)
			rc = -errno;
	}
	if (rc < 0)
		fprintf(stderr, "vmferry: --json %s: %s: name a file that can be written\n", path,
			strerror(-rc));
	return rc;
}
