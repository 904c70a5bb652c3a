/* SPDX-License-Identifier: MIT */
/*
 * What vmferry check says of RDMA ports: those of a device that no test machine has are put in the
 * library's place (--wrap).
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <json-c/json.h>
#include <linux/capability.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <migrator/cli/host_check.h>
#include <migrator/cli/report.h>
#include <vmferry/rdma.h>

/* The linker makes these names. */
int __wrap_vmferry_rdma_ports(vmferry_rdma_port_fn fn, void *ctx);
int __wrap_vmferry_rdma_gids(const char *device, unsigned int port, vmferry_rdma_gid_fn fn,
			     void *ctx);

static const struct vmferry_rdma_port *there;

int __wrap_vmferry_rdma_ports(vmferry_rdma_port_fn fn, void *ctx)
{
	if (there == NULL)
		return -ENODEV;
	fn(ctx, there);
	return 1;
}

int __wrap_vmferry_rdma_gids(const char *device, unsigned int port, vmferry_rdma_gid_fn fn,
			     void *ctx)
{
	static const struct vmferry_rdma_gid gids[] = {
		{.size = sizeof(gids[0]),
		 .index = 0,
		 .gid = "fe80::1",
		 .type = "RoCE v1",
		 .netdev = "eth0",
		 .address = "fe80::1%eth0"},
		{.size = sizeof(gids[0]),
		 .index = 3,
		 .gid = "::ffff:10.0.0.2",
		 .type = "RoCE v2",
		 .netdev = "eth0.7",
		 .address = "10.0.0.2"},
		{.size = sizeof(gids[0]), .index = 5, .gid = "fe80::2", .type = "IB"},
	};

	cr_assert_str_eq(device, there->device);
	cr_assert_eq(port, there->port);
	for (int i = 0; i < 3; i++)
		fn(ctx, &gids[i]);
	return 3;
}

static struct json_object *checks;
static struct json_object *ports;

static void tear_down(void)
{
	json_object_put(checks);
	json_object_put(ports);
}

TestSuite(items, .timeout = 20, .fini = tear_down);

static const struct vmferry_rdma_port roce = {.size = sizeof(roce),
					      .device = "mlx5_0",
					      .port = 2,
					      .netdev = "eth0.7",
					      .address = "10.0.0.2",
					      .state = "ACTIVE",
					      .link = "Ethernet",
					      .active = true,
					      .active_mtu = 4096,
					      .max_mtu = 4096,
					      .bits_per_second = 100000000000,
					      .gids = 3,
					      .numa_node = 1,
					      .odp = true,
					      .max_qp_wr = 32768,
					      .max_msg = 1u << 30,
					      .max_mr_size = UINT64_MAX};

static bool look_at(const struct vmferry_rdma_port *port)
{
	tear_down();
	there = port;
	checks = json_object_new_array();
	ports = json_object_new_array();
	return check_rdma(checks, ports);
}

/* The item of this name; its status and value must be these, and its remedy, NULL for none. */
static void assert_item(const char *name, const char *status, const char *value, const char *remedy)
{
	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *check = json_object_array_get_idx(checks, i);
		const char *told = report_text(check, "remedy", NULL);

		if (strcmp(report_text(check, "name", ""), name) != 0)
			continue;
		cr_assert_str_eq(report_text(check, "status", ""), status, "%s", name);
		cr_assert_str_eq(report_text(check, "value", ""), value, "%s", name);
		if (remedy == NULL)
			cr_assert_null(told, "%s: %s", name, told);
		else
			cr_assert_str_eq(told, remedy, "%s", name);
		return;
	}
	cr_assert_fail("no item %s", name);
}

Test(items, port_where_all_is_well__every_line)
{
	cr_assert(look_at(&roce));
	assert_item("RDMA mlx5_0/2", "ok", "ACTIVE, Ethernet, 100 Gb/s, NUMA node 1", NULL);
	assert_item("RDMA mlx5_0/2 address", "ok", "--rail 10.0.0.2, of eth0.7", NULL);
	assert_item("RDMA mlx5_0/2 GID 0", "ok", "fe80::1, RoCE v1, of fe80::1%eth0 at eth0", NULL);
	assert_item("RDMA mlx5_0/2 GID 3", "ok", "::ffff:10.0.0.2, RoCE v2, of 10.0.0.2 at eth0.7",
		    NULL);
	assert_item("RDMA mlx5_0/2 GID 5", "ok", "fe80::2, IB", NULL);
	assert_item("RDMA mlx5_0/2 MTU", "ok", "4096 of 4096", NULL);
	assert_item("RDMA mlx5_0/2 limits", "ok",
		    "32768 requests a queue, of 1.00 GiB; regions of any size; --odp is possible",
		    NULL);
}

