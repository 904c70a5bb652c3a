/* SPDX-License-Identifier: MIT */
/* What needs no guest: help, wrong command lines, addresses that cannot be. */
#include <arpa/inet.h>
#include <criterion/criterion.h>
#include <json-c/json.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "program.h"

TestSuite(usage, .timeout = 300, .init = work_set_up, .fini = work_tear_down);

Test(usage, help__of_every_command)
{
	static const char *const names[] = {"demo", "run", "receive", "migrate", "check"};
	struct program program;
	char line[64];

	cr_assert_eq(RUN_TO_END(&program, "--help"), 0);
	for (unsigned int i = 0; i < 5; i++) {
		snprintf(line, sizeof(line), "\n  %s ", names[i]);
		cr_assert_not_null(strstr(program_out(&program), line), "%s", names[i]);
	}
	for (unsigned int i = 0; i < 5; i++) {
		cr_assert_eq(RUN_TO_END(&program, names[i], "--help"), 0);
		snprintf(line, sizeof(line), "usage: vmferry %s ", names[i]);
		cr_assert_eq(strncmp(program_out(&program), line, strlen(line)), 0);
		cr_assert_not_null(strstr(program_out(&program), "--help"));
		cr_assert_str_eq(program_err(&program), "");
	}
}

Test(usage, version__is_the_librarys)
{
	struct program program;

	cr_assert_eq(RUN_TO_END(&program, "--version"), 0);
	cr_assert_str_eq(program_out(&program), "vmferry 0.1.0\n");
}

struct bad {
	const char *words[6];
	const char *says; /* on standard error */
};

Test(usage, wrong_command_lines__exit_2_and_say_why)
{
	static const struct bad bad[] = {
		{{NULL}, "usage:"},
		{{"ferry"}, "ferry: no such command"},
		{{"run", "--colour"}, "--colour: no such option"},
		{{"run", "-m"}, "-m: no such option"},
		{{"run", "extra"}, "extra: an argument too many"},
		{{"run", "--memory"}, "--memory: its value is missing"},
		{{"run", "--memory", "12X"}, "--memory 12X: not a size"},
		{{"run", "--memory", "1M"}, "--memory 1M: too small: it must be at least 16M"},
		{{"run", "--memory", "33000K"}, "not a multiple of 2M"},
		{{"run", "--memory", "99999999999G"}, "too large"},
		{{"run", "--vcpus", "0"}, "at least 1"},
		{{"run", "--vcpus", "17"}, "at most 16"},
		{{"run", "--pages", "tiny"}, "it is one of thp, 4k, huge"},
		{{"run", "--ring-entries", "5000"}, "not a power of two"},
		{{"run", "--module", "x"}, "--guest"},
		{{"run", "--guest", "x", "--rate", "1M"}, "use --append"},
		{{"receive"}, "it needs URI"},
		{{"migrate", "socket"}, "it needs SOCKET URI"},
		{{"migrate", "s", "u", "--downtime", "5"}, "not a duration"},
		{{"migrate", "s", "u", "--transport", "pigeon"}, "it is one of auto, tcp, rdma"},
		{{"migrate", "s", "u", "--rail", "mlx5_0"}, "--rail: not a numeric address"},
		{{"receive", "u", "--rail", "mlx5_0"}, "--rail: not a numeric address"},
		{{"demo", "--rail", "localhost"}, "--rail: not a numeric address"},
		{{"demo", "--tos", "256"}, "at most 255"},
		{{"check", "--json"}, "its value is missing"},
	};
	struct program program;

	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		program_start(&program, bad[i].words);
		cr_assert_eq(program_finish(&program, 60), 2, "line %u", i);
		cr_assert_not_null(strstr(program_err(&program), bad[i].says), "line %u: %s", i,
				   program_err(&program));
		cr_assert_str_eq(program_out(&program), "");
	}
}

static bool have_kvm(void)
{
	return access("/dev/kvm", R_OK | W_OK) == 0;
}

Test(usage, receive_at_impossible_addresses__exit_2)
{
	static const char *const bad[] = {
		"localhost:1",	   "tcp:",	   "tcp:127.0.0.1", "tcp:127.0.0.1:70000",
		"udp:127.0.0.1:1", "tcp:0.0.0.0:0"};
	struct program program;

	if (!have_kvm())
		cr_skip_test("no /dev/kvm");
	for (unsigned int i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		cr_assert_eq(RUN_TO_END(&program, "receive", bad[i], "--control", work_path("c")),
			     2, "%s", bad[i]);
		cr_assert_neq(strlen(program_err(&program)), 0, "%s", bad[i]);
	}
}

