/* SPDX-License-Identifier: MIT */
/* The manual page says of every option what its table says, and knows no option that no table has. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include <migrator/cli/command.h>
#include <migrator/cli/exit.h>

#define PAGE_MAX  65536
#define ENTRY_MAX 2048

TestSuite(manual, .timeout = 10);

/* The page with \- as - and every line break as a space. */
static void read_page(char page[PAGE_MAX])
{
	FILE *file = fopen(MANUAL, "re");
	size_t used = 0;
	int c;

	cr_assert_not_null(file);
	while ((c = fgetc(file)) != EOF && used < PAGE_MAX - 1) {
		if (c == '\\') {
			int next = fgetc(file);

			if (next != '-')
				ungetc(next, file);
			else
				c = '-';
		}
		page[used++] = (char)(c == '\n' ? ' ' : c);
	}
	page[used] = '\0';
	fclose(file);
}

static void entry(const struct option_spec *spec, char text[ENTRY_MAX])
{
	int used;

	if (spec->kind == OPTION_SWITCH)
		used = snprintf(text, ENTRY_MAX, ".TP .BR --%s \", \" --no-%s %s ", spec->name,
				spec->name, spec->help);
	else
		used = snprintf(text, ENTRY_MAX, ".TP .BI --%s \" %s\" %s ", spec->name,
				spec->argument, spec->help);
	if (spec->fallback != NULL)
		snprintf(text + used, (size_t)(ENTRY_MAX - used), "Default: %s. ", spec->fallback);
}

/* The section of a group, from its heading up to the next one. */
static void check_group(const char *page, const struct option_group *group)
{
	static char section[PAGE_MAX];
	char text[ENTRY_MAX];
	const char *begin;
	const char *end;

	snprintf(text, sizeof(text), ".SS %s .TP", group->title);
	begin = strstr(page, text);
	cr_assert_not_null(begin, "no section '%s'", group->title);
	end = strstr(begin + 1, " .S");
	cr_assert_not_null(end);
	snprintf(section, sizeof(section), "%.*s ", (int)(end - begin), begin);
	for (const struct option_spec *spec = group->specs; spec->name != NULL; spec++) {
		entry(spec, text);
		cr_assert_not_null(strstr(section, text), "%s: expected: %s", group->title, text);
	}
}

static unsigned int occurrences(const char *page, const char *text)
{
	unsigned int count = 0;

	for (; (page = strstr(page, text)) != NULL; page++)
		count++;
	return count;
}

Test(manual, options__are_those_of_the_tables)
{
	static char page[PAGE_MAX];
	const struct option_group *seen[32];
	unsigned int groups = 0;
	unsigned int options = 0;

	read_page(page);
	for (unsigned int c = 0; commands[c] != NULL; c++) {
		for (unsigned int g = 0; commands[c]->groups[g] != NULL; g++) {
			const struct option_group *group = commands[c]->groups[g];
			unsigned int i = 0;

			while (i < groups && seen[i] != group)
				i++;
			if (i < groups)
				continue;
			cr_assert(groups < 32);
			seen[groups++] = group;
			check_group(page, group);
			for (const struct option_spec *s = group->specs; s->name != NULL; s++)
				options++;
		}
	}
	cr_assert_eq(occurrences(page, ".TP .BI --") + occurrences(page, ".TP .BR --"), options);
}

Test(manual, commands_and_exit_statuses__all_there)
{
	static char page[PAGE_MAX];
	char text[64];

	read_page(page);
	for (unsigned int c = 0; commands[c] != NULL; c++) {
		snprintf(text, sizeof(text), ".SS %s ", commands[c]->name);
		cr_assert_not_null(strstr(page, text), "%s", text);
	}
	for (int code = EXIT_COMPLETED; code <= EXIT_UNABLE; code++) {
		snprintf(text, sizeof(text), ".TP .B %d ", code);
		cr_assert_not_null(strstr(page, text), "%s", text);
	}
}
