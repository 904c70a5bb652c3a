/* SPDX-License-Identifier: MIT */
/* Sizes and durations as people write and read them: 256M, 5ms, 1.5 GiB. */
#ifndef CLI_UNITS_H
#define CLI_UNITS_H

#include <stddef.h>
#include <stdint.h>

#define NS_PER_US 1000ull
#define NS_PER_MS 1000000ull
#define NS_PER_S  1000000000ull

/*
 * "64", "64K", "64M", "64G": bytes. -EINVAL for anything else, -ERANGE for what 64 bits do not
 * hold.
 */
int units_parse_size(const char *text, uint64_t *bytes);

/* "5ns", "5us", "5ms", "5s", or "0": nanoseconds. Errors as above. */
int units_parse_duration(const char *text, uint64_t *ns);

/* A decimal number and nothing else. Errors as above. */
int units_parse_count(const char *text, uint64_t *count);

#define UNITS_TEXT_MAX 32

/*
 * As short as a person wants it, "1.50 GiB", "812 us"; returns @text, which has UNITS_TEXT_MAX
 * bytes.
 */
const char *units_format_size(char *text, uint64_t bytes);
const char *units_format_rate(char *text, uint64_t bytes_per_second);
const char *units_format_duration(char *text, uint64_t ns);

/* Exact and as the parsers read it, in the largest unit that divides it: "256M", "5ms". */
const char *units_exact_size(char *text, uint64_t bytes);
const char *units_exact_duration(char *text, uint64_t ns);

#endif
