/* SPDX-License-Identifier: MIT */
/*
 * Ports as sysfs shows them, in a directory made to look like it: RoCE, soft-RoCE, InfiniBand, and
 * things that are missing.
 */
#include <criterion/criterion.h>
#include <errno.h>
#include <ftw.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "transport/rdma/sysfs.h"

static char sys[64], class[80];

static void set_up(void)
{
	strcpy(sys, "/tmp/vmferry-test-XXXXXX");
	cr_assert_not_null(mkdtemp(sys));
	snprintf(class, sizeof(class), "%s/infiniband", sys);
	cr_assert_eq(mkdir(class, 0700), 0);
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
	(void)st;
	(void)type;
	(void)at;
	return remove(path);
}

static void tear_down(void)
{
	cr_assert_eq(nftw(sys, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

TestSuite(sysfs, .timeout = 20, .init = set_up, .fini = tear_down);

/* Writes a file below the class, its directories too. */
static void put(const char *text, const char *path)
{
	char full[256];
	FILE *file;

	snprintf(full, sizeof(full), "%s/%s", class, path);
	for (char *c = full + strlen(class) + 1; *c != '\0'; c++) {
		if (*c != '/')
			continue;
		*c = '\0';
		mkdir(full, 0700);
		*c = '/';
	}
	file = fopen(full, "we");
	cr_assert_not_null(file, "%s", full);
	fprintf(file, "%s\n", text);
	fclose(file);
}

static void put_gid(unsigned int index, const char *gid, const char *type, const char *netdev)
{
	char path[128];

	snprintf(path, sizeof(path), "mlx5_0/ports/1/gids/%u", index);
	put(gid, path);
	snprintf(path, sizeof(path), "mlx5_0/ports/1/gid_attrs/types/%u", index);
	put(type, path);
	snprintf(path, sizeof(path), "mlx5_0/ports/1/gid_attrs/ndevs/%u", index);
	put(netdev, path);
}

static struct vmferry_rdma_port look(void)
{
	struct vmferry_rdma_port port = {.size = sizeof(port), .device = "mlx5_0", .port = 1};

	rdma_sysfs_port(class, &port);
	return port;
}

Test(sysfs, roce__all_there)
{
	struct vmferry_rdma_port port;

	put("4: ACTIVE", "mlx5_0/ports/1/state");
	put("100 Gb/sec (4X EDR)", "mlx5_0/ports/1/rate");
	put("Ethernet", "mlx5_0/ports/1/link_layer");
	put("1", "mlx5_0/device/numa_node");
	put_gid(0, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "IB/RoCE v1", "eth0");
	put_gid(1, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "RoCE v2", "eth0");
	put_gid(2, "0000:0000:0000:0000:0000:ffff:0a00:0001", "IB/RoCE v1", "eth0");
	put_gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0002", "RoCE v2", "eth0.7");
	put_gid(4, "0000:0000:0000:0000:0000:0000:0000:0000", "RoCE v2", "eth0");
	put_gid(5, "fd00:0000:0000:0000:0000:0000:0000:0001", "RoCE v2", "eth0");
	port = look();
	cr_assert_str_eq(port.state, "ACTIVE");
	cr_assert(port.active);
	cr_assert_eq(port.bits_per_second, 100000000000ull);
	cr_assert_str_eq(port.link, "Ethernet");
	cr_assert_eq(port.numa_node, 1);
	cr_assert_eq(port.gids, 5);
	cr_assert_str_eq(port.address, "10.0.0.2");
	cr_assert_str_eq(port.netdev, "eth0.7");
}

struct gids {
	struct vmferry_rdma_gid gid[8];
	int count;
};

static void keep_gid(void *ctx, const struct vmferry_rdma_gid *gid)
{
	struct gids *gids = ctx;

	cr_assert_lt(gids->count, 8);
	cr_assert_eq(gid->size, sizeof(*gid));
	gids->gid[gids->count++] = *gid;
}

static struct gids look_at_gids(void)
{
	struct gids gids = {.count = 0};

	cr_assert_eq(rdma_sysfs_gids(class, "mlx5_0", 1, keep_gid, &gids), gids.count);
	return gids;
}

static void assert_gid(const struct vmferry_rdma_gid *gid, unsigned int index, const char *text,
		       const char *type, const char *netdev, const char *address)
{
	cr_assert_eq(gid->index, index);
	cr_assert_str_eq(gid->gid, text);
	cr_assert_str_eq(gid->type, type);
	cr_assert_str_eq(gid->netdev, netdev);
	cr_assert_str_eq(gid->address, address);
}

/* A place in the table that is not in use is not told, and does not shift those behind it. */
Test(sysfs, gids_of_roce__index_type_interface_and_address)
{
	struct gids gids;

	put("Ethernet", "mlx5_0/ports/1/link_layer");
	put_gid(0, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "IB/RoCE v1", "eth0");
	put_gid(1, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "RoCE v2", "eth0");
	put_gid(2, "0000:0000:0000:0000:0000:0000:0000:0000", "", "");
	put_gid(3, "0000:0000:0000:0000:0000:ffff:0a00:0002", "RoCE v2", "eth0.7");
	put_gid(4, "fd00:0000:0000:0000:0000:0000:0000:0001", "RoCE v2", "eth0");
	gids = look_at_gids();
	cr_assert_eq(gids.count, 4);
	assert_gid(&gids.gid[0], 0, "fe80::5054:ff:fe12:3456", "RoCE v1", "eth0",
		   "fe80::5054:ff:fe12:3456%eth0");
	assert_gid(&gids.gid[1], 1, "fe80::5054:ff:fe12:3456", "RoCE v2", "eth0",
		   "fe80::5054:ff:fe12:3456%eth0");
	assert_gid(&gids.gid[2], 3, "::ffff:10.0.0.2", "RoCE v2", "eth0.7", "10.0.0.2");
	assert_gid(&gids.gid[3], 4, "fd00::1", "RoCE v2", "eth0", "fd00::1");
}

Test(sysfs, gids_of_infiniband__no_interface)
{
	struct gids gids;

	put("InfiniBand", "mlx5_0/ports/1/link_layer");
	put_gid(0, "fe80:0000:0000:0000:0002:c903:0000:1491", "IB/RoCE v1", "");
	gids = look_at_gids();
	cr_assert_eq(gids.count, 1);
	assert_gid(&gids.gid[0], 0, "fe80::2:c903:0:1491", "IB", "", "");
}

/* Whoever may read the table but not what belongs to it. */
Test(sysfs, gid_without_attributes__type_unknown)
{
	struct gids gids;

	put("Ethernet", "mlx5_0/ports/1/link_layer");
	put("fd00:0000:0000:0000:0000:0000:0000:0001", "mlx5_0/ports/1/gids/0");
	gids = look_at_gids();
	cr_assert_eq(gids.count, 1);
	assert_gid(&gids.gid[0], 0, "fd00::1", "", "", "");
}

Test(sysfs, gids_of_no_port__no_device)
{
	struct gids gids = {.count = 0};

	cr_assert_eq(rdma_sysfs_gids(class, "mlx5_0", 2, keep_gid, &gids), -ENODEV);
	cr_assert_eq(vmferry_rdma_gids("nothing", 1, keep_gid, &gids), -ENODEV);
	cr_assert_eq(gids.count, 0);
}

Test(sysfs, roce_of_ipv6__global_before_link_local)
{
	struct vmferry_rdma_port port;

	put_gid(0, "fe80:0000:0000:0000:5054:00ff:fe12:3456", "RoCE v2", "eth0");
	port = look();
	cr_assert_str_eq(port.address, "fe80::5054:ff:fe12:3456%eth0");
	put_gid(1, "fd00:0000:0000:0000:0000:0000:0000:0001", "RoCE v2", "eth0");
	port = look();
	cr_assert_str_eq(port.address, "fd00::1");
}

Test(sysfs, soft_roce_without_address__interface_of_its_parent)
{
	struct vmferry_rdma_port port;

	put("1: DOWN", "mlx5_0/ports/1/state");
	put("2.5 Gb/sec (1X SDR)", "mlx5_0/ports/1/rate");
	put("Ethernet", "mlx5_0/ports/1/link_layer");
	put("eth3", "mlx5_0/parent");
	port = look();
	cr_assert_str_eq(port.state, "DOWN");
	cr_assert_not(port.active);
	cr_assert_eq(port.bits_per_second, 2500000000ull);
	cr_assert_eq(port.numa_node, -1);
	cr_assert_str_eq(port.netdev, "eth3");
	cr_assert_str_eq(port.address, "");
	cr_assert_eq(port.gids, 0);
}

Test(sysfs, soft_roce__node_of_its_interface)
{
	put("eth3", "mlx5_0/parent");
	put("2", "../net/eth3/device/numa_node");
	cr_assert_eq(rdma_sysfs_node(class, "mlx5_0"), 2);
}

/*
 * The host's own loopback interface stands for the one of IP over InfiniBand: its addresses are
 * known.
 */
Test(sysfs, infiniband__address_of_the_interface_with_the_ports_number)
{
	struct vmferry_rdma_port port;

	put("InfiniBand", "mlx5_0/ports/1/link_layer");
	put("fe80:0000:0000:0000:0002:c903:0000:1491", "mlx5_0/ports/1/gids/0");
	put("1", "mlx5_0/device/net/ib1/dev_port");
	put("0", "mlx5_0/device/net/lo/dev_port");
	port = look();
	cr_assert_str_eq(port.netdev, "lo");
	cr_assert_str_eq(port.address, "127.0.0.1");
	cr_assert_eq(port.gids, 1);
}

Test(sysfs, nothing_there__nothing_known)
{
	struct vmferry_rdma_port port = look();

	cr_assert_str_eq(port.state, "");
	cr_assert_str_eq(port.link, "");
	cr_assert_str_eq(port.netdev, "");
	cr_assert_str_eq(port.address, "");
	cr_assert_eq(port.bits_per_second, 0);
	cr_assert_eq(port.numa_node, -1);
}
