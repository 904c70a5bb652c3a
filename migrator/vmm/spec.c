/* SPDX-License-Identifier: MIT */
/* Writing and reading a machine's description. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "codec.h"
#include "log.h"
#include "spec.h"

#define SPEC_MAGIC   0x53464d56u /* "VMFS" */
#define SPEC_VERSION 1
#define JSON_MAX     65536u
#define JSON_DEPTH   8
#define IRQCHIP	     "kvm"

static const char *const devices[] = {"console", "heartbeat", "status", "pit"};
#define DEVICE_COUNT (sizeof(devices) / sizeof(devices[0]))

static const char *const pages_names[] = {
	[VMM_PAGES_THP] = "thp",
	[VMM_PAGES_4K] = "4k",
	[VMM_PAGES_HUGE] = "huge",
};
#define PAGES_COUNT (sizeof(pages_names) / sizeof(pages_names[0]))

static const char *const tracker_names[] = {
	[VMFERRY_TRACKER_AUTO] = "auto",
	[VMFERRY_TRACKER_RING] = "ring",
	[VMFERRY_TRACKER_LOG] = "log",
	[VMFERRY_TRACKER_CALLER] = "caller",
};
#define TRACKER_COUNT (sizeof(tracker_names) / sizeof(tracker_names[0]))

/* ---- writing --------------------------------------------------------------------------------- */

/*
 * json_object_object_add() takes what json_object_new_*() made, which may be NULL without memory.
 */
static int add(struct json_object *o, const char *key, struct json_object *value)
{
	if (!value || json_object_object_add(o, key, value) < 0) {
		json_object_put(value);
		return -ENOMEM;
	}
	return 0;
}

static struct json_object *device_list(void)
{
	struct json_object *list = json_object_new_array();

	for (size_t i = 0; list && i < DEVICE_COUNT; i++) {
		struct json_object *name = json_object_new_string(devices[i]);

		if (!name || json_object_array_add(list, name) < 0) {
			json_object_put(name);
			json_object_put(list);
			return NULL;
		}
	}
	return list;
}

static int fill_json(const struct vmm *vmm, struct json_object *o)
{
	const struct vmm_config *c = &vmm->config;
	int err = add(o, "version", json_object_new_int(SPEC_VERSION));

	if (!err)
		err = add(o, "memory", json_object_new_int64((int64_t)c->memory));
	if (!err)
		err = add(o, "vcpus", json_object_new_int64(c->vcpus));
	if (!err)
		err = add(o, "pages", json_object_new_string(pages_names[c->pages]));
	if (!err)
		err = add(o, "tracker", json_object_new_string(tracker_names[c->tracker]));
	if (!err)
		err = add(o, "ring_entries", json_object_new_int64(vmm->ring_entries));
	if (!err)
		err = add(o, "irqchip", json_object_new_string(IRQCHIP));
	if (!err)
		err = add(o, "devices", device_list());
	return err;
}

static int put_part(struct vmferry_blob *out, const void *data, size_t length)
{
	int err = put_u32(out, (uint32_t)length);

	return err ? err : vmferry_blob_append(out, data, length);
}

int spec_encode(const struct vmm *vmm, const struct vmferry_blob *kvm, struct vmferry_blob *out)
{
	struct json_object *o = json_object_new_object();
	const char *text;
	int err = o ? fill_json(vmm, o) : -ENOMEM;

	if (err)
		goto out_json;
	text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	err = text ? put_u32(out, SPEC_MAGIC) : -ENOMEM;
	if (!err)
		err = put_part(out, text, strlen(text));
	if (!err)
		err = put_part(out, vmferry_blob_data(kvm), vmferry_blob_size(kvm));

out_json:
	json_object_put(o);
	return err;
}

/* ---- reading --------------------------------------------------------------------------------- */

static int malformed(const char *what)
{
	vmm_error("arrival: the machine's description makes no sense: %s", what);
	return -EPROTO;
}

static int get_number(struct json_object *o, const char *key, uint64_t *value)
{
	struct json_object *v;

	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_int) ||
	    json_object_get_int64(v) < 0)
		return malformed(key);
	*value = (uint64_t)json_object_get_int64(v);
	return 0;
}

static void report(struct vmferry_problems *problems, const char *what, const char *name)
{
	char text[128];

	if (!problems)
		return;
	snprintf(text, sizeof(text), "%s %.64s is not known here", what, name);
	vmferry_problems_add(problems, text, "use the same version of vmferry on both hosts");
}

