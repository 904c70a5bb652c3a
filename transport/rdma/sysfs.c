/* SPDX-License-Identifier: MIT */
#include "transport/rdma/sysfs.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define GIDS_MAX \
	4096 /* a table's end is where there is no file any more; this is only against a loop */
#define PATH_MAX_BYTES 384

/*
 * Reads a file's first line; false when there is none, or none can be read, as with GIDs that are
 * not in use.
 */
__attribute__((format(printf, 2, 3))) static bool read_text(char text[VMFERRY_RDMA_TEXT],
							    const char *path, ...)
{
	char full[PATH_MAX_BYTES];
	va_list args;
	FILE *file;

	va_start(args, path);
	vsnprintf(full, sizeof(full), path, args);
	va_end(args);
	text[0] = '\0';
	file = fopen(full, "re");
	if (file == NULL)
		return false;
	if (fgets(text, VMFERRY_RDMA_TEXT, file) == NULL)
		text[0] = '\0';
	fclose(file);
	text[strcspn(text, "\n")] = '\0';
	return text[0] != '\0';
}

/* ---- addresses ------------------------------------------------------------------------------- */

/* Which of a port's addresses to show: the one that is easiest to write. */
enum rank { RANK_NONE, RANK_LINK_LOCAL, RANK_IPV6, RANK_IPV4 };

struct choice {
	enum rank rank;
	char address[VMFERRY_RDMA_TEXT];
	char netdev[VMFERRY_RDMA_TEXT];
};

static enum rank rank_of(const struct in6_addr *address)
{
	if (IN6_IS_ADDR_V4MAPPED(address))
		return RANK_IPV4;
	return IN6_IS_ADDR_LINKLOCAL(address) ? RANK_LINK_LOCAL : RANK_IPV6;
}

/* An address of the interface @netdev as one writes it; IPv4 comes in its mapped form. */
static void write_address(char text[VMFERRY_RDMA_TEXT], const struct in6_addr *address,
			  const char *netdev)
{
	char plain[INET6_ADDRSTRLEN];
	enum rank rank = rank_of(address);

	if (rank == RANK_IPV4)
		inet_ntop(AF_INET, &address->s6_addr[12], plain, sizeof(plain));
	else
		inet_ntop(AF_INET6, address, plain, sizeof(plain));
	/* A link-local address means nothing without its interface. */
	snprintf(text, VMFERRY_RDMA_TEXT, "%s%s%.*s", plain, rank == RANK_LINK_LOCAL ? "%" : "",
		 rank == RANK_LINK_LOCAL ? IFNAMSIZ - 1 : 0, netdev);
}

static void offer(struct choice *choice, const struct in6_addr *address, const char *netdev)
{
	enum rank rank = rank_of(address);

	if (rank <= choice->rank)
		return;
	choice->rank = rank;
	snprintf(choice->netdev, sizeof(choice->netdev), "%s", netdev);
	write_address(choice->address, address, netdev);
}

/*
 * The kernel has one name for IB and RoCE v1, which are told apart by the link; before 4.5 it told
 * nothing.
 */
static void read_type(char type[VMFERRY_RDMA_TEXT], const char *class, const char *device,
		      unsigned int port, unsigned int index)
{
	char link[VMFERRY_RDMA_TEXT];

	if (read_text(type, "%s/%s/ports/%u/gid_attrs/types/%u", class, device, port, index) &&
	    strcmp(type, "IB/RoCE v1") != 0)
		return;
	read_text(link, "%s/%s/ports/%u/link_layer", class, device, port);
	if (strcmp(link, "InfiniBand") == 0)
		snprintf(type, VMFERRY_RDMA_TEXT, "IB");
	else if (type[0] != '\0')
		snprintf(type, VMFERRY_RDMA_TEXT, "RoCE v1");
}

int rdma_sysfs_gids(const char *class, const char *device, unsigned int port,
		    vmferry_rdma_gid_fn fn, void *ctx)
{
	struct vmferry_rdma_gid gid = {.size = sizeof(gid)};
	char text[VMFERRY_RDMA_TEXT];
	struct in6_addr address;
	int found = 0;

	for (; gid.index < GIDS_MAX; gid.index++) {
		if (!read_text(text, "%s/%s/ports/%u/gids/%u", class, device, port, gid.index))
			break;
		if (inet_pton(AF_INET6, text, &address) != 1 || IN6_IS_ADDR_UNSPECIFIED(&address))
			continue;
		inet_ntop(AF_INET6, &address, gid.gid, sizeof(gid.gid));
		read_type(gid.type, class, device, port, gid.index);
		gid.address[0] = '\0';
		if (read_text(gid.netdev, "%s/%s/ports/%u/gid_attrs/ndevs/%u", class, device, port,
			      gid.index))
			write_address(gid.address, &address, gid.netdev);
		fn(ctx, &gid);
		found++;
	}
	return gid.index == 0 ? -ENODEV : found;
}

