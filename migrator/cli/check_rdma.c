/* SPDX-License-Identifier: MIT */
/*
 * RDMA: devices and their ports, as far as a migration cares. Nothing here is needed: without it
 * memory travels over TCP.
 */
#include "host_check.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <vmferry/rdma.h>
#include <vmferry/vmferry.h>

#include "units.h"

#define CM_DEVICE    "/dev/infiniband/rdma_cm"
#define MTU_GOOD     4096
#define ETHERNET_MTU 4200 /* what leaves room for the headers of a packet of 4096 */
#define NAME_BYTES   128
#define REMEDY_BYTES 192
#define TEST_NS	     (60 * NS_PER_S)

struct found {
	struct json_object *checks;
	struct json_object *ports;
	unsigned int usable;
};

static void add_u64(struct json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

/* What is not known is null. */
static void add_text(struct json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, *value == '\0' ? NULL : json_object_new_string(value));
}

static void add_gid(void *ctx, const struct vmferry_rdma_gid *gid)
{
	struct json_object *object = json_object_new_object();

	add_u64(object, "index", gid->index);
	add_text(object, "gid", gid->gid);
	add_text(object, "type", gid->type);
	add_text(object, "netdev", gid->netdev);
	add_text(object, "address", gid->address);
	json_object_array_add(ctx, object);
}

static struct json_object *port_to_json(const struct vmferry_rdma_port *port)
{
	struct json_object *object = json_object_new_object();
	struct json_object *gids = json_object_new_array();

	vmferry_rdma_gids(port->device, port->port, add_gid, gids);
	add_text(object, "device", port->device);
	add_u64(object, "port", port->port);
	add_text(object, "error", port->error == 0 ? "" : strerror(-port->error));
	add_text(object, "netdev", port->netdev);
	add_text(object, "address", port->address);
	add_text(object, "state", port->state);
	add_text(object, "link", port->link);
	add_u64(object, "active_mtu", port->active_mtu);
	add_u64(object, "max_mtu", port->max_mtu);
	add_u64(object, "bits_per_second", port->bits_per_second);
	json_object_object_add(object, "gids", gids);
	json_object_object_add(object, "numa_node", json_object_new_int(port->numa_node));
	json_object_object_add(object, "odp", json_object_new_boolean(port->odp));
	add_u64(object, "max_qp_wr", port->max_qp_wr);
	add_u64(object, "max_msg_bytes", port->max_msg);
	add_u64(object, "max_mr_bytes", port->max_mr_size);
	return object;
}

/* ---- a port ---------------------------------------------------------------------------------- */

/* "RDMA mlx5_0/1", and behind it what the item is about. */
static const char *name_of(const struct vmferry_rdma_port *port, const char *what,
			   char name[NAME_BYTES])
{
	snprintf(name, NAME_BYTES, "RDMA %s/%u%s", port->device, port->port, what);
	return name;
}

static const char *closed_remedy(int error)
{
	switch (error) {
	case -EOPNOTSUPP:
		return "none: only InfiniBand and RoCE have what is needed";
	case -EACCES:
	case -EPERM:
		return "give this user access to /dev/infiniband/uverbs*";
	case -ENOENT:
	case -ENXIO:
		return "modprobe ib_uverbs";
	default:
		return "see whether ibv_devinfo can open it, and what the kernel's log (dmesg) "
		       "says";
	}
}

static void check_closed(struct found *found, const struct vmferry_rdma_port *port)
{
	char name[NAME_BYTES];
	const struct check_item item = {.name = name_of(port, "", name),
					.remedy = closed_remedy(port->error)};

	check_add(found->checks, &item, "cannot be used: %s", strerror(-port->error));
}

static void check_link(struct found *found, const struct vmferry_rdma_port *port)
{
	char remedy[REMEDY_BYTES];
	char name[NAME_BYTES];
	char node[32] = "no NUMA node";
	struct check_item item = {
		.name = name_of(port, "", name), .ok = port->active, .remedy = remedy};

	if (strcmp(port->link, "InfiniBand") == 0)
		snprintf(remedy, sizeof(remedy),
			 "connect the cable, and see that a subnet manager runs in the fabric");
	else
		snprintf(remedy, sizeof(remedy), "connect the cable; ip link set %s up",
			 *port->netdev == '\0' ? "INTERFACE" : port->netdev);
	if (port->numa_node >= 0)
		snprintf(node, sizeof(node), "NUMA node %d", port->numa_node);
	check_add(found->checks, &item, "%s, %s, %.4g Gb/s, %s", port->state, port->link,
		  (double)port->bits_per_second / 1e9, node);
}

