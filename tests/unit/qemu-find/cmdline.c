/* SPDX-License-Identifier: MIT */
#include "migrator/qemu/cmdline.h"

#include <criterion/criterion.h>
#include <string.h>

/* A literal ends with a zero byte of its own: the last argument's. */
#define PARSE(text) parse(text, sizeof(text))

static struct cmdline parse(const char *text, size_t bytes)
{
	struct cmdline cmdline;

	cmdline_parse(text, bytes, &cmdline);
	return cmdline;
}

Test(cmdline, libvirt__is_paused)
{
	const struct cmdline c =
		PARSE("/usr/bin/qemu-system-x86_64\0-name\0guest=web,debug-threads=on\0-S\0"
		      "-object\0{\"qom-type\":\"secret\"}\0-incoming\0defer\0-nodefaults");

	cr_expect(c.paused);
	cr_expect(c.incoming);
	cr_expect(c.deferred);
	cr_expect_str_eq(c.name, "web");
}

Test(cmdline, without_S__starts_by_itself)
{
	const struct cmdline c = PARSE("qemu-system-x86_64\0-m\0"
				       "64\0-incoming\0unix:/run/S");

	cr_expect_not(c.paused);
	cr_expect(c.incoming);
	cr_expect_str_eq(c.name, "qemu-system-x86_64");
}

Test(cmdline, no_options)
{
	const struct cmdline c = PARSE("/opt/qemu");

	cr_expect_not(c.paused);
	cr_expect_not(c.incoming);
	cr_expect_str_eq(c.name, "qemu");
}

Test(cmdline, S_behind_flags__counts)
{
	cr_expect(PARSE("q\0-enable-kvm\0-S").paused);
	cr_expect(PARSE("q\0-nographic\0-nodefaults\0-S\0-usb").paused);
	cr_expect(PARSE("q\0--S").paused);
	cr_expect(PARSE("q\0-S").paused);
	cr_expect(PARSE("q\0disk.img\0-S").paused);
}

/* The argument of an option is not an option. */
Test(cmdline, S_as_an_argument__does_not_count)
{
	cr_expect_not(PARSE("q\0-name\0-S").paused);
	cr_expect_not(PARSE("q\0-append\0-S\0-incoming\0defer").paused);
	cr_expect_not(PARSE("q\0--append\0-S").paused);
	cr_expect_not(PARSE("q\0-m\0"
			    "64\0-SS")
			      .paused);
	cr_expect_not(PARSE("q\0-s").paused);
	cr_expect_str_eq(PARSE("q\0-name\0-S").name, "-S");
}

/*
 * An option that is not known here is taken for one with an argument: the guest counts as one that
 * starts by itself.
 */
Test(cmdline, S_behind_an_unknown_option__does_not_count)
{
	cr_expect_not(PARSE("q\0-brand-new\0-S").paused);
	cr_expect(PARSE("q\0-brand-new\0value\0-S").paused);
}

Test(cmdline, incoming_as_an_argument__does_not_count)
{
	cr_expect_not(PARSE("q\0-append\0-incoming").incoming);
	cr_expect(PARSE("q\0--incoming\0tcp:0:4444").incoming);
	cr_expect_not(PARSE("q\0--incoming\0tcp:0:4444").deferred);
	cr_expect_not(PARSE("q\0-append\0defer").deferred);
}

Test(cmdline, names)
{
	cr_expect_str_eq(PARSE("q\0-name\0plain").name, "plain");
	cr_expect_str_eq(PARSE("q\0-name\0guest=a,,b,process=x").name, "a,b");
	cr_expect_str_eq(PARSE("q\0-name\0one\0-name\0two").name, "two");
}

Test(cmdline, long_name__is_cut)
{
	char text[2048] = "q\0-name\0";

	memset(text + 8, 'x', sizeof(text) - 9);
	cr_expect_eq(strlen(parse(text, sizeof(text)).name), CMDLINE_NAME_MAX - 1);
}

/* A process may write over its own command line. */
Test(cmdline, without_a_zero_at_its_end__is_read_as_far_as_it_goes)
{
	cr_expect_not(parse("q\0-S", 4).paused);
	cr_expect_not(parse("", 0).paused);
	cr_expect_not(parse("x", 1).paused);
	cr_expect(parse("q\0-S\0-incoming", 14).paused);
}
