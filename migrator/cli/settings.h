/* SPDX-License-Identifier: MIT */
/*
 * The option groups that several commands share, and what becomes of their values: a guest's
 * configuration and command line, and a migration's options.
 */
#ifndef CLI_SETTINGS_H
#define CLI_SETTINGS_H

#include <vmferry/migration.h>
#include "../vmm/vmm.h"

#include "option.h"

/* ---- the guest ------------------------------------------------------------------------------- */

struct machine_settings {
	uint64_t memory;
	uint64_t vcpus;
	uint64_t pages;	  /* enum vmm_pages */
	uint64_t numa;	  /* NUMA_ANY: not bound */
	uint64_t tracker; /* enum vmferry_tracker */
	uint64_t ring_entries;
	const char *guest;
	struct option_list modules;
	const char *append;
};

#define NUMA_ANY UINT64_MAX

struct workload_settings {
	uint64_t fill; /* FILL_ALL or bytes */
	uint64_t ws;
	uint64_t rate;
	uint64_t pattern;
	uint64_t zero;
	uint64_t touch;
	uint64_t heartbeat;
};

#define FILL_ALL UINT64_MAX

extern const struct option_group machine_group;
extern const struct option_group workload_group;

/*
 * Checks what no single option can: 0, or -EINVAL with the reason printed. @workload_given: whether
 * any option of the workload group was on the command line.
 */
int machine_check(const struct machine_settings *machine, bool workload_given);

/* Makes and boots the guest; a negative errno with the reason logged. */
int machine_start(const struct machine_settings *machine, const struct workload_settings *workload,
		  int console_fd, struct vmm **vmm);

/*
 * "none" is -1, "-" is standard output. Another one is opened for appending; a negative errno is
 * printed.
 */
int console_open(const char *name, int *fd);
void console_close(int fd);

#define CONSOLE_HELP \
	"Where the guest's console goes: a file to append to, - for standard output, or none."

/* ---- how memory travels ---------------------------------------------------------------------- */

struct transport_settings {
	uint64_t kind; /* enum vmferry_transport */
	struct option_list rails;
	uint64_t tos;
	bool odp;
};

extern const struct option_group transport_group;

/* Checks what no single option can: NULL, or the reason with the remedy. */
const char *transport_check(const struct transport_settings *transport);

/* The rails stay the settings'. */
void transport_options(const struct transport_settings *transport,
		       struct vmferry_transport_options *options);

/* ---- the migration --------------------------------------------------------------------------- */

struct migration_settings {
	uint64_t downtime;
	uint64_t bandwidth;
	uint64_t timeout;
	uint64_t reconnect; /* 0: never */
	uint64_t lanes;
	struct transport_settings transport; /* the transport group's */
	/* what demo and migrate have with defaults of their own */
	uint64_t tracker;
	bool verify;
	bool insecure;
};

extern const struct option_group migration_group; /* migrate and demo */
extern const struct option_group migrate_group;	  /* only migrate */

/* The rails stay the settings'. */
void migration_options(const struct migration_settings *migration,
		       struct vmferry_source_options *options);

/*
 * The settings as the control socket's "options" object, and back; -EINVAL with the reason in @why.
 * Strings stay the object's.
 */
struct json_object *migration_to_json(const struct migration_settings *migration);
int migration_from_json(struct json_object *object, struct migration_settings *migration,
			char why[OPTION_WHY_MAX]);

/* ---- all commands ---------------------------------------------------------------------------- */

struct common_settings {
	uint64_t log; /* enum vmferry_log_level */
};

extern const struct option_group common_group;

#define JSON_HELP "Also write the report to this file, as JSON."

#endif