Test(items, port_in_json__every_member)
{
	static const char expected[] =
		"[{\"device\":\"mlx5_0\",\"port\":2,\"error\":null,\"netdev\":\"eth0.7\",\"address\":\"10.0.0.2\",\"state\":\"ACTIVE\",\"link\":\"Ethernet\",\"active_mtu\":4096,\"max_mtu\":4096,\"bits_per_second\":100000000000,\"gids\":[{\"index\":0,\"gid\":\"fe80::1\",\"type\":\"RoCE v1\",\"netdev\":\"eth0\",\"address\":\"fe80::1%eth0\"},{\"index\":3,\"gid\":\"::ffff:10.0.0.2\",\"type\":\"RoCE v2\",\"netdev\":\"eth0.7\",\"address\":\"10.0.0.2\"},{\"index\":5,\"gid\":\"fe80::2\",\"type\":\"IB\",\"netdev\":null,\"address\":null}],\"numa_node\":1,\"odp\":true,\"max_qp_wr\":32768,\"max_msg_bytes\":1073741824,\"max_mr_bytes\":18446744073709551615}]";

	look_at(&roce);
	cr_assert_str_eq(json_object_to_json_string_ext(ports, JSON_C_TO_STRING_PLAIN), expected);
}

/* What can be done about small packets depends on what makes them small. */
Test(items, small_packets__the_remedy_of_the_link)
{
	struct vmferry_rdma_port port = roce;

	port.active_mtu = 1024;
	look_at(&port);
	assert_item("RDMA mlx5_0/2 MTU", "missing", "1024 of 4096",
		    "ip link set eth0.7 mtu 4200, or more, on both hosts and the switches between: "
		    "small packets are slow");
	port.active_mtu = 2048;
	strcpy(port.link, "InfiniBand");
	look_at(&port);
	assert_item("RDMA mlx5_0/2 MTU", "missing", "2048 of 4096",
		    "raise the partition's MTU at the subnet manager: small packets are slow");
	port.max_mtu = 2048;
	look_at(&port);
	assert_item("RDMA mlx5_0/2 MTU", "missing", "2048 of 2048",
		    "none: the device has no larger packets");
}

Test(items, port_that_is_down_and_has_less__the_remedies)
{
	struct vmferry_rdma_port port = roce;

	strcpy(port.state, "DOWN");
	port.active = false;
	port.numa_node = -1;
	port.address[0] = '\0';
	port.odp = false;
	look_at(&port);
	assert_item("RDMA mlx5_0/2", "missing", "DOWN, Ethernet, 100 Gb/s, no NUMA node",
		    "connect the cable; ip link set eth0.7 up");
	assert_item("RDMA mlx5_0/2 address", "missing", "none that a rail could have",
		    "ip address add ADDRESS/PREFIX dev eth0.7");
	assert_item("RDMA mlx5_0/2 limits", "ok",
		    "32768 requests a queue, of 1.00 GiB; regions of any size; no --odp: memory is "
		    "pinned",
		    NULL);
	strcpy(port.link, "InfiniBand");
	look_at(&port);
	assert_item("RDMA mlx5_0/2", "missing", "DOWN, InfiniBand, 100 Gb/s, no NUMA node",
		    "connect the cable, and see that a subnet manager runs in the fabric");
}

Test(items, port_that_cannot_be_used__why_and_the_remedy)
{
	struct vmferry_rdma_port port = roce;

	port.error = -EACCES;
	cr_assert_not(look_at(&port));
	assert_item("RDMA mlx5_0/2", "missing", "cannot be used: Permission denied",
		    "give this user access to /dev/infiniband/uverbs*");
	port.error = -EOPNOTSUPP;
	cr_assert_not(look_at(&port));
	assert_item("RDMA mlx5_0/2", "missing", "cannot be used: Operation not supported",
		    "none: only InfiniBand and RoCE have what is needed");
}

/* Not by another user: a leak checker may not look into a process that has changed its own. */
static void renounce_exemption(void)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];

	cr_assert_eq(syscall(SYS_capget, &header, data), 0);
	data[0].effective &= ~(1u << CAP_IPC_LOCK);
	cr_assert_eq(syscall(SYS_capset, &header, data), 0);
}

Test(items, memlock_of_an_ordinary_user__the_remedy_to_the_letter)
{
	const struct rlimit limit = {.rlim_cur = 8 << 20, .rlim_max = 8 << 20};
	const struct passwd *user = getpwuid(getuid());
	char remedy[320];

	renounce_exemption();
	cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &limit), 0);
	snprintf(
		remedy, sizeof(remedy),
		"allow the guest's memory times the number of rails, on both hosts: \"%s - memlock "
		"unlimited\" in /etc/security/limits.conf and a new login, or "
		"LimitMEMLOCK=infinity in the systemd unit",
		user == NULL ? "USER" : user->pw_name);
	checks = json_object_new_array();
	check_memlock(checks, true);
	assert_item("memlock limit", "missing", "8.00 MiB: RDMA moves no guest beyond it", remedy);
	json_object_put(checks);
	checks = json_object_new_array();
	check_memlock(checks, false);
	assert_item("memlock limit", "ok", "8.00 MiB; only RDMA needs more", NULL);
}

Test(items, memlock_without_a_limit__ok)
{
	const struct rlimit limit = {.rlim_cur = RLIM_INFINITY, .rlim_max = RLIM_INFINITY};

	if (setrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		cr_skip_test("the limit may not be raised here");
	checks = json_object_new_array();
	check_memlock(checks, true);
	assert_item("memlock limit", "ok", "unlimited", NULL);
}
