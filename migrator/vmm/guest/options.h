/* SPDX-License-Identifier: MIT */
/*
 * The guest's command line, parsed: see abi.h for the words. Pure functions, no knowledge of the
 * machine.
 */
#ifndef GUEST_OPTIONS_H
#define GUEST_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

enum pattern {
	PATTERN_SEQUENTIAL,
	PATTERN_RANDOM,
	PATTERN_HOTCOLD,
};

struct options {
	uint64_t fill; /* bytes; UINT64_MAX: all */
	uint64_t working_set;
	uint64_t rate;
	uint64_t scrub; /* UINT64_MAX: not given */
	uint64_t tsc_hz;
	uint64_t zero_percent;
	uint64_t heartbeat_hz;
	uint64_t vcpus;
	uint64_t report_seconds;
	enum pattern pattern;
	bool touch_line;
};

enum option_result {
	OPTION_TAKEN,
	OPTION_UNKNOWN,
	OPTION_BAD,
};

void options_defaults(struct options *options);

/* One word, NAME=VALUE. */
enum option_result options_take(struct options *options, const char *word);

/* Cuts the next word off @line, which is changed; NULL at its end. */
char *options_next_word(char **line);

#endif
