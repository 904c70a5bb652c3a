/* SPDX-License-Identifier: MIT */
/* Text from any report, and what a report means for the exit status. */
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <stdlib.h>
#include <string.h>

#include <migrator/cli/report.h>

TestSuite(report, .timeout = 10);

static enum exit_code code_of(const char *json)
{
	struct json_object *report = json_tokener_parse(json);
	enum exit_code code = report_exit_code(report);

	json_object_put(report);
	return code;
}

Test(report, result__exit_status)
{
	cr_assert_eq(code_of("{\"result\":\"completed\",\"verified\":null}"), EXIT_COMPLETED);
	cr_assert_eq(code_of("{\"result\":\"completed\",\"verified\":true}"), EXIT_COMPLETED);
	cr_assert_eq(code_of("{\"result\":\"completed\",\"verified\":false}"), EXIT_DIFFERENT);
	cr_assert_eq(code_of("{\"result\":\"completed\",\"guest\":{\"faults\":1}}"),
		     EXIT_DIFFERENT);
	cr_assert_eq(code_of("{\"result\":\"completed\",\"guest\":{\"faults\":0}}"),
		     EXIT_COMPLETED);
	cr_assert_eq(code_of("{\"result\":\"cancelled\"}"), EXIT_CANCELLED);
	cr_assert_eq(code_of("{\"result\":\"failed\"}"), EXIT_FAILED);
	cr_assert_eq(code_of("{\"result\":\"indeterminate\"}"), EXIT_INDETERMINATE);
	cr_assert_eq(code_of("{}"), EXIT_FAILED);
}

static char *text_of(const char *json)
{
	struct json_object *report = json_tokener_parse(json);
	char *text = NULL;
	size_t size;
	FILE *file = open_memstream(&text, &size);

	report_print(file, report);
	fclose(file);
	json_object_put(report);
	return text;
}

Test(report, text__units_from_the_names)
{
	char *text = text_of(
		"{\"result\":\"completed\",\"verified\":true,\"blackout_us\":3210,\"bytes_sent\":1073741824,\"first_pass_bytes_per_second\":1610612736,\"observed_blackout_us\":null}");

	cr_assert_str_eq(text, "result                     completed\n"
			       "verified                   yes\n"
			       "blackout                   3.21 ms\n"
			       "bytes sent                 1.00 GiB\n"
			       "first pass                 1.50 GiB/s\n"
			       "observed blackout          -\n");
	free(text);
}

Test(report, reason_that_there_is_not__no_line)
{
	char *text = text_of("{\"result\":\"completed\",\"reason\":\"\",\"pid\":7}");

	cr_assert_str_eq(text, "result                     completed\n"
			       "pid                        7\n");
	free(text);
}

Test(report, unknown_steps__appear_under_their_heading)
{
	char *text = text_of(
		"{\"blackout\":{\"source\":{\"a_new_step_us\":120},\"destination\":{\"load_us\":2}},\"empty\":{}}");

	cr_assert_str_eq(text, "\nblackout, source\n"
			       "  a new step               120 us\n"
			       "\nblackout, destination\n"
			       "  load                     2.00 us\n");
	free(text);
}

Test(report, transport__with_its_reason_and_what_was_pinned)
{
	char *text = text_of(
		"{\"transport\":\"tcp\",\"transport_reason\":\"no RDMA device here\",\"lanes\":2,"
		"\"registration\":{\"bytes\":2097152,\"regions\":1,\"us\":150}}");

	cr_assert_str_eq(text, "transport                  tcp\n"
			       "transport reason           no RDMA device here\n"
			       "lanes                      2\n"
			       "\nregistration\n"
			       "  bytes                    2.00 MiB\n"
			       "  regions                  1\n"
			       "  time                     150 us\n");
	free(text);
}

Test(report, long_table__loses_its_middle)
{
	struct json_object *report = json_object_new_object();
	struct json_object *rows = json_object_new_array();
	char *text;

	for (int i = 0; i < 100; i++) {
		struct json_object *row = json_object_new_object();

		json_object_object_add(row, "round", json_object_new_int(i));
		json_object_array_add(rows, row);
	}
	json_object_object_add(report, "rounds_detail", rows);
	text = text_of(json_object_to_json_string(report));
	cr_assert_not_null(strstr(text, "88 more"), "%s", text);
	cr_assert_not_null(strstr(text, "   99\n"), "%s", text);
	cr_assert_null(strstr(text, "   50\n"), "%s", text);
	free(text);
	json_object_put(report);
}

Test(report, insert__behind_its_sibling_or_in_place)
{
	struct json_object *report = json_tokener_parse("{\"a\":1,\"b\":2}");

	report = report_insert(report, "a", "x", json_object_new_int(3));
	cr_assert_str_eq(json_object_to_json_string_ext(report, JSON_C_TO_STRING_PLAIN),
			 "{\"a\":1,\"x\":3,\"b\":2}");
	report = report_insert(report, "b", "x", NULL);
	cr_assert_str_eq(json_object_to_json_string_ext(report, JSON_C_TO_STRING_PLAIN),
			 "{\"a\":1,\"x\":null,\"b\":2}");
	json_object_put(report);
}
