/* SPDX-License-Identifier: MIT */
/* How much memory may be pinned: RDMA pins all that it sends from and writes to. TCP pins none. */
#include "host_check.h"

#include <linux/capability.h>
#include <pwd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "units.h"

#define REMEDY_BYTES 320

/* CAP_IPC_LOCK lifts the limit for memory regions too, not only for mlock(2). */
static bool exempt(void)
{
	static const char name[] = "CapEff:";
	FILE *file = fopen("/proc/self/status", "re");
	uint64_t effective = 0;
	char line[128];

	if (file == NULL)
		return false;
	while (fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, name, sizeof(name) - 1) == 0)
			effective = strtoull(line + sizeof(name) - 1, NULL, 16);
	fclose(file);
	return (effective >> CAP_IPC_LOCK & 1) != 0;
}

static void write_remedy(char *remedy, size_t size)
{
	const struct passwd *user = getpwuid(getuid());

	snprintf(remedy, size,
		 "allow the guest's memory times the number of rails, on both hosts: \"%s - "
		 "memlock unlimited\" in /etc/security/limits.conf and a new login, or "
		 "LimitMEMLOCK=infinity in the systemd unit",
		 user == NULL ? "USER" : user->pw_name);
}

void check_memlock(struct json_object *checks, bool rdma)
{
	char remedy[REMEDY_BYTES];
	struct check_item item = {.name = "memlock limit", .ok = true, .remedy = remedy};
	char text[UNITS_TEXT_MAX];
	struct rlimit limit;

	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return;
	if (limit.rlim_cur == RLIM_INFINITY) {
		check_add(checks, &item, "unlimited");
		return;
	}
	units_format_size(text, limit.rlim_cur);
	if (exempt()) {
		check_add(checks, &item, "%s, but CAP_IPC_LOCK exempts this process", text);
		return;
	}
	item.ok = !rdma;
	write_remedy(remedy, sizeof(remedy));
	check_add(checks, &item,
		  rdma ? "%s: RDMA moves no guest beyond it" : "%s; only RDMA needs more", text);
}
