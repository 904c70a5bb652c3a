/* SPDX-License-Identifier: MIT */
/* Lines that come in pieces, several at once, too long, or are no JSON. */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include <migrator/cli/lines.h>
#include <vmferry/vmferry.h>

TestSuite(lines, .timeout = 10);

static void put(int fd, const char *text)
{
	cr_assert_eq((size_t)write(fd, text, strlen(text)), strlen(text));
}

Test(lines, pieces__make_lines)
{
	struct lines lines;
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	lines_init(&lines, 4096);
	cr_assert_eq(lines_read(&lines, fds[1]), -EAGAIN);
	put(fds[0], "{\"a\"");
	cr_assert_eq(lines_read(&lines, fds[1]), 4);
	cr_assert_null(lines_next(&lines));
	put(fds[0], ":1}\nsecond\nthi");
	lines_read(&lines, fds[1]);
	cr_assert_str_eq(lines_next(&lines), "{\"a\":1}");
	cr_assert_str_eq(lines_next(&lines), "second");
	cr_assert_null(lines_next(&lines));
	put(fds[0], "rd\n");
	lines_read(&lines, fds[1]);
	cr_assert_str_eq(lines_next(&lines), "third");
	close(fds[0]);
	cr_assert_eq(lines_read(&lines, fds[1]), 0);
	close(fds[1]);
	lines_free(&lines);
}

Test(lines, too_long__refused_at_the_limit)
{
	char text[5000];
	struct lines lines;
	int total = 0;
	int fds[2];
	int rc;

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	memset(text, 'x', sizeof(text));
	cr_assert_eq((size_t)write(fds[0], text, sizeof(text)), sizeof(text));
	lines_init(&lines, 4500);
	while ((rc = lines_read(&lines, fds[1])) > 0)
		total += rc;
	cr_assert_eq(rc, -EMSGSIZE);
	cr_assert_eq(total, 4500);
	close(fds[0]);
	close(fds[1]);
	lines_free(&lines);
}

Test(lines, parse__objects_only)
{
	static const char *const bad[] = {"",  "x",   "1",     "[]",   "\"s\"",
					  "{", "{}}", "{} {}", "null", "{\"a\":}"};
	struct json_object *object = lines_parse("{\"a\":1}");

	cr_assert_not_null(object);
	json_object_put(object);
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
		cr_assert_null(lines_parse(bad[i]), "%s", bad[i]);
}

Test(lines, reader_does_not_read__times_out)
{
	struct json_object *object = json_object_new_object();
	static char text[8 << 20];
	int fds[2];

	cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
	memset(text, 'x', sizeof(text) - 1);
	json_object_object_add(object, "t", json_object_new_string(text));
	cr_assert_eq(lines_send(fds[0], object, vmferry_now() + 50000000), -ETIMEDOUT);
	close(fds[0]);
	close(fds[1]);
}
