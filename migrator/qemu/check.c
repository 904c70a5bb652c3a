/* SPDX-License-Identifier: MIT */
#include "check.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ask.h"
#include "placement.h"
#include "placement_parts.h"
#include "process.h"
#include "qmp.h"

#define VALUE_MAX	 256
#define BLOCKS_MAX	 256U
#define BUFFER_BYTES_MIN (1U << 20)

/* Adds an item. The remedy of one that is ok is not told. */
__attribute__((format(printf, 5, 6))) static void add(struct json_object *checks, const char *name,
						      const char *status, const char *remedy,
						      const char *value, ...)
{
	struct json_object *item = json_object_new_object();
	char text[VALUE_MAX];
	va_list args;

	va_start(args, value);
	vsnprintf(text, sizeof(text), value, args);
	va_end(args);
	json_object_object_add(item, "name", json_object_new_string(name));
	json_object_object_add(item, "status", json_object_new_string(status));
	json_object_object_add(item, "required",
			       json_object_new_boolean(strcmp(status, "stop") == 0));
	json_object_object_add(item, "value", json_object_new_string(text));
	json_object_object_add(item, "remedy",
			       strcmp(status, "ok") == 0 ? NULL : json_object_new_string(remedy));
	json_object_array_add(checks, item);
}

bool qemu_check_stops(struct json_object *checks)
{
	for (size_t i = 0; i < json_object_array_length(checks); i++)
		if (strcmp(ask_text(json_object_array_get_idx(checks, i), "status"), "stop") == 0)
			return true;
	return false;
}

static void check_version(struct qmp *qmp, const char *side, struct json_object *checks)
{
	const unsigned int version = qmp_version(qmp);

	add(checks, side, version >= 70200 ? "ok" : "slow",
	    "QEMU before 7.2 was not tried: install 7.2 or newer", "QEMU %u.%u.%u", version / 10000,
	    version / 100 % 100, version % 100);
}

/* ---- the source ------------------------------------------------------------------------------ */

static int check_source_status(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	char status[ASK_STATUS_MAX];
	const int ret = ask_status(qmp, deadline, status);

	if (ret < 0)
		return ret;
	add(checks, "source state",
	    strcmp(status, "running") == 0 || strcmp(status, "paused") == 0 ? "ok" : "stop",
	    "only a guest that runs or is paused can be migrated", "%s", status);
	return 0;
}

static int check_migration(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	struct json_object *migration;
	const char *blocker;
	int ret;

	ret = qmp_execute(qmp, "query-migrate", NULL, deadline, &migration);
	if (ret < 0)
		return ret;
	blocker = ask_blocker(migration);
	if (ask_busy(migration))
		add(checks, "migration", "stop", "wait for its end, or migrate_cancel",
		    "another one is under way: %s", ask_text(migration, "status"));
	else if (blocker != NULL)
		add(checks, "migration", "stop", "remove what QEMU names", "%s", blocker);
	else
		add(checks, "migration", "ok", "", "QEMU knows no obstacle");
	json_object_put(migration);
	return 0;
}

struct capability {
	const char *name;
	const char *status;
	const char *value;
};

/* What is on in QEMU although it stops the adaptor, or makes it pass everything through. */
static const struct capability unwanted[] = {
	{"x-ignore-shared", "stop", "the memory stays out of the stream"},
	{"background-snapshot", "stop", "it is a snapshot, no migration"},
	{"mapped-ram", "stop", "it needs a file to migrate to"},
	{"x-colo", "stop", "the guest would run on both sides"},
	{"zero-copy-send", "stop", "QEMU has it for TCP sockets only"},
	{"pause-before-switchover", "stop", "nobody would let it go on"},
	{"postcopy-ram", "slow", "memory passes through QEMU"},
	{"dirty-bitmaps", "slow", "memory passes through QEMU"},
	{"xbzrle", "slow", "pages that it compresses pass through QEMU"},
	{"compress", "slow", "pages that it compresses pass through QEMU"},
	{"block", "slow", "memory and disks pass through QEMU"},
};

