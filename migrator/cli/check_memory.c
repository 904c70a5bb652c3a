/* SPDX-License-Identifier: MIT */
/* Memory: what is free, huge pages, NUMA. Nothing here is needed but some free memory. */
#include "host_check.h"

#include <numa.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "units.h"

#define HUGE_PAGES "/sys/kernel/mm/hugepages/hugepages-2048kB/"
#define SHMEM_THP  "/sys/kernel/mm/transparent_hugepage/shmem_enabled"
#define ENOUGH	   (512ull << 20) /* both halves of a demo */

static int read_line(const char *path, char *line, int size)
{
	FILE *file = fopen(path, "re");
	char *got;

	if (file == NULL)
		return -1;
	got = fgets(line, size, file);
	fclose(file);
	if (got == NULL)
		return -1;
	line[strcspn(line, "\n")] = '\0';
	return 0;
}

/* What the kernel thinks can be had without swapping; in KiB in the file. */
static uint64_t available(void)
{
	static const char name[] = "MemAvailable:";
	FILE *file = fopen("/proc/meminfo", "re");
	uint64_t bytes = 0;
	char line[128];

	if (file == NULL)
		return 0;
	while (bytes == 0 && fgets(line, sizeof(line), file) != NULL)
		if (strncmp(line, name, sizeof(name) - 1) == 0)
			bytes = strtoull(line + sizeof(name) - 1, NULL, 10) << 10;
	fclose(file);
	return bytes;
}

static void check_available(struct json_object *checks)
{
	uint64_t bytes = available();
	struct check_item item = {
		.name = "memory available",
		.ok = bytes >= ENOUGH,
		.required = true,
		.remedy = "end other programs; vmferry demo takes twice its guest's memory"};
	char text[UNITS_TEXT_MAX];

	check_add(checks, &item, "%s", units_format_size(text, bytes));
}

static void check_huge(struct json_object *checks)
{
	struct check_item item = {.name = "huge pages, 2 MiB",
				  .remedy =
					  "sysctl vm.nr_hugepages=N; only --pages huge needs them"};
	char total[32] = "0";
	char unused[32] = "0";

	read_line(HUGE_PAGES "nr_hugepages", total, sizeof(total));
	read_line(HUGE_PAGES "free_hugepages", unused, sizeof(unused));
	item.ok = strcmp(unused, "0") != 0;
	check_add(checks, &item, "%s in the pool, %s free", total, unused);
}

static void check_thp(struct json_object *checks)
{
	struct check_item item = {.name = "THP for shared memory",
				  .remedy = "echo advise > " SHMEM_THP
					    "; guests start faster with it"};
	char line[128];

	if (read_line(SHMEM_THP, line, sizeof(line)) < 0)
		snprintf(line, sizeof(line), "not in this kernel");
	item.ok = strstr(line, "[advise]") != NULL || strstr(line, "[always]") != NULL ||
		  strstr(line, "[within_size]") != NULL || strstr(line, "[force]") != NULL;
	check_add(checks, &item, "%s", line);
}

static void check_numa(struct json_object *checks)
{
	struct check_item item = {.name = "NUMA",
				  .remedy = "none is needed on a host with one node"};

	item.ok = numa_available() >= 0;
	if (item.ok)
		check_add(checks, &item, "%d node%s", numa_num_configured_nodes(),
			  numa_num_configured_nodes() == 1 ? "" : "s");
	else
		check_add(checks, &item, "not in this kernel");
}

void check_memory(struct json_object *checks)
{
	check_available(checks);
	check_huge(checks);
	check_thp(checks);
	check_numa(checks);
}
