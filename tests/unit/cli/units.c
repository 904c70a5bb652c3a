/* SPDX-License-Identifier: MIT */
/* What people may write for sizes and durations, and what they read. */
#include <criterion/criterion.h>
#include <errno.h>

#include <migrator/cli/units.h>

TestSuite(units, .timeout = 10);

Test(units, sizes__powers_of_1024)
{
	uint64_t bytes;

	cr_assert_eq(units_parse_size("0", &bytes), 0);
	cr_assert_eq(bytes, 0);
	cr_assert_eq(units_parse_size("64", &bytes), 0);
	cr_assert_eq(bytes, 64);
	cr_assert_eq(units_parse_size("3K", &bytes), 0);
	cr_assert_eq(bytes, 3072);
	cr_assert_eq(units_parse_size("256M", &bytes), 0);
	cr_assert_eq(bytes, 256ull << 20);
	cr_assert_eq(units_parse_size("17179869183G", &bytes), 0);
	cr_assert_eq(bytes, 17179869183ull << 30);
}

Test(units, bad_sizes__refused)
{
	static const char *const bad[] = {"",	"M",   "12X", "1.5G", "-1", "+1",
					  " 1", "1 M", "1MB", "0x10", "1m"};
	uint64_t bytes = 7;

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_eq(units_parse_size(bad[i], &bytes), -EINVAL, "%s", bad[i]);
	cr_assert_eq(units_parse_size("17179869184G", &bytes), -ERANGE);
	cr_assert_eq(units_parse_size("18446744073709551616", &bytes), -ERANGE);
	cr_assert_eq(bytes, 7);
}

Test(units, durations__need_their_unit)
{
	uint64_t ns;

	cr_assert_eq(units_parse_duration("5ms", &ns), 0);
	cr_assert_eq(ns, 5000000);
	cr_assert_eq(units_parse_duration("300us", &ns), 0);
	cr_assert_eq(ns, 300000);
	cr_assert_eq(units_parse_duration("2s", &ns), 0);
	cr_assert_eq(ns, 2000000000);
	cr_assert_eq(units_parse_duration("0", &ns), 0);
	cr_assert_eq(ns, 0);
	cr_assert_eq(units_parse_duration("5", &ns), -EINVAL);
	cr_assert_eq(units_parse_duration("5m", &ns), -EINVAL);
	cr_assert_eq(units_parse_duration("ms", &ns), -EINVAL);
	cr_assert_eq(units_parse_duration("18446744074s", &ns), -ERANGE);
}

Test(units, formats__as_people_read_them)
{
	char text[UNITS_TEXT_MAX];

	cr_assert_str_eq(units_format_size(text, 17), "17 B");
	cr_assert_str_eq(units_format_size(text, 1536), "1.50 KiB");
	cr_assert_str_eq(units_format_size(text, 256ull << 20), "256 MiB");
	cr_assert_str_eq(units_format_rate(text, 3ull << 30), "3.00 GiB/s");
	cr_assert_str_eq(units_format_duration(text, 812000), "812 us");
	cr_assert_str_eq(units_format_duration(text, 1234567), "1.23 ms");
	cr_assert_str_eq(units_format_duration(text, 45600000000), "45.6 s");
}

Test(units, exact__is_read_back_as_the_same_number)
{
	static const uint64_t numbers[] = {0,	    1,	  1023,	      1024,	   3 << 20,
					   5000000, 1000, 1ull << 40, 999999999999};
	char text[UNITS_TEXT_MAX];

	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++) {
		uint64_t back;

		cr_assert_eq(units_parse_size(units_exact_size(text, numbers[i]), &back), 0);
		cr_assert_eq(back, numbers[i]);
		cr_assert_eq(units_parse_duration(units_exact_duration(text, numbers[i]), &back),
			     0);
		cr_assert_eq(back, numbers[i]);
	}
}
