/* SPDX-License-Identifier: MIT */
/*
 * How much QEMU may write before its adaptor has read it. A unix socket's buffer has the system's
 * default size (net.core.wmem_default, usually 208 KiB), and QEMU has no option for it: on a fast
 * link it costs a switch of processes for each of these.
 */
#ifndef QEMU_SEND_BUFFERS_H
#define QEMU_SEND_BUFFERS_H

#include <stdint.h>
#include <sys/types.h>

#define SEND_BUFFER_MIN (208u << 10)
#define SEND_BUFFER_MAX (4u << 20)

/*
 * Sets the send buffers of all sockets of process @pid that are connected to the unix socket at
 * @path. Its descriptors are borrowed for the moment of this call (pidfd_getfd(2), Linux 5.6),
 * which needs the right to trace it (ptrace(2)), and SO_SNDBUFFORCE needs CAP_NET_ADMIN. Returns
 * for how many it was done, or -errno: then some keep what they have, and nothing is logged.
 */
int send_buffers_set(pid_t pid, const char *path, uint32_t bytes);

#endif
