/* SPDX-License-Identifier: MIT */
#include "qemu_settings.h"

#include <errno.h>
#include <json-c/json.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "../qemu/placement.h"
#include "report.h"

const char *const qemu_place_choices[] = {
	[PLACEMENT_WISH_AUTO] = "auto",
	[PLACEMENT_WISH_MAPPED] = "mapped",
	[PLACEMENT_WISH_PROCESS] = "process",
	[PLACEMENT_WISH_FORWARD] = "forward",
	NULL,
};

void qemu_output_report(void *ctx, bool completed, struct json_object *report)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	const struct qemu_output *output = ctx;

	(void)completed;
	pthread_mutex_lock(&lock);
	report_print(stdout, report);
	printf("\n");
	fflush(stdout);
	if (output->json != NULL)
		report_write(output->json, report);
	pthread_mutex_unlock(&lock);
}

enum exit_code qemu_exit_code(int ret)
{
	switch (ret) {
	case 0:
	case -ECANCELED:
		return EXIT_COMPLETED;
	case -EINVAL:
	case -EPERM:
		return EXIT_USAGE;
	default:
		return EXIT_FAILED;
	}
}

const char *qemu_unix_path(const char *command, const char *address)
{
	static const char prefix[] = "unix:";

	if (strncmp(address, prefix, sizeof(prefix) - 1) == 0 && address[sizeof(prefix) - 1] == '/')
		return address + sizeof(prefix) - 1;
	fprintf(stderr, "vmferry %s: %s: not unix:PATH with an absolute path\n", command, address);
	return NULL;
}