static void check_address(struct found *found, const struct vmferry_rdma_port *port)
{
	const char *netdev = *port->netdev == '\0' ? "INTERFACE" : port->netdev;
	char remedy[REMEDY_BYTES];
	char name[NAME_BYTES];
	const struct check_item item = {.name = name_of(port, " address", name),
					.ok = *port->address != '\0',
					.remedy = remedy};

	snprintf(remedy, sizeof(remedy), "ip address add ADDRESS/PREFIX dev %s", netdev);
	if (item.ok)
		check_add(found->checks, &item, "--rail %s, of %s", port->address, netdev);
	else
		check_add(found->checks, &item, "none that a rail could have");
}

struct gid_list {
	struct found *found;
	const struct vmferry_rdma_port *port;
};

static void check_gid(void *ctx, const struct vmferry_rdma_gid *gid)
{
	const struct gid_list *list = ctx;
	char name[NAME_BYTES];
	char what[32];
	const struct check_item item = {.name = name, .ok = true};

	snprintf(what, sizeof(what), " GID %u", gid->index);
	name_of(list->port, what, name);
	check_add(list->found->checks, &item, "%s, %s%s%s%s%s", gid->gid,
		  *gid->type == '\0' ? "of unknown type" : gid->type,
		  *gid->address == '\0' ? "" : ", of ", gid->address,
		  *gid->netdev == '\0' ? "" : " at ", gid->netdev);
}

static void check_gids(struct found *found, const struct vmferry_rdma_port *port)
{
	struct gid_list list = {.found = found, .port = port};

	vmferry_rdma_gids(port->device, port->port, check_gid, &list);
}

static void check_mtu(struct found *found, const struct vmferry_rdma_port *port)
{
	char remedy[REMEDY_BYTES];
	char name[NAME_BYTES];
	const struct check_item item = {.name = name_of(port, " MTU", name),
					.ok = port->active_mtu >= MTU_GOOD,
					.remedy = remedy};

	if (port->max_mtu < MTU_GOOD)
		snprintf(remedy, sizeof(remedy), "none: the device has no larger packets");
	else if (strcmp(port->link, "InfiniBand") == 0)
		snprintf(remedy, sizeof(remedy),
			 "raise the partition's MTU at the subnet manager: small packets are slow");
	else
		snprintf(remedy, sizeof(remedy),
			 "ip link set %s mtu %d, or more, on both hosts and the switches between: "
			 "small packets are slow",
			 *port->netdev == '\0' ? "INTERFACE" : port->netdev, ETHERNET_MTU);
	check_add(found->checks, &item, "%u of %u", port->active_mtu, port->max_mtu);
}

/* Some drivers name the largest number that there is. */
static const char *region_text(uint64_t bytes, char text[UNITS_TEXT_MAX])
{
	return bytes >> 60 != 0 ? "any size" : units_format_size(text, bytes);
}

static void check_limits(struct found *found, const struct vmferry_rdma_port *port)
{
	char message[UNITS_TEXT_MAX];
	char region[UNITS_TEXT_MAX];
	char name[NAME_BYTES];
	const struct check_item item = {.name = name_of(port, " limits", name), .ok = true};

	check_add(found->checks, &item, "%u requests a queue, of %s; regions of %s; %s",
		  port->max_qp_wr, units_format_size(message, port->max_msg),
		  region_text(port->max_mr_size, region),
		  port->odp ? "--odp is possible" : "no --odp: memory is pinned");
}

static void check_port(void *ctx, const struct vmferry_rdma_port *port)
{
	struct found *found = ctx;

	json_object_array_add(found->ports, port_to_json(port));
	if (port->error != 0) {
		check_closed(found, port);
		return;
	}
	found->usable++;
	check_link(found, port);
	check_address(found, port);
	check_gids(found, port);
	check_mtu(found, port);
	check_limits(found, port);
}

