/* SPDX-License-Identifier: MIT */
/* The log: silent until told otherwise, filtered by level, bounded in length. And the version. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "common/log.h"

static struct {
	unsigned int count;
	enum vmferry_log_level level;
	char line[4096];
} seen;

static void record(void *ctx, enum vmferry_log_level level, const char *line)
{
	cr_assert_eq(ctx, &seen);
	seen.count++;
	seen.level = level;
	snprintf(seen.line, sizeof(seen.line), "%s", line);
}

TestSuite(log, .timeout = 20);

Test(log, no_sink__silent)
{
	log_error("nobody hears %s", "this");
	vmferry_set_log(NULL, NULL, VMFERRY_LOG_DEBUG);
	log_error("nor %s", "this");
	cr_assert_eq(seen.count, 0);
}

Test(log, line__formatted_without_newline)
{
	vmferry_set_log(record, &seen, VMFERRY_LOG_INFO);
	log_warn("lane %d: %s", 3, "closed");
	cr_assert_eq(seen.count, 1);
	cr_assert_eq(seen.level, VMFERRY_LOG_WARN);
	cr_assert_str_eq(seen.line, "lane 3: closed");
}

Test(log, every_level__passes_what_is_as_severe_or_more)
{
	for (int limit = VMFERRY_LOG_ERROR; limit <= VMFERRY_LOG_DEBUG; limit++) {
		vmferry_set_log(record, &seen, (enum vmferry_log_level)limit);
		for (int level = VMFERRY_LOG_ERROR; level <= VMFERRY_LOG_DEBUG; level++) {
			unsigned int before = seen.count;

			log_line((enum vmferry_log_level)level, "line");
			cr_assert_eq(seen.count - before, level <= limit ? 1 : 0, "%d under %d",
				     level, limit);
		}
	}
}

Test(log, overlong_line__cut_and_terminated)
{
	char text[3000];

	memset(text, 'a', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	vmferry_set_log(record, &seen, VMFERRY_LOG_DEBUG);
	log_debug("%s", text);
	cr_assert_eq(strlen(seen.line), 1023);
}

/* A peer's words could end the line and forge another, or speak to the terminal. */
Test(log, control_characters__replaced)
{
	vmferry_set_log(record, &seen, VMFERRY_LOG_DEBUG);
	log_debug("peer %s", "a\nb\033[2J\x7f\xc2\x9b"
			     "c \xc3\xa4");
	cr_assert_str_eq(seen.line, "peer a?b?[2J???c \xc3\xa4");
}

Test(version, number__that_of_the_header, .timeout = 20)
{
	char expected[32];

	snprintf(expected, sizeof(expected), "%d.%d.%d", VMFERRY_VERSION_MAJOR,
		 VMFERRY_VERSION_MINOR, VMFERRY_VERSION_PATCH);
	cr_assert_str_eq(vmferry_version(), expected);
}
