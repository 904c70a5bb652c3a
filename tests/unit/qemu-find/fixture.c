/* SPDX-License-Identifier: MIT */
#include "fixture.h"

#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static FILE *open_fixture(const char *name)
{
	char path[512];
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s", FIXTURES, name);
	file = fopen(path, "re");
	cr_assert(file, "%s", path);
	return file;
}

char *fixture_text(const char *name)
{
	FILE *file = open_fixture(name);
	char *text = calloc(1, 65536);

	cr_assert(text);
	cr_assert_gt(fread(text, 1, 65535, file), 0);
	fclose(file);
	return text;
}

unsigned int fixture_mappings(const char *name, struct process_mapping list[FIXTURE_MAPPINGS])
{
	FILE *file = open_fixture(name);
	const int count = mappings_parse(file, list, FIXTURE_MAPPINGS);

	fclose(file);
	cr_assert_gt(count, 0);
	return (unsigned int)count;
}

int parse_text(const char *text, struct process_mapping *list, unsigned int max)
{
	FILE *file = fmemopen((void *)(uintptr_t)text, strlen(text), "r");
	int count;

	cr_assert(file);
	count = mappings_parse(file, list, max);
	fclose(file);
	return count;
}
