/* SPDX-License-Identifier: MIT */
/* vmferry: finds the subcommand and hands over. */
#include <stdio.h>
#include <string.h>

#include <vmferry/vmferry.h>

#include "command.h"
#include "exit.h"

static void usage(FILE *file)
{
	fprintf(file, "usage: vmferry COMMAND [options]\n\ncommands:\n");
	for (unsigned int i = 0; commands[i] != NULL; i++)
		fprintf(file, "  %-14s%.*s\n", commands[i]->name,
			(int)strcspn(commands[i]->summary, "."), commands[i]->summary);
	fprintf(file, "\nvmferry COMMAND --help tells a command's options, "
		      "vmferry --version the version.\n");
}

static const struct command *find(const char *name)
{
	for (unsigned int i = 0; commands[i] != NULL; i++)
		if (strcmp(commands[i]->name, name) == 0)
			return commands[i];
	return NULL;
}

int main(int argc, char **argv)
{
	const char *word = argc > 1 ? argv[1] : "";
	const struct command *command = find(word);
	struct cli cli;

	if (command != NULL) {
		log_init(&cli.log);
		log_open(&cli.log, VMFERRY_LOG_WARN);
		return command->main(&cli, argc - 1, argv + 1);
	}
	if (strcmp(word, "--version") == 0) {
		printf("vmferry %s\n", vmferry_version());
		return EXIT_COMPLETED;
	}
	if (strcmp(word, "--help") == 0) {
		usage(stdout);
		return EXIT_COMPLETED;
	}
	if (argc > 1)
		fprintf(stderr, "vmferry: %s: no such command: take one of these\n\n", word);
	usage(stderr);
	return EXIT_USAGE;
}