/*
 * Over RoCE the GIDs are the addresses: those of version 1 cannot be routed, and rdma_cm does not
 * choose them by default.
 */
static void offer_gid(void *ctx, const struct vmferry_rdma_gid *gid)
{
	struct in6_addr address;

	if (strcmp(gid->type, "RoCE v2") == 0 && gid->netdev[0] != '\0' &&
	    inet_pton(AF_INET6, gid->gid, &address) == 1)
		offer(ctx, &address, gid->netdev);
}

static void look_at_interface(const char *netdev, struct choice *choice)
{
	struct ifaddrs *list;

	if (getifaddrs(&list) < 0)
		return;
	for (const struct ifaddrs *i = list; i != NULL; i = i->ifa_next) {
		struct in6_addr address = {.s6_addr = {[10] = 0xff, [11] = 0xff}};

		if (i->ifa_addr == NULL || strcmp(i->ifa_name, netdev) != 0)
			continue;
		if (i->ifa_addr->sa_family == AF_INET)
			memcpy(&address.s6_addr[12],
			       &((struct sockaddr_in *)(void *)i->ifa_addr)->sin_addr, 4);
		else if (i->ifa_addr->sa_family == AF_INET6)
			address = ((struct sockaddr_in6 *)(void *)i->ifa_addr)->sin6_addr;
		else
			continue;
		offer(choice, &address, netdev);
	}
	freeifaddrs(list);
}

/*
 * The interfaces of the same PCI function; of several the one that says it is of this port. Drivers
 * count from 0 there.
 */
static void find_interface(const char *class, const struct vmferry_rdma_port *port,
			   char netdev[VMFERRY_RDMA_TEXT])
{
	char path[PATH_MAX_BYTES];
	char number[VMFERRY_RDMA_TEXT];
	struct dirent *entry;
	DIR *directory;

	snprintf(path, sizeof(path), "%s/%s/device/net", class, port->device);
	directory = opendir(path);
	if (directory == NULL)
		return;
	while ((entry = readdir(directory)) != NULL) {
		if (entry->d_name[0] == '.' ||
		    !read_text(number, "%s/%.64s/dev_port", path, entry->d_name) ||
		    strtoul(number, NULL, 0) != port->port - 1)
			continue;
		snprintf(netdev, VMFERRY_RDMA_TEXT, "%.*s", IFNAMSIZ - 1, entry->d_name);
	}
	closedir(directory);
}

/* A port without any address is still one of an interface, to which an address can be given. */
static void find_address(const char *class, struct vmferry_rdma_port *port)
{
	char netdev[VMFERRY_RDMA_TEXT] = "";
	struct choice choice = {0};
	int gids = rdma_sysfs_gids(class, port->device, port->port, offer_gid, &choice);

	port->gids = gids > 0 ? (uint32_t)gids : 0;
	if (choice.rank == RANK_NONE &&
	    !read_text(netdev, "%s/%s/ports/%u/gid_attrs/ndevs/0", class, port->device,
		       port->port) &&
	    !read_text(netdev, "%s/%s/parent", class, port->device))
		find_interface(class, port, netdev);
	/* Over InfiniBand the addresses are those of the interface for IP over InfiniBand. */
	if (strcmp(port->link, "InfiniBand") == 0)
		look_at_interface(netdev, &choice);
	snprintf(port->netdev, sizeof(port->netdev), "%s",
		 choice.rank == RANK_NONE ? netdev : choice.netdev);
	memcpy(port->address, choice.address, sizeof(port->address));
}

/* ---- the rest -------------------------------------------------------------------------------- */

int rdma_sysfs_node(const char *class, const char *device)
{
	char text[VMFERRY_RDMA_TEXT], netdev[VMFERRY_RDMA_TEXT];

	if (read_text(text, "%s/%s/device/numa_node", class, device))
		return atoi(text);
	return read_text(netdev, "%s/%s/parent", class, device) &&
			       read_text(text, "%s/../net/%.64s/device/numa_node", class, netdev)
		       ? atoi(text)
		       : -1;
}

void rdma_sysfs_port(const char *class, struct vmferry_rdma_port *port)
{
	char text[VMFERRY_RDMA_TEXT];
	const char *state;

	/* "4: ACTIVE" */
	if (read_text(text, "%s/%s/ports/%u/state", class, port->device, port->port)) {
		state = strchr(text, ' ');
		snprintf(port->state, sizeof(port->state), "%s", state == NULL ? text : state + 1);
		port->active = strcmp(port->state, "ACTIVE") == 0;
	}
	/* "2.5 Gb/sec (1X SDR)" */
	if (read_text(text, "%s/%s/ports/%u/rate", class, port->device, port->port))
		port->bits_per_second = (uint64_t)(strtod(text, NULL) * 1e9);
	read_text(port->link, "%s/%s/ports/%u/link_layer", class, port->device, port->port);
	port->numa_node = rdma_sysfs_node(class, port->device);
	find_address(class, port);
}
