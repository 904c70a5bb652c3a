/* SPDX-License-Identifier: MIT */
/* The guest's command line: every word of abi.h, its limits, and what is refused. */
#include <criterion/criterion.h>

#include "guest/options.h"

TestSuite(options, .timeout = 20);

static enum option_result take(struct options *options, const char *word)
{
	options_defaults(options);
	return options_take(options, word);
}

Test(options, sizes__bytes_and_units)
{
	struct options o;

	cr_assert_eq(take(&o, "fill=8192"), OPTION_TAKEN);
	cr_assert_eq(o.fill, 8192);
	cr_assert_eq(take(&o, "ws=12K"), OPTION_TAKEN);
	cr_assert_eq(o.working_set, 12 << 10);
	cr_assert_eq(take(&o, "rate=200M"), OPTION_TAKEN);
	cr_assert_eq(o.rate, 200 << 20);
	cr_assert_eq(take(&o, "fill=3G"), OPTION_TAKEN);
	cr_assert_eq(o.fill, 3ull << 30);
}

Test(options, names__taken)
{
	struct options o;

	cr_assert_eq(take(&o, "fill=all"), OPTION_TAKEN);
	cr_assert_eq(o.fill, UINT64_MAX);
	cr_assert_eq(take(&o, "pattern=seq"), OPTION_TAKEN);
	cr_assert_eq(o.pattern, PATTERN_SEQUENTIAL);
	cr_assert_eq(take(&o, "pattern=hotcold"), OPTION_TAKEN);
	cr_assert_eq(o.pattern, PATTERN_HOTCOLD);
	cr_assert_eq(take(&o, "touch=line"), OPTION_TAKEN);
	cr_assert(o.touch_line);
	cr_assert_eq(take(&o, "touch=all"), OPTION_TAKEN);
	cr_assert_not(o.touch_line);
}

Test(options, numbers_at_their_limits__taken_or_bad)
{
	struct options o;

	cr_assert_eq(take(&o, "vcpus=16"), OPTION_TAKEN);
	cr_assert_eq(take(&o, "vcpus=17"), OPTION_BAD);
	cr_assert_eq(take(&o, "vcpus=0"), OPTION_BAD);
	cr_assert_eq(take(&o, "zero=100"), OPTION_TAKEN);
	cr_assert_eq(take(&o, "zero=101"), OPTION_BAD);
	cr_assert_eq(take(&o, "heartbeat=20000"), OPTION_TAKEN);
	cr_assert_eq(take(&o, "heartbeat=0"), OPTION_BAD);
	cr_assert_eq(take(&o, "fill=4095"), OPTION_BAD);
}

Test(options, malformed_value__bad_and_defaults_stand)
{
	static const char *const words[] = {
		"rate=",
		"rate=x",
		"rate=-1",
		"rate=1MB",
		"rate=1 ",
		"rate=M",
		"rate=99999999999999999999999",
		"fill=18446744073709551615G",
		"fill=17179869184G",
		"pattern=",
		"pattern=randomly",
		"touch=lines",
	};
	struct options o;

	for (size_t i = 0; i < sizeof(words) / sizeof(*words); i++) {
		cr_assert_eq(take(&o, words[i]), OPTION_BAD, "%s", words[i]);
		cr_assert_eq(o.rate, 0, "%s", words[i]);
		cr_assert_eq(o.fill, UINT64_MAX, "%s", words[i]);
		cr_assert_eq(o.pattern, PATTERN_RANDOM, "%s", words[i]);
		cr_assert_not(o.touch_line, "%s", words[i]);
	}
}

Test(options, unknown_word__unknown)
{
	struct options o;

	cr_assert_eq(take(&o, "console=ttyS0"), OPTION_UNKNOWN);
	cr_assert_eq(take(&o, "rat=1"), OPTION_UNKNOWN);
}

Test(options, line__cut_into_words)
{
	char text[] = "  /path/image  ws=4M rate=1M ";
	char *line = text;

	cr_assert_str_eq(options_next_word(&line), "/path/image");
	cr_assert_str_eq(options_next_word(&line), "ws=4M");
	cr_assert_str_eq(options_next_word(&line), "rate=1M");
	cr_assert_null(options_next_word(&line));
	cr_assert_null(options_next_word(&line));
}
