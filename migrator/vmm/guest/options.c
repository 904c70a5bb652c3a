/* SPDX-License-Identifier: MIT */
/*
 * Parses the command line's words into numbers, by one table for the sizes and numbers and two
 * words that are names.
 */
#include <stddef.h>

#include "abi.h"
#include "options.h"

#define HEARTBEAT_MAX	20000
#define REPORT_MAX	3600
#define TSC_MIN		1000000ull
#define TSC_MAX		100000000000ull
#define WORKING_DEFAULT (64ull << 20)

static const struct number {
	const char *name;
	size_t offset;
	uint64_t least, most;
} numbers[] = {
	{"fill=", offsetof(struct options, fill), 4096, UINT64_MAX},
	{"ws=", offsetof(struct options, working_set), 4096, UINT64_MAX},
	{"rate=", offsetof(struct options, rate), 0, 1ull << 40},
	{"scrub=", offsetof(struct options, scrub), 0, 1ull << 40},
	{"tsc=", offsetof(struct options, tsc_hz), TSC_MIN, TSC_MAX},
	{"zero=", offsetof(struct options, zero_percent), 0, 100},
	{"heartbeat=", offsetof(struct options, heartbeat_hz), 1, HEARTBEAT_MAX},
	{"vcpus=", offsetof(struct options, vcpus), 1, GUEST_VCPUS_MAX},
	{"report=", offsetof(struct options, report_seconds), 0, REPORT_MAX},
};

void options_defaults(struct options *options)
{
	*options = (struct options){
		.fill = UINT64_MAX,
		.working_set = WORKING_DEFAULT,
		.scrub = UINT64_MAX,
		.heartbeat_hz = 1000,
		.vcpus = 1,
		.pattern = PATTERN_RANDOM,
	};
}

/* What follows @prefix in @word, or NULL. */
static const char *after(const char *word, const char *prefix)
{
	for (; *prefix; word++, prefix++)
		if (*word != *prefix)
			return NULL;
	return word;
}

static bool same(const char *a, const char *b)
{
	const char *rest = after(a, b);

	return rest && *rest == '\0';
}

static unsigned int unit_shift(char unit)
{
	switch (unit) {
	case 'K':
	case 'k':
		return 10;
	case 'M':
	case 'm':
		return 20;
	case 'G':
	case 'g':
		return 30;
	default:
		return 0;
	}
}

static bool parse_size(const char *text, uint64_t *size)
{
	uint64_t number = 0;
	unsigned int shift;

	if (*text < '0' || *text > '9')
		return false;
	for (; *text >= '0' && *text <= '9'; text++) {
		if (number > (UINT64_MAX - 9) / 10)
			return false;
		number = number * 10 + (uint64_t)(*text - '0');
	}
	shift = unit_shift(*text);
	if (number > UINT64_MAX >> shift || text[shift != 0] != '\0')
		return false;
	*size = number << shift;
	return true;
}

static bool take_pattern(struct options *options, const char *value)
{
	if (same(value, "seq"))
		options->pattern = PATTERN_SEQUENTIAL;
	else if (same(value, "random"))
		options->pattern = PATTERN_RANDOM;
	else if (same(value, "hotcold"))
		options->pattern = PATTERN_HOTCOLD;
	else
		return false;
	return true;
}

static bool take_touch(struct options *options, const char *value)
{
	options->touch_line = same(value, "line");
	return options->touch_line || same(value, "all");
}

static bool take_number(struct options *options, const struct number *number, const char *value)
{
	uint64_t size;

	if (!parse_size(value, &size) || size < number->least || size > number->most)
		return false;
	*(uint64_t *)((char *)options + number->offset) = size;
	return true;
}

enum option_result options_take(struct options *options, const char *word)
{
	const char *value;

	if (same(word, "fill=all")) {
		options->fill = UINT64_MAX;
		return OPTION_TAKEN;
	}
	value = after(word, "pattern=");
	if (value)
		return take_pattern(options, value) ? OPTION_TAKEN : OPTION_BAD;
	value = after(word, "touch=");
	if (value)
		return take_touch(options, value) ? OPTION_TAKEN : OPTION_BAD;
	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) {
		value = after(word, numbers[i].name);
		if (value)
			return take_number(options, &numbers[i], value) ? OPTION_TAKEN : OPTION_BAD;
	}
	return OPTION_UNKNOWN;
}

char *options_next_word(char **line)
{
	char *word = *line;

	while (*word == ' ')
		word++;
	if (*word == '\0')
		return NULL;
	for (*line = word; **line && **line != ' '; (*line)++)
		;
	if (**line)
		*(*line)++ = '\0';
	return word;
}
