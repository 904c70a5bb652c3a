/* SPDX-License-Identifier: MIT */
/* Reading is strict, so that a mistyped number is never taken for another one. */
#include "units.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct unit {
	const char *name;
	uint64_t factor;
};

/* Smallest first. */
static const struct unit sizes[] = {
	{"", 1},
	{"K", 1ull << 10},
	{"M", 1ull << 20},
	{"G", 1ull << 30},
};

static const struct unit durations[] = {
	{"ns", 1},
	{"us", NS_PER_US},
	{"ms", NS_PER_MS},
	{"s", NS_PER_S},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static int parse_digits(const char *text, uint64_t *number, const char **rest)
{
	char *end;

	/* strtoull() would take a sign and leading spaces. */
	if (*text < '0' || *text > '9')
		return -EINVAL;
	errno = 0;
	*number = strtoull(text, &end, 10);
	*rest = end;
	return errno == ERANGE ? -ERANGE : 0;
}

static int parse_unit(const char *text, const struct unit *units, size_t count, uint64_t *value)
{
	const char *rest;
	uint64_t number;
	int rc;

	rc = parse_digits(text, &number, &rest);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < count; i++) {
		if (strcmp(rest, units[i].name) != 0)
			continue;
		if (number > UINT64_MAX / units[i].factor)
			return -ERANGE;
		*value = number * units[i].factor;
		return 0;
	}
	return -EINVAL;
}

int units_parse_size(const char *text, uint64_t *bytes)
{
	return parse_unit(text, sizes, COUNT(sizes), bytes);
}

int units_parse_duration(const char *text, uint64_t *ns)
{
	if (strcmp(text, "0") == 0) {
		*ns = 0;
		return 0;
	}
	return parse_unit(text, durations, COUNT(durations), ns);
}

int units_parse_count(const char *text, uint64_t *count)
{
	return parse_unit(text, sizes, 1, count);
}

/* Three significant digits, none of them for show. */
static void format_scaled(char *text, double value, const char *unit)
{
	int decimals = value < 10 ? 2 : value < 100 ? 1 : 0;

	snprintf(text, UNITS_TEXT_MAX, "%.*f %s", decimals, value, unit);
}

const char *units_format_size(char *text, uint64_t bytes)
{
	static const char *const names[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	double value = (double)bytes;
	size_t i = 0;

	while (value >= 1024 && i + 1 < COUNT(names)) {
		value /= 1024;
		i++;
	}
	if (i == 0)
		snprintf(text, UNITS_TEXT_MAX, "%" PRIu64 " B", bytes);
	else
		format_scaled(text, value, names[i]);
	return text;
}

const char *units_format_rate(char *text, uint64_t bytes_per_second)
{
	units_format_size(text, bytes_per_second);
	strncat(text, "/s", UNITS_TEXT_MAX - strlen(text) - 1);
	return text;
}

const char *units_format_duration(char *text, uint64_t ns)
{
	if (ns < 10 * NS_PER_US)
		format_scaled(text, (double)ns / NS_PER_US, "us");
	else if (ns < NS_PER_MS)
		snprintf(text, UNITS_TEXT_MAX, "%" PRIu64 " us", (uint64_t)(ns / NS_PER_US));
	else if (ns < NS_PER_S)
		format_scaled(text, (double)ns / NS_PER_MS, "ms");
	else
		format_scaled(text, (double)ns / NS_PER_S, "s");
	return text;
}

static const char *exact(char *text, uint64_t value, const struct unit *units, size_t count)
{
	size_t i = count - 1;

	while (i > 0 && (value == 0 || value % units[i].factor != 0))
		i--;
	snprintf(text, UNITS_TEXT_MAX, "%" PRIu64 "%s", value / units[i].factor, units[i].name);
	return text;
}

const char *units_exact_size(char *text, uint64_t bytes)
{
	return exact(text, bytes, sizes, COUNT(sizes));
}

const char *units_exact_duration(char *text, uint64_t ns)
{
	return exact(text, ns, durations, COUNT(durations));
}