/* ---- the host -------------------------------------------------------------------------------- */

/* Whether the kernel has devices that the user's side knows nothing of. */
static bool kernel_has_device(void)
{
	DIR *directory = opendir("/sys/class/infiniband");
	struct dirent *entry;
	bool found = false;

	if (directory == NULL)
		return false;
	while (!found && (entry = readdir(directory)) != NULL)
		found = entry->d_name[0] != '.';
	closedir(directory);
	return found;
}

static void check_none(struct json_object *checks)
{
	struct check_item item = {
		.name = "RDMA",
		.remedy = "load the driver of the NIC, like mlx5_ib, and ib_uverbs; RoCE in "
			  "software: modprobe rdma_rxe; rdma link add rxe0 type rxe netdev "
			  "INTERFACE"};

	if (kernel_has_device())
		item.remedy = "apt install ibverbs-providers; modprobe ib_uverbs";
	check_add(checks, &item, "no RDMA device; TCP is used");
}

static void check_cm(struct json_object *checks)
{
	int fd = open(CM_DEVICE, O_RDWR | O_CLOEXEC);
	int error = fd < 0 ? errno : 0;
	struct check_item item = {.name = "RDMA connections", .ok = fd >= 0};

	if (fd >= 0)
		close(fd);
	item.remedy = error == EACCES || error == EPERM ? "give this user access to " CM_DEVICE
							: "modprobe rdma_ucm";
	check_add(checks, &item, "%s: %s", CM_DEVICE, fd >= 0 ? "yes" : strerror(error));
}

bool check_rdma(struct json_object *checks, struct json_object *ports)
{
	struct found found = {.checks = checks, .ports = ports};
	int count = vmferry_rdma_ports(check_port, &found);

	if (count < 0)
		check_none(checks);
	else
		check_cm(checks);
	return found.usable > 0;
}

/* ---- the self-test --------------------------------------------------------------------------- */

static const char *test_remedy(int error)
{
	switch (error) {
	case -EINVAL:
	case -ENODEV:
	case -EADDRNOTAVAIL:
		return "name an address that vmferry check shows for an RDMA port";
	case -ENOMEM:
		return "raise the memlock limit, see there";
	case -EILSEQ:
		return "do not use this device: migrate with --transport tcp";
	default:
		return "see what else is missing here, and more with --log info";
	}
}

static void add_passed(struct json_object *checks, const char *rail,
		       const struct vmferry_rdma_self_test *test)
{
	const struct check_item item = {.name = "RDMA self-test", .ok = true};
	char size[UNITS_TEXT_MAX];
	char rate[UNITS_TEXT_MAX];
	char fence[UNITS_TEXT_MAX];
	char pin[UNITS_TEXT_MAX];

	check_add(checks, &item, "%s: %s over %u lane%s as written; %s, fence %s, pinning %s", rail,
		  units_format_size(size, test->bytes), test->lanes, test->lanes == 1 ? "" : "s",
		  units_format_rate(rate, test->bytes_per_second),
		  units_format_duration(fence, test->fence_ns),
		  units_format_duration(pin, test->register_ns));
}

int check_rdma_test(struct json_object *checks, const char *rail, struct json_object **result)
{
	struct vmferry_rdma_self_test test = {.size = sizeof(test)};
	int rc = vmferry_rdma_self_test(rail, vmferry_now() + TEST_NS, &test);
	struct json_object *object = json_object_new_object();

	*result = object;
	add_text(object, "rail", rail);
	json_object_object_add(object, "passed", json_object_new_boolean(rc == 0));
	if (rc < 0) {
		const struct check_item item = {.name = "RDMA self-test",
						.remedy = test_remedy(rc)};

		check_add(checks, &item, "%s: %s", rail, strerror(-rc));
		return rc;
	}
	add_passed(checks, rail, &test);
	add_u64(object, "lanes", test.lanes);
	add_u64(object, "bytes", test.bytes);
	add_u64(object, "bytes_per_second", test.bytes_per_second);
	add_u64(object, "fence_ns", test.fence_ns);
	add_u64(object, "register_ns", test.register_ns);
	return 0;
}
