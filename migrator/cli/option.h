/* SPDX-License-Identifier: MIT */
/*
 * Options as tables. A table drives parsing, validation and --help, carries the options over the
 * control socket, and is what the manual page is compared with. A command is made of one or more
 * groups, each filling a structure of its own.
 */
#ifndef CLI_OPTION_H
#define CLI_OPTION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct json_object;

enum option_kind {
	OPTION_SWITCH,	 /* bool; --name and --no-name */
	OPTION_COUNT,	 /* uint64_t */
	OPTION_SIZE,	 /* uint64_t, bytes or bytes a second */
	OPTION_DURATION, /* uint64_t, nanoseconds */
	OPTION_CHOICE,	 /* uint64_t, index in @choices */
	OPTION_TEXT,	 /* const char *, NULL when not given */
	OPTION_LIST, /* struct option_list, one more each time the option is given; @max: of them */
};

#define OPTION_LIST_MAX 16

struct option_list {
	const char *items[OPTION_LIST_MAX];
	unsigned int count;
};

struct option_spec {
	const char *name;
	const char *argument; /* "SIZE"; NULL for a switch */
	const char *fallback; /* the default, as one would write it; NULL: none */
	const char *help;     /* one or more sentences */
	enum option_kind kind;
	size_t offset; /* of the field in the group's structure */
	uint64_t min;
	uint64_t max;	  /* 0: no limit */
	const char *word; /* a word that may stand for the number, NULL: none */
	uint64_t word_value;
	const char *const *choices; /* NULL at the end */
};

/*
 * An entry of a table; what it does not need of min, max, word and choices is left out behind
 * OFFSET.
 */
#define OPTION(NAME, ARGUMENT, FALLBACK, HELP, KIND, OFFSET, ...)                               \
	{                                                                                       \
		.name = (NAME), .argument = (ARGUMENT), .fallback = (FALLBACK), .help = (HELP), \
		.kind = (KIND), .offset = (OFFSET), __VA_ARGS__                                 \
	}

struct option_group {
	const char *title;		 /* "Guest options" */
	const struct option_spec *specs; /* one without a name at the end */
};

#define OPTION_GROUPS_MAX    6
#define OPTION_ARGUMENTS_MAX 2

struct cli;

struct command {
	const char *name;
	const char *arguments; /* "SOCKET URI", all of them needed; "" for none */
	unsigned int argument_count;
	const char *summary;
	const struct option_group *const *groups; /* NULL at the end */
	int (*main)(struct cli *cli, int argc, char **argv);
};

struct option_result {
	uint64_t
		given[OPTION_GROUPS_MAX]; /* bit i: option i of the group was on the command line */
	const char *arguments[OPTION_ARGUMENTS_MAX];
};

#define OPTION_WHY_MAX 256

/* Fills the group's structure with its defaults. */
void option_defaults(const struct option_group *group, void *target);

/* Sets the option @name of the group from text. -ENOENT, -EINVAL with "reason: remedy" in @why. */
int option_set(const struct option_group *group, void *target, const char *name, const char *text,
	       char why[OPTION_WHY_MAX]);

/*
 * Adds to @object one string for each option of the group, as option_set() reads them, and an array
 * of them for a list.
 */
void option_to_json(const struct option_group *group, const void *target,
		    struct json_object *object);

/*
 * Parses a command line into @targets, one for each of the command's groups. True: go on. False:
 * the command ends with *@exit_code; help was printed, or what is wrong.
 */
bool option_parse(const struct command *command, int argc, char **argv, void *const targets[],
		  struct option_result *result, int *exit_code);

void option_print_help(const struct command *command);

#endif