static int check_capabilities(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	struct json_object *capabilities;
	char remedy[VALUE_MAX];
	unsigned int found = 0;
	int ret;

	ret = qmp_execute(qmp, "query-migrate-capabilities", NULL, deadline, &capabilities);
	if (ret < 0)
		return ret;
	for (unsigned int i = 0; i < sizeof(unwanted) / sizeof(*unwanted); i++) {
		if (!ask_capability(capabilities, unwanted[i].name))
			continue;
		found++;
		snprintf(remedy, sizeof(remedy),
			 "turn it off: migrate_set_capability %s off in its monitor",
			 unwanted[i].name);
		add(checks, unwanted[i].name, unwanted[i].status, remedy, "on: %s",
		    unwanted[i].value);
	}
	if (found == 0)
		add(checks, "capabilities", "ok", "", "none that is in the way");
	json_object_put(capabilities);
	return 0;
}

static int check_parameters(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	struct json_object *parameters;
	const char *compression;
	int ret;

	ret = qmp_execute(qmp, "query-migrate-parameters", NULL, deadline, &parameters);
	if (ret < 0)
		return ret;
	if (*ask_text(parameters, "tls-creds") != '\0')
		add(checks, "TLS", "slow",
		    "memory goes by lanes, unencrypted, without it: migrate-set-parameters "
		    "tls-creds \"\"",
		    "tls-creds is %s: memory passes through QEMU",
		    ask_text(parameters, "tls-creds"));
	else
		add(checks, "TLS", "ok", "", "QEMU does not encrypt by itself");
	compression = ask_text(parameters, "multifd-compression");
	if (*compression != '\0' && strcmp(compression, "none") != 0)
		add(checks, "multifd compression", "slow",
		    "migrate-set-parameters multifd-compression none",
		    "%s: memory passes through QEMU", compression);
	if (ask_number(parameters, "avail-switchover-bandwidth") != 0)
		add(checks, "switchover bandwidth", "slow",
		    "migrate-set-parameters avail-switchover-bandwidth 0",
		    "set: QEMU does not switch over by what it measures");
	json_object_put(parameters);
	return 0;
}

/* Devices that QEMU migrates in a way that keeps the adaptor from moving the memory. */
static void check_device(struct json_object *property, struct json_object *checks)
{
	const char *type = ask_text(property, "type");

	if (strstr(type, "vfio") != NULL)
		add(checks, "device", "slow", "detach it for the migration",
		    "%s: memory passes through QEMU", type);
	else if (strstr(type, "virtio-mem") != NULL)
		add(checks, "device", "slow", "use pc-dimm, or memory that is there from the start",
		    "%s: memory passes through QEMU", type);
	else if (strstr(type, "virtio-balloon") != NULL)
		add(checks, "balloon", "ok", "", "%s: harmless, as pages are taken from the stream",
		    type);
}

static int check_devices(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	static const char *const folders[] = {"/machine/peripheral", "/machine/peripheral-anon"};

	for (unsigned int i = 0; i < 2; i++) {
		struct json_object *arguments = json_object_new_object();
		struct json_object *devices;
		int ret;

		json_object_object_add(arguments, "path", json_object_new_string(folders[i]));
		ret = qmp_execute(qmp, "qom-list", arguments, deadline, &devices);
		if (ret < 0)
			return ret;
		for (size_t j = 0; json_object_is_type(devices, json_type_array) &&
				   j < json_object_array_length(devices);
		     j++)
			check_device(json_object_array_get_idx(devices, j), checks);
		json_object_put(devices);
	}
	return 0;
}

/*
 * Where qemu-send may not set it (send_buffers.h) QEMU's unix socket has the system's default size,
 * and whenever it is full or empty the other side has to be woken: of 208 KiB that costs a quarter
 * of the time (perf/README.md). The file is there in the host's own network namespace alone.
 */
static void check_socket_buffer(struct json_object *checks)
{
	FILE *file = fopen("/proc/sys/net/core/wmem_default", "re");
	unsigned long long bytes = 0;
	bool known;

	if (file == NULL)
		return;
	known = fscanf(file, "%llu", &bytes) == 1;
	fclose(file);
	if (known)
		add(checks, "socket buffers", bytes < BUFFER_BYTES_MIN ? "slow" : "ok",
		    "sysctl -w net.core.wmem_default=4194304, before QEMU connects, unless "
		    "qemu-send has CAP_SYS_PTRACE and CAP_NET_ADMIN",
		    "net.core.wmem_default is %llu KiB", bytes >> 10);
}