/* The index of the string under @key in @names; one that is not there is a problem, and index 0. */
static int get_choice(struct json_object *o, const char *key, const char *const *names,
		      size_t count, struct vmferry_problems *problems, unsigned int *value)
{
	struct json_object *v;
	const char *text;

	*value = 0;
	if (!json_object_object_get_ex(o, key, &v) || !json_object_is_type(v, json_type_string))
		return malformed(key);
	text = json_object_get_string(v);
	for (unsigned int i = 0; i < count; i++) {
		if (strcmp(text, names[i]) == 0) {
			*value = i;
			return 0;
		}
	}
	report(problems, key, text);
	return 0;
}

static bool known_device(const char *name)
{
	for (size_t i = 0; i < DEVICE_COUNT; i++) {
		if (strcmp(name, devices[i]) == 0)
			return true;
	}
	return false;
}

static int check_devices(struct json_object *o, struct vmferry_problems *problems)
{
	struct json_object *list;

	if (!json_object_object_get_ex(o, "devices", &list) ||
	    !json_object_is_type(list, json_type_array))
		return malformed("devices");
	for (size_t i = 0; i < json_object_array_length(list); i++) {
		struct json_object *name = json_object_array_get_idx(list, i);

		if (!json_object_is_type(name, json_type_string))
			return malformed("devices");
		if (!known_device(json_object_get_string(name)))
			report(problems, "device", json_object_get_string(name));
	}
	return 0;
}

static int read_version(struct json_object *o, struct vmferry_problems *problems)
{
	uint64_t version;
	char text[24];
	int err = get_number(o, "version", &version);

	if (err || version == SPEC_VERSION)
		return err;
	snprintf(text, sizeof(text), "%llu", (unsigned long long)version);
	report(problems, "machine description version", text);
	return 0;
}

static int read_numbers(struct json_object *o, struct spec *spec)
{
	uint64_t vcpus, entries;
	int err = get_number(o, "memory", &spec->memory);

	if (!err)
		err = get_number(o, "vcpus", &vcpus);
	if (!err)
		err = get_number(o, "ring_entries", &entries);
	if (err)
		return err;
	if (vcpus > UINT32_MAX || entries > UINT32_MAX)
		return malformed("a number is too large");
	spec->vcpus = (unsigned int)vcpus;
	spec->ring_entries = (uint32_t)entries;
	return 0;
}

static int read_object(struct json_object *o, struct spec *spec, struct vmferry_problems *problems)
{
	static const char *const irqchips[] = {IRQCHIP};
	unsigned int pages, tracker, irqchip;
	int err = read_version(o, problems);

	if (!err)
		err = read_numbers(o, spec);
	if (!err)
		err = get_choice(o, "pages", pages_names, PAGES_COUNT, problems, &pages);
	if (!err)
		err = get_choice(o, "tracker", tracker_names, TRACKER_COUNT, problems, &tracker);
	if (!err)
		err = get_choice(o, "irqchip", irqchips, 1, problems, &irqchip);
	if (!err)
		err = check_devices(o, problems);
	if (err)
		return err;
	spec->pages = (enum vmm_pages)pages;
	spec->tracker = (enum vmferry_tracker)tracker;
	return 0;
}

static int read_json(const char *text, size_t length, struct spec *spec,
		     struct vmferry_problems *problems)
{
	struct json_tokener *tokener = json_tokener_new_ex(JSON_DEPTH);
	struct json_object *o;
	int err;

	if (!tokener)
		return -ENOMEM;
	o = json_tokener_parse_ex(tokener, text, (int)length);
	if (json_object_is_type(o, json_type_object))
		err = read_object(o, spec, problems);
	else
		err = malformed("not a JSON object");
	json_object_put(o);
	json_tokener_free(tokener);
	return err;
}

int spec_decode(const void *data, size_t length, struct spec *spec,
		struct vmferry_problems *problems)
{
	struct reader r = {.at = data, .left = length};
	uint32_t magic = read_u32(&r);
	uint32_t size = read_u32(&r);
	const char *text = read_bytes(&r, size);

	memset(spec, 0, sizeof(*spec));
	spec->kvm_length = read_u32(&r);
	spec->kvm = read_bytes(&r, spec->kvm_length);
	if (r.failed || r.left || magic != SPEC_MAGIC || size > JSON_MAX)
		return malformed("not a description of this kind");
	return read_json(text, size, spec, problems);
}
