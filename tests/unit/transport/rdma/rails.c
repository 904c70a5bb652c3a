/* SPDX-License-Identifier: MIT */
#include "rails.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void print(void *ctx, enum vmferry_log_level level, const char *line)
{
	(void)ctx;
	(void)level;
	fprintf(stderr, "%s\n", line);
}

struct vmferry_transport_options rails_options(unsigned int count)
{
	struct vmferry_transport_options o = {.size = sizeof(o),
					      .transport = VMFERRY_TRANSPORT_RDMA,
					      /* The fake device's addresses are not this host's. */
					      .insecure = true};
	static char text[256];
	const char *given = getenv("VMFERRY_RAILS");
	char *rest = NULL;

	vmferry_set_log(print, NULL, VMFERRY_LOG_WARN);
	cr_assert_not_null(given, "VMFERRY_RAILS names no rails");
	cr_assert_lt(strlen(given), sizeof(text));
	strcpy(text, given);
	for (char *rail = strtok_r(text, " ", &rest); rail != NULL && o.rail_count < count;
	     rail = strtok_r(NULL, " ", &rest))
		o.rails[o.rail_count++] = rail;
	cr_assert_eq(o.rail_count, count, "VMFERRY_RAILS names %u rails", o.rail_count);
	return o;
}