Test(usage, receive_at_a_port_in_use__exit_1)
{
	struct sockaddr_in address = {.sin_family = AF_INET,
				      .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t length = sizeof(address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	struct program program;
	char uri[64];

	if (!have_kvm())
		cr_skip_test("no /dev/kvm");
	cr_assert_eq(bind(fd, (struct sockaddr *)&address, length), 0);
	cr_assert_eq(listen(fd, 1), 0);
	cr_assert_eq(getsockname(fd, (struct sockaddr *)&address, &length), 0);
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(address.sin_port));
	cr_assert_eq(RUN_TO_END(&program, "receive", uri, "--control", work_path("c")), 1);
	cr_assert_not_null(strstr(program_err(&program), "in use"), "%s", program_err(&program));
	close(fd);
}

Test(usage, migrate_without_a_process__exit_1)
{
	struct program program;

	cr_assert_eq(RUN_TO_END(&program, "migrate", work_path("nobody"), "tcp:127.0.0.1:1"), 1);
	cr_assert_not_null(strstr(program_err(&program), "No such file"), "%s",
			   program_err(&program));
}

Test(usage, check__says_what_its_exit_status_says)
{
	struct json_object *found;
	struct json_object *can;
	struct program program;
	int code = RUN_TO_END(&program, "check", "--json", work_path("check.json"));

	found = json_object_from_file(work_path("check.json"));
	cr_assert_not_null(found);
	cr_assert(json_object_object_get_ex(found, "can_migrate", &can));
	cr_assert_eq(code, json_object_get_boolean(can) ? 0 : 6);
	/* Without KVM nothing can be asked about rings. */
	cr_assert_not_null(strstr(program_out(&program), have_kvm() ? "dirty ring" : "/dev/kvm"));
	cr_assert_not_null(strstr(program_out(&program), "memlock limit"));
	json_object_put(found);
}

static bool has_rdma(void)
{
	return access("/sys/class/infiniband", F_OK) == 0;
}

/* Not having it is said with what to do about it, and hinders nothing. */
Test(usage, check_without_rdma__tcp_is_used)
{
	struct json_object *found;
	struct json_object *rdma;
	struct json_object *ports;
	struct program program;
	int code;

	if (has_rdma())
		cr_skip_test("this host has RDMA");
	code = RUN_TO_END(&program, "check", "--json", work_path("check.json"));
	cr_assert_eq(code, have_kvm() ? 0 : 6);
	cr_assert_not_null(strstr(program_out(&program), "no RDMA device; TCP is used"));
	cr_assert_not_null(strstr(program_out(&program), "modprobe rdma_rxe"));
	found = json_object_from_file(work_path("check.json"));
	cr_assert(json_object_object_get_ex(found, "rdma", &rdma));
	cr_assert(json_object_object_get_ex(rdma, "ports", &ports));
	cr_assert_eq(json_object_array_length(ports), 0);
	json_object_put(found);
}

Test(usage, rdma_test_without_a_device__fails_with_the_remedy)
{
	struct program program;
	int code;

	if (has_rdma())
		cr_skip_test("this host has RDMA");
	code = RUN_TO_END(&program, "check", "--rdma-test", "127.0.0.1");
	cr_assert_eq(code, have_kvm() ? 1 : 6);
	cr_assert_not_null(strstr(program_out(&program), "RDMA self-test"));
	cr_assert_not_null(strstr(program_out(&program), "-> name an address"), "%s",
			   program_out(&program));
}

Test(usage, unwritable_json__exit_1)
{
	struct program program;
	int code = RUN_TO_END(&program, "check", "--json", "/nonexistent/x");

	cr_assert(code == 1 || code == 6);
	cr_assert_not_null(strstr(program_err(&program), "--json /nonexistent/x"));
}

#define NOBODY 65534

/* Only root can become somebody who may not open /dev/kvm, and only where not everybody may. */
Test(usage, demo_without_kvm__exit_6_in_one_line)
{
	struct program program;
	struct stat st;
	const char *text;

	if (stat("/dev/kvm", &st) == 0) {
		if (geteuid() != 0 || (st.st_mode & 0006) != 0)
			cr_skip_test("/dev/kvm cannot be made unreachable");
		cr_assert_eq(chmod(work_directory, 0777), 0);
		/*
		 * The real user too: else it is a set-user-ID program, which a leak checker may not
		 * look into.
		 */
		cr_assert_eq(setresuid(NOBODY, NOBODY, 0), 0);
		if (euidaccess(VMFERRY, X_OK) < 0) {
			cr_assert_eq(setresuid(0, 0, 0), 0);
			cr_skip_test("the build directory is root's alone");
		}
	}
	PROGRAM(&program, "demo");
	if (stat("/dev/kvm", &st) == 0)
		cr_assert_eq(setresuid(0, 0, 0), 0);
	cr_assert_eq(program_finish(&program, 60), 6);
	text = program_err(&program);
	cr_assert_not_null(strstr(text, "/dev/kvm"), "%s", text);
	cr_assert_not_null(strstr(text, "vmferry check"));
	cr_assert_eq(strchr(text, '\n'), text + strlen(text) - 1);
	cr_assert_str_eq(program_out(&program), "");
}
