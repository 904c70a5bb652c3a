/* SPDX-License-Identifier: MIT */
/*
 * Ring 0's C entry on vCPU 0: reads what the loader left, sets the machine up, starts the other
 * vCPUs, goes to ring 3.
 */
#include <stddef.h>

#include "abi.h"
#include "machine.h"
#include "memory.h"
#include "multiboot.h"
#include "text.h"
#include "work.h"

#define COMMAND_LINE_MAX 1024
#define SCRUB_DEFAULT	 (64ull << 20)

void guest_boot(uint32_t magic, const struct multiboot_info *info);

struct options options;

static char command_line[COMMAND_LINE_MAX];

static void say_word(const char *what, const char *word)
{
	struct text text = {.length = 0};

	text_add(&text, what);
	text_add(&text, word);
	text_say(&text);
}

static bool is_option(const char *word)
{
	for (; *word; word++)
		if (*word == '=')
			return true;
	return false;
}

static void read_options(void)
{
	char *line = command_line;
	char *word;

	options_defaults(&options);
	while ((word = options_next_word(&line)) != NULL) {
		if (!is_option(word))
			continue;
		switch (options_take(&options, word)) {
		case OPTION_UNKNOWN:
			say_word("guest: passed over, no such option: ", word);
			break;
		case OPTION_BAD:
			say_word("guest: bad value: ", word);
			die("correct the command line");
		case OPTION_TAKEN:
			break;
		}
	}
	if (options.scrub == UINT64_MAX)
		options.scrub = options.rate ? SCRUB_DEFAULT : 0;
}

static void say_machine(void)
{
	struct text text = {.length = 0};

	text_add(&text, "guest: ");
	text_add_decimal(&text, options.vcpus);
	text_add(&text, " vcpus, ");
	text_add_decimal(&text, memory_bytes() >> 10);
	text_add(&text, " KiB, tsc ");
	text_add_decimal(&text, clocks.tsc_hz / 1000);
	text_add(&text, " kHz, apic timer ");
	text_add_decimal(&text, clocks.apic_hz / 1000);
	text_add(&text, " kHz");
	text_say(&text);
}

void guest_boot(uint32_t magic, const struct multiboot_info *info)
{
	machine_setup();
	if (magic != MULTIBOOT_LOADER_MAGIC)
		die("not started by a multiboot loader");
	memory_read_command_line(info, command_line, sizeof(command_line));
	read_options();
	memory_setup(info);
	memory_choose(options.fill);
	machine_calibrate(options.tsc_hz);
	say_machine();
	scrub_setup((uint32_t)options.vcpus);
	for (uint32_t i = 1; i < options.vcpus; i++)
		machine_start_cpu(i, work);
	machine_enter(machine_cpu(0), work);
}