int qemu_check_source(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	int ret;

	check_version(qmp, "source", checks);
	check_socket_buffer(checks);
	ret = check_source_status(qmp, deadline, checks);
	if (ret == 0)
		ret = check_migration(qmp, deadline, checks);
	if (ret == 0)
		ret = check_capabilities(qmp, deadline, checks);
	if (ret == 0)
		ret = check_parameters(qmp, deadline, checks);
	if (ret == 0)
		ret = check_devices(qmp, deadline, checks);
	return ret;
}

/* ---- the destination ------------------------------------------------------------------------- */

static int check_destination_status(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	char status[ASK_STATUS_MAX];
	const int ret = ask_status(qmp, deadline, status);

	if (ret < 0)
		return ret;
	add(checks, "destination state", strcmp(status, "inmigrate") == 0 ? "ok" : "stop",
	    "start it with -incoming defer -S, and anew for each attempt", "%s", status);
	return 0;
}

/* Each block that is not firmware or a device's, and how its pages will get there. */
static void check_block(const struct placement *placement, struct json_object *checks)
{
	struct placement_block block = {.bytes = placement->bytes};
	char size[PLACEMENT_SIZE_TEXT];
	char name[PLACEMENT_NAME_MAX + 16];
	const bool mapped = placement->kind == PLACEMENT_MAPPED;

	memcpy(block.name, placement->name, sizeof(block.name));
	if (placement_unplaceable(&block) != NULL)
		return;
	snprintf(name, sizeof(name), "block %s", placement->name);
	placement_size_text(size, placement->bytes);
	if (mapped)
		add(checks, name, placement->small_pages ? "slow" : "ok",
		    "hugetlb=on at its backend, or: echo advise "
		    ">/sys/kernel/mm/transparent_hugepage/shmem_enabled",
		    "%s, mapped%s", size,
		    placement->small_pages ? ", small pages"
		    : placement->hugepages ? ", huge pages"
					   : "");
	else
		add(checks, name, "slow",
		    "give it a memory-backend-memfd with share=on, and this process QEMU's user "
		    "or CAP_SYS_PTRACE",
		    "%s, %s: %s", size, placement_kind_name(placement->kind), placement->reason);
}

static int check_blocks(struct qmp *qmp, const struct qemu_process *process, uint64_t deadline,
			struct json_object *checks)
{
	struct placement_block *blocks = calloc(BLOCKS_MAX, sizeof(*blocks));
	struct placement *placements = calloc(BLOCKS_MAX, sizeof(*placements));
	int count = -ENOMEM;
	int ret;

	if (blocks != NULL && placements != NULL)
		count = ask_blocks(qmp, deadline, blocks, BLOCKS_MAX);
	ret = count < 0 ? count
			: placement_find(process, qmp, PLACEMENT_WISH_AUTO, blocks,
					 (unsigned int)count, placements);
	for (int i = 0; ret == 0 && i < count; i++)
		check_block(&placements[i], checks);
	if (ret == 0)
		placement_release(placements, (unsigned int)count);
	free(blocks);
	free(placements);
	return ret;
}

/*
 * Where the socket is not QEMU's own, libvirt's say, or one that ssh forwards, nothing can be said
 * of the process.
 */
static int check_process(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	struct qemu_process process;
	int ret = qemu_process_of_socket(qmp_fd(qmp), &process);

	if (ret < 0 || !process.incoming) {
		add(checks, "destination process", "slow",
		    "check it on its host, by its own QMP socket",
		    "its QMP socket is another program's: not looked at");
		if (ret == 0)
			qemu_process_close(&process);
		return 0;
	}
	add(checks, "-S", process.autostart ? "stop" : "ok",
	    "start it with -S, or let both run if the last answer is lost: --allow-autostart",
	    process.autostart ? "%s (process %d) starts the guest by itself"
			      : "%s (process %d) waits for cont",
	    process.name, process.pid);
	ret = check_blocks(qmp, &process, deadline, checks);
	qemu_process_close(&process);
	return ret;
}

int qemu_check_destination(struct qmp *qmp, uint64_t deadline, struct json_object *checks)
{
	int ret;

	check_version(qmp, "destination", checks);
	ret = check_destination_status(qmp, deadline, checks);
	if (ret == 0)
		ret = check_process(qmp, deadline, checks);
	return ret;
}
