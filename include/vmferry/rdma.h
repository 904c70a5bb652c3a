/* SPDX-License-Identifier: MIT */
/*
 * What this host has of RDMA, and whether it works: for a program that checks a host before it
 * migrates anything. A session needs nothing of this, see transport.h.
 */
#ifndef VMFERRY_RDMA_H
#define VMFERRY_RDMA_H

#include <vmferry/vmferry.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

#define VMFERRY_RDMA_TEXT 64

/*
 * A port of an RDMA device. Texts are empty and numbers 0 where nothing is known, but for
 * @numa_node.
 */
struct vmferry_rdma_port {
	/* sizeof(struct vmferry_rdma_port) of the library; later versions append fields */
	size_t size;
	char device[VMFERRY_RDMA_TEXT]; /* "mlx5_0" */
	unsigned int port;		/* from 1 */
	/*
	 * 0, or a negative errno: why the device cannot be used; -EOPNOTSUPP: not InfiniBand, not
	 * RoCE
	 */
	int error;
	char netdev[VMFERRY_RDMA_TEXT]; /* interface that its addresses are of */
	/* the first that a rail can have, see vmferry_transport_options */
	char address[VMFERRY_RDMA_TEXT];
	char state[VMFERRY_RDMA_TEXT]; /* "ACTIVE", "DOWN", ... */
	char link[VMFERRY_RDMA_TEXT];  /* "InfiniBand", or "Ethernet", which is RoCE */
	bool active;
	uint32_t active_mtu; /* bytes of payload in a packet */
	uint32_t max_mtu;
	uint64_t bits_per_second;
	uint32_t gids;	      /* addresses of RDMA's own, see vmferry_rdma_gids() */
	int numa_node;	      /* -1: not known, or the host has only one */
	bool odp;	      /* can write to memory that is not pinned */
	uint32_t max_qp_wr;   /* work requests in a queue */
	uint64_t max_msg;     /* bytes of a work request */
	uint64_t max_mr_size; /* bytes of a memory region */
};

typedef void (*vmferry_rdma_port_fn)(void *ctx, const struct vmferry_rdma_port *port);

/*
 * Calls @fn for every port of every device, in the order of the system; the structure is only valid
 * during the call. Returns how many there were; -ENODEV without a device, -ENOSYS where the kernel
 * has no RDMA at all: neither is logged. Any thread.
 */
int vmferry_rdma_ports(vmferry_rdma_port_fn fn, void *ctx);

/*
 * An address of RDMA's own that a port has. Texts are empty where nothing is known, or there is no
 * such thing.
 */
struct vmferry_rdma_gid {
	/* sizeof(struct vmferry_rdma_gid) of the library; later versions append fields */
	size_t size;
	unsigned int index;	     /* in the port's table, as other programs take it too */
	char gid[VMFERRY_RDMA_TEXT]; /* written as an IPv6 address */
	/* "IB", "RoCE v1" or "RoCE v2"; a session over Ethernet needs one of v2 */
	char type[VMFERRY_RDMA_TEXT];
	/* over Ethernet: the interface that it is of, which may be a VLAN */
	char netdev[VMFERRY_RDMA_TEXT];
	char address
		[VMFERRY_RDMA_TEXT]; /* over Ethernet: the interface's address that it stands for */
};

typedef void (*vmferry_rdma_gid_fn)(void *ctx, const struct vmferry_rdma_gid *gid);

/*
 * Calls @fn for every GID of a port that is in use, in the order of the table; the structure is
 * only valid during the call. Returns how many there were; -ENODEV, not logged, if there is no such
 * port. Any thread.
 */
int vmferry_rdma_gids(const char *device, unsigned int port, vmferry_rdma_gid_fn fn, void *ctx);

struct vmferry_rdma_self_test {
	size_t size;	    /* sizeof(struct vmferry_rdma_self_test), set by the caller */
	unsigned int lanes; /* that were used */
	uint64_t bytes;	    /* written, and compared at the other end */
	uint64_t bytes_per_second;
	uint64_t fence_ns;    /* until a fence on all lanes was answered: the median of several */
	uint64_t register_ns; /* that pinning the memory of both ends took, over all threads */
};

/*
 * Makes a session from this process to itself over the RDMA port with the numeric address @rail,
 * and writes a pattern to memory over every lane, sets fences, and compares. 0; -EILSEQ if what
 * arrived is not what was written; -ENODEV if the port is none of RDMA's; or an error of
 * vmferry_connect() and of the lanes, with the reason logged. Ends by @deadline. Any thread.
 */
int vmferry_rdma_self_test(const char *rail, uint64_t deadline,
			   struct vmferry_rdma_self_test *result);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
