/* SPDX-License-Identifier: MIT */
/*
 * QEMU's options have one dash or two, and each takes no argument or one. The word behind an option
 * that takes one is never an option, whatever it looks like.
 */
#include "cmdline.h"

#include <stdio.h>
#include <string.h>

/* The options without an argument, of QEMU 7.2 to 10.0. Any other is taken to have one. */
static const char *const flags[] = {
	"S",
	"audio-help",
	"daemonize",
	"enable-kvm",
	"enable-sync-profile",
	"full-screen",
	"h",
	"help",
	"mem-prealloc",
	"no-acpi",
	"no-fd-bootchk",
	"no-hpet",
	"no-kvm",
	"no-reboot",
	"no-shutdown",
	"no-user-config",
	"nodefaults",
	"nodefconfig",
	"nographic",
	"old-param",
	"one-insn-per-tb",
	"only-migratable",
	"portrait",
	"preconfig",
	"s",
	"sdl",
	"semihosting",
	"singlestep",
	"snapshot",
	"usb",
	"version",
	"win2k-hack",
	"xen-attach",
	"xen-domid-restrict",
};

static bool is_flag(const char *option)
{
	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		if (strcmp(option, flags[i]) == 0)
			return true;
	return false;
}

/* The option's name, without its dashes; NULL: it is none. */
static const char *option_name(const char *word)
{
	if (word[0] != '-' || word[1] == '\0')
		return NULL;
	return word[1] == '-' ? word + 2 : word + 1;
}

/* -name [guest=]NAME[,...], with a comma in the name doubled. */
static void take_name(const char *value, struct cmdline *cmdline)
{
	static const char key[] = "guest=";
	size_t length = 0;

	if (strncmp(value, key, sizeof(key) - 1) == 0)
		value += sizeof(key) - 1;
	for (; *value != '\0' && length + 1 < sizeof(cmdline->name); value++) {
		if (*value == ',' && *++value != ',')
			break;
		cmdline->name[length++] = *value;
	}
	cmdline->name[length] = '\0';
}

/* The program's own name stands until -name gives the guest's. */
static void take_program(const char *path, struct cmdline *cmdline)
{
	const char *slash = strrchr(path, '/');

	snprintf(cmdline->name, sizeof(cmdline->name), "%s", slash == NULL ? path : slash + 1);
}

void cmdline_parse(const char *text, size_t bytes, struct cmdline *cmdline)
{
	const char *const end = text + bytes;
	const char *pending = NULL; /* the option whose argument is next */

	memset(cmdline, 0, sizeof(*cmdline));
	for (const char *word = text; word < end; word += strlen(word) + 1) {
		if (memchr(word, '\0', (size_t)(end - word)) == NULL)
			return;
		if (word == text) {
			take_program(word, cmdline);
			continue;
		}
		if (pending != NULL) {
			if (strcmp(pending, "name") == 0)
				take_name(word, cmdline);
			else if (strcmp(pending, "incoming") == 0)
				cmdline->deferred = strcmp(word, "defer") == 0;
			pending = NULL;
			continue;
		}
		pending = option_name(word);
		if (pending == NULL)
			continue;
		cmdline->paused |= strcmp(pending, "S") == 0;
		cmdline->incoming |= strcmp(pending, "incoming") == 0;
		if (is_flag(pending))
			pending = NULL;
	}
}
