/* SPDX-License-Identifier: MIT */
/*
 * The manual page of a command says of every option what its table says, and knows no option that
 * no table has. Commands of the adaptor for QEMU have a page of their own.
 */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include <migrator/cli/command.h>
#include <migrator/cli/exit.h>

#define PAGE_MAX  65536
#define ENTRY_MAX 2048

TestSuite(manual, .timeout = 10);

struct manual {
	const char *file;
	const char *prefix; /* of its commands' names; the first page that fits is a command's */
	const int *codes;   /* exit statuses, -1 at the end */
};

static const int all_codes[] = {EXIT_COMPLETED,	    EXIT_FAILED,    EXIT_USAGE,	 EXIT_CANCELLED,
				EXIT_INDETERMINATE, EXIT_DIFFERENT, EXIT_UNABLE, -1};
static const int qemu_codes[] = {EXIT_COMPLETED, EXIT_FAILED, EXIT_USAGE, -1};

static const struct manual manuals[] = {
	{MANUALS "/vmferry-qemu.1", "qemu-", qemu_codes},
	{MANUALS "/vmferry.1", "", all_codes},
};

#define MANUALS_COUNT (sizeof(manuals) / sizeof(manuals[0]))

static const struct manual *manual_of(const struct command *command)
{
	const struct manual *manual = manuals;

	while (strncmp(command->name, manual->prefix, strlen(manual->prefix)) != 0)
		manual++;
	return manual;
}

/* The page with \- as - and every line break as a space. */
static void read_page(const struct manual *manual, char page[PAGE_MAX])
{
	FILE *file = fopen(manual->file, "re");
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

static void check_options(const struct manual *manual)
{
	static char page[PAGE_MAX];
	const struct option_group *seen[32];
	unsigned int groups = 0;
	unsigned int options = 0;

	read_page(manual, page);
	for (unsigned int c = 0; commands[c] != NULL; c++) {
		if (manual_of(commands[c]) != manual)
			continue;
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
	cr_assert_gt(options, 0);
	cr_assert_eq(occurrences(page, ".TP .BI --") + occurrences(page, ".TP .BR --"), options,
		     "%s", manual->file);
}

Test(manual, options__are_those_of_the_tables)
{
	for (unsigned int i = 0; i < MANUALS_COUNT; i++)
		check_options(&manuals[i]);
}

Test(manual, commands_and_exit_statuses__all_there)
{
	static char page[PAGE_MAX];
	char text[64];

	for (unsigned int c = 0; commands[c] != NULL; c++) {
		read_page(manual_of(commands[c]), page);
		snprintf(text, sizeof(text), ".SS %s ", commands[c]->name);
		cr_assert_not_null(strstr(page, text), "%s", text);
	}
	for (unsigned int i = 0; i < MANUALS_COUNT; i++) {
		read_page(&manuals[i], page);
		for (const int *code = manuals[i].codes; *code >= 0; code++) {
			snprintf(text, sizeof(text), ".TP .B %d ", *code);
			cr_assert_not_null(strstr(page, text), "%s: %s", manuals[i].file, text);
		}
	}
}
