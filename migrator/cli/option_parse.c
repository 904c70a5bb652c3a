/* SPDX-License-Identifier: MIT */
/*
 * The command line: getopt_long(3) over the option tables of a command, and its --help from the
 * same tables.
 */
#include "option.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#include "exit.h"

#define NAME_MAX_BYTES 48
#define LONG_MAX       96

/* Above all characters, so that optopt tells a long option from a short one. */
#define VALUE_FIRST 256
#define VALUE_HELP  (VALUE_FIRST + LONG_MAX)
#define HELP_WIDTH  88
#define HELP_COLUMN 28

/* What getopt_long(3) knows, and which group and option each of its entries stands for. */
struct long_options {
	struct option entries[LONG_MAX + 2];
	char negated[LONG_MAX][NAME_MAX_BYTES];
	const struct option_spec *specs[LONG_MAX];
	unsigned int groups[LONG_MAX];
	bool on[LONG_MAX];
	int count;
};

static void add_entry(struct long_options *all, unsigned int group, const struct option_spec *spec,
		      bool on)
{
	int i = all->count;
	const char *name = spec->name;

	if (i == LONG_MAX)
		return;
	if (!on) {
		snprintf(all->negated[i], NAME_MAX_BYTES, "no-%s", spec->name);
		name = all->negated[i];
	}
	all->entries[i] = (struct option){
		.name = name,
		.has_arg = spec->kind == OPTION_SWITCH ? no_argument : required_argument,
		.val = VALUE_FIRST + i};
	all->specs[i] = spec;
	all->groups[i] = group;
	all->on[i] = on;
	all->count++;
}

static void collect(const struct command *command, struct long_options *all)
{
	memset(all, 0, sizeof(*all));
	for (unsigned int g = 0; command->groups[g] != NULL; g++) {
		const struct option_spec *spec = command->groups[g]->specs;

		for (; spec->name != NULL; spec++) {
			add_entry(all, g, spec, true);
			if (spec->kind == OPTION_SWITCH)
				add_entry(all, g, spec, false);
		}
	}
	all->entries[all->count] = (struct option){.name = "help", .val = VALUE_HELP};
}

static void complain(const struct command *command, const char *what, const char *why)
{
	fprintf(stderr, "vmferry %s: %s: %s (see vmferry %s --help)\n", command->name, what, why,
		command->name);
}

static bool take_option(const struct command *command, const struct long_options *all, int i,
			void *const targets[], struct option_result *result)
{
	const struct option_spec *spec = all->specs[i];
	const struct option_group *group = command->groups[all->groups[i]];
	const char *text = spec->kind != OPTION_SWITCH ? optarg : all->on[i] ? "yes" : "no";
	char why[OPTION_WHY_MAX];
	char what[OPTION_WHY_MAX];

	if (option_set(group, targets[all->groups[i]], spec->name, text, why) < 0) {
		snprintf(what, sizeof(what), "--%s %s", spec->name, text);
		complain(command, what, why);
		return false;
	}
	result->given[all->groups[i]] |= 1ull << (spec - group->specs);
	return true;
}

static bool take_arguments(const struct command *command, int argc, char **argv,
			   struct option_result *result)
{
	char why[OPTION_WHY_MAX];
	int count = argc - optind;

	if (count > (int)command->argument_count) {
		complain(command, argv[optind + (int)command->argument_count],
			 "an argument too many: leave it out");
		return false;
	}
	if (count < (int)command->argument_count) {
		snprintf(why, sizeof(why), "it needs %s: name all of them", command->arguments);
		complain(command, "an argument is missing", why);
		return false;
	}
	for (int i = 0; i < count; i++)
		result->arguments[i] = argv[optind + i];
	return true;
}

static bool refuse(const struct command *command, int value, char **argv)
{
	char letter[] = {'-', (char)optopt, '\0'};

	if (value == ':')
		complain(command, argv[optind - 1], "its value is missing: write it behind it");
	else if (optopt >= VALUE_FIRST)
		complain(command, argv[optind - 1], "it takes no value: leave the value out");
	else
		complain(command, optopt == 0 ? argv[optind - 1] : letter,
			 "no such option: check its name");
	return false;
}

bool option_parse(const struct command *command, int argc, char **argv, void *const targets[],
		  struct option_result *result, int *exit_code)
{
	struct long_options all;
	int value;

	memset(result, 0, sizeof(*result));
	for (unsigned int g = 0; command->groups[g] != NULL; g++)
		option_defaults(command->groups[g], targets[g]);
	collect(command, &all);
	opterr = 0;
	optind = 1;
	*exit_code = EXIT_USAGE;
	while ((value = getopt_long(argc, argv, ":", all.entries, NULL)) != -1) {
		if (value == VALUE_HELP) {
			option_print_help(command);
			*exit_code = EXIT_COMPLETED;
			return false;
		}
		if (value == '?' || value == ':')
			return refuse(command, value, argv);
		if (!take_option(command, &all, value - VALUE_FIRST, targets, result))
			return false;
	}
	return take_arguments(command, argc, argv, result);
}

/* Prints words from @column on, breaking lines at HELP_WIDTH; the column behind the last one. */
static int print_wrapped(const char *text, int column)
{
	int at = column;

	while (*text != '\0') {
		int length = (int)strcspn(text, " ");

		if (at > column && at + 1 + length > HELP_WIDTH) {
			printf("\n%*s", column, "");
			at = column;
		}
		at += printf("%s%.*s", at > column ? " " : "", length, text);
		text += length;
		text += strspn(text, " ");
	}
	return at;
}

static int print_name(const struct option_spec *spec)
{
	if (spec->kind == OPTION_SWITCH)
		return printf("  --%s, --no-%s", spec->name, spec->name);
	return printf("  --%s %s", spec->name, spec->argument);
}

static void print_option(const struct option_spec *spec)
{
	int at = print_name(spec);

	if (at >= HELP_COLUMN) {
		printf("\n");
		at = 0;
	}
	printf("%*s", HELP_COLUMN - at, "");
	at = print_wrapped(spec->help, HELP_COLUMN);
	if (spec->fallback != NULL) {
		char text[HELP_WIDTH];

		snprintf(text, sizeof(text), "Default: %s.", spec->fallback);
		if (at + 1 + (int)strlen(text) > HELP_WIDTH)
			printf("\n%*s%s", HELP_COLUMN, "", text);
		else
			printf(" %s", text);
	}
	printf("\n");
}

void option_print_help(const struct command *command)
{
	printf("usage: vmferry %s [options]%s%s\n\n", command->name,
	       command->argument_count > 0 ? " " : "", command->arguments);
	print_wrapped(command->summary, 0);
	printf("\n");
	for (unsigned int g = 0; command->groups[g] != NULL; g++) {
		printf("\n%s:\n", command->groups[g]->title);
		for (const struct option_spec *s = command->groups[g]->specs; s->name != NULL; s++)
			print_option(s);
	}
	printf("  %-*s%s\n", HELP_COLUMN - 2, "--help", "Print this and end.");
}
