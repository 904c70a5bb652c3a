/* SPDX-License-Identifier: MIT */
#include "migrator/qemu/check.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <string.h>

#include "migrator/qemu/ask.h"
#include "monitor.h"

static struct monitor monitor;
static struct json_object *checks;

static void tear_down(void)
{
	json_object_put(checks);
	monitor_free(&monitor);
}

TestSuite(check, .fini = tear_down);

static struct json_object *item(const char *name)
{
	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *one = json_object_array_get_idx(checks, i);

		if (strcmp(ask_text(one, "name"), name) == 0)
			return one;
	}
	return NULL;
}

static void expect(const char *name, const char *status)
{
	struct json_object *one = item(name);

	cr_assert(one, "no %s in %s", name, json_object_to_json_string(checks));
	cr_expect_str_eq(ask_text(one, "status"), status, "%s", name);
	/* A remedy where there is something to be done, and only there. */
	cr_expect_eq(*ask_text(one, "remedy") == '\0', strcmp(status, "ok") == 0);
}

static void look(const char *answers)
{
	checks = json_object_new_array();
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, answers);
	cr_assert_eq(qemu_check_source(monitor.qmp, far(), checks), 0);
}

Test(check, source_without_obstacles)
{
	look("{\"return\": {\"status\": \"running\"}, \"id\": 2}{\"return\": {}, \"id\": 3}"
	     "{\"return\": [], \"id\": 4}{\"return\": {\"multifd-compression\": \"none\"}, \"id\": "
	     "5}{\"return\": [], \"id\": 6}{\"return\": [], \"id\": 7}");
	expect("source", "ok");
	expect("source state", "ok");
	expect("migration", "ok");
	expect("capabilities", "ok");
	expect("TLS", "ok");
	/* "ok" or "slow", as the host is set; not there in another network namespace. */
	cr_expect_eq(json_object_array_length(checks), item("socket buffers") != NULL ? 6 : 5);
	cr_expect_not(qemu_check_stops(checks));
}

Test(check, source_with_all_of_them)
{
	look("{\"return\": {\"status\": \"postmigrate\"}, \"id\": 2}"
	     "{\"return\": {\"blocked-reasons\": [\"disk x\"]}, \"id\": 3}{\"return\": "
	     "[{\"capability\": \"x-colo\", \"state\": true}, {\"capability\": \"xbzrle\", "
	     "\"state\": true}, {\"capability\": \"block\", \"state\": false}], \"id\": "
	     "4}{\"return\": {\"tls-creds\": \"t\", \"multifd-compression\": \"zlib\", "
	     "\"avail-switchover-bandwidth\": 7}, \"id\": 5}{\"return\": [{\"name\": \"type\", "
	     "\"type\": \"string\"}, {\"name\": \"a\", \"type\": \"child<vfio-pci>\"}], \"id\": "
	     "6}{\"return\": [{\"name\": \"device[0]\", \"type\": \"child<virtio-balloon-pci>\"}], "
	     "\"id\": 7}");
	expect("source state", "stop");
	expect("migration", "stop");
	cr_expect_str_eq(ask_text(item("migration"), "value"), "disk x");
	expect("x-colo", "stop");
	expect("xbzrle", "slow");
	cr_expect_null(item("block"));
	expect("TLS", "slow");
	expect("multifd compression", "slow");
	expect("switchover bandwidth", "slow");
	expect("device", "slow");
	expect("balloon", "ok");
	cr_expect(qemu_check_stops(checks));
}

Test(check, source_that_does_not_answer)
{
	checks = json_object_new_array();
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	cr_expect_eq(qemu_check_source(monitor.qmp, near(), checks), -ETIMEDOUT);
}

/* The socket's other end is this test, which is no QEMU with -incoming. */
Test(check, destination_behind_somebody_elses_socket)
{
	checks = json_object_new_array();
	cr_assert_eq(monitor_open(&monitor, READY), 0);
	monitor_say(&monitor, "{\"return\": {\"status\": \"running\"}, \"id\": 2}");
	cr_assert_eq(qemu_check_destination(monitor.qmp, far(), checks), 0);
	expect("destination state", "stop");
	expect("destination process", "slow");
	cr_expect_null(item("-S"));
}
