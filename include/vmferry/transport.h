/* SPDX-License-Identifier: MIT */
/*
 * The transport layer: write memory of this process straight into registered memory of another one.
 *
 * A session joins a source (who connects and writes) to a destination (who listens and is written
 * to). It has one control connection for messages and a number of lanes for data. The destination
 * registers memory under addresses of its choice (a VMM uses guest physical addresses) and the
 * source writes to those addresses: no pointer and no key of the other side is ever seen here.
 *
 * ORDER    No order is promised between writes, not even on one lane to different addresses. Two
 *          writes to the same address are placed in the order in which they were given if both went
 *          over the same lane: choose the lane by the address. Only a fence tells that writes are
 *          placed.
 * THREADS  A lane belongs to one thread at a time, different lanes may be used by different threads
 *          at once. vmferry_send() and vmferry_session_shutdown() may be called from any thread,
 *          vmferry_recv() from one thread at a time.
 */
#ifndef VMFERRY_TRANSPORT_H
#define VMFERRY_TRANSPORT_H

#include <vmferry/vmferry.h>

#pragma GCC visibility push(default)
#ifdef __cplusplus
extern "C" {
#endif

struct vmferry_listener;
struct vmferry_session;
struct vmferry_memory;

#define VMFERRY_LANES_MAX 64
/* A message is at most this long; longer ones are refused on both sides with -EMSGSIZE. */
#define VMFERRY_MESSAGE_MAX (4u << 20)

enum vmferry_transport {
	/* RDMA where both sides have it, may pin the memory and can reach each other, else TCP */
	VMFERRY_TRANSPORT_AUTO,
	VMFERRY_TRANSPORT_TCP,
	VMFERRY_TRANSPORT_RDMA, /* nothing else will do: -ENODEV without a device */
};

#define VMFERRY_RAILS_MAX 8

struct vmferry_transport_options {
	size_t size; /* sizeof(struct vmferry_transport_options), so that the structure may grow */
	enum vmferry_transport transport;
	/* the source's wish, 0: as many as are useful here; the destination's is a maximum */
	unsigned int lanes;
	/* allow addresses other than loopback although nothing is authenticated or encrypted */
	bool insecure;

	/*
	 * RDMA only. Numeric addresses of this host's RDMA ports; the strings are copied. Lanes are
	 * spread over them in turn. None given: the destination takes the port of the address that
	 * it listens at, or the first that it has; the source takes the one that the route to the
	 * destination's leads over.
	 */
	const char *rails[VMFERRY_RAILS_MAX];
	unsigned int rail_count;
	bool odp;	  /* on-demand paging instead of pinning, where the device has it */
	unsigned int tos; /* IP type of service of the lanes' packets, 0 to 255; 0: the system's */
	uint32_t write_bytes;  /* longest single RDMA write, a multiple of 4096; 0: the default */
	uint32_t window_bytes; /* how much a lane has under way at most; 0: the default */

	/*
	 * Source: how many bytes will be registered, 0: not known. With VMFERRY_TRANSPORT_AUTO it
	 * is TCP when the memlock limit of either side's process does not allow to pin so much.
	 */
	uint64_t memory;
};

/*
 * URIs: "tcp:HOST:PORT", "tcp:[IPV6]:PORT". HOST is a name or a numeric address. Port 0 lets the
 * system choose one when listening. -EINVAL for anything else; -EPERM for an address that is not
 * loopback without @insecure.
 */

/*
 * -EINVAL, with the reason logged, for what no vmferry_connect() or vmferry_listen() would take.
 * Looks nothing up.
 */
int vmferry_uri_check(const char *uri);

/* Listen at @uri. -EADDRINUSE if the port is taken. */
int vmferry_listen(const char *uri, const struct vmferry_transport_options *options,
		   struct vmferry_listener **listener);

/* The URI that a source has to name, with the real port. Owned by the listener. */
const char *vmferry_listener_uri(const struct vmferry_listener *listener);

/* Readable when vmferry_accept() has something to do. Owned by the listener. */
int vmferry_listener_fd(const struct vmferry_listener *listener);

/*
 * Waits for a source and completes the handshake, control connection and all lanes. A connection
 * that sends something else, or nothing, is closed with the reason logged, and the wait goes on.
 * -ETIMEDOUT at the deadline; -ECANCELED after vmferry_listener_shutdown().
 */
int vmferry_accept(struct vmferry_listener *listener, uint64_t deadline,
		   struct vmferry_session **session);

/* Ends a running vmferry_accept() and all later ones. Any thread. */
void vmferry_listener_shutdown(struct vmferry_listener *listener);

/* Frees the listener and sets *@listener to NULL. Sessions that it accepted live on. */
void vmferry_listener_close(struct vmferry_listener **listener);

/*
 * Connects to a destination. With @lanes of VMFERRY_LANES_NONE the session has only its control
 * connection. -ECONNREFUSED, -ETIMEDOUT, -EPROTO (the other side is not a vmferry or of another
 * version), and what else getaddrinfo(3) and connect(2) say. Where the transport has to be RDMA
 * also -ENODEV without a device here, and -EREMOTEIO when no lanes can be had over it.
 */
#define VMFERRY_LANES_NONE (~0u)
int vmferry_connect(const char *uri, const struct vmferry_transport_options *options,
		    uint64_t deadline, struct vmferry_session **session);

/*
 * Ends every wait of this session with -ECANCELED, now and later. Nothing is freed. Any thread,
 * also several times.
 */
void vmferry_session_shutdown(struct vmferry_session *session);

/*
 * Closes connections, joins the session's threads, frees it and sets *@session to NULL. Deregister
 * memory first.
 */
void vmferry_session_close(struct vmferry_session **session);

/* "tcp" or "rdma"; the number of lanes; the peer's address as text, owned by the session. */
const char *vmferry_session_transport(const struct vmferry_session *session);

/*
 * Why the session is over, for a report: lane, operation, cause and remedy of the first failure,
 * which all others followed from. Owned by the session; empty as long as it works. Any thread.
 */
const char *vmferry_session_failure(const struct vmferry_session *session);

/*
 * Why it is this transport, for a report: "asked for", "no RDMA device here", ... Owned by the
 * session.
 */
const char *vmferry_session_transport_reason(const struct vmferry_session *session);

/*
 * Waits of this session spin instead of sleeping until @until: for the short time in which
 * microseconds count. Over TCP it changes nothing. Any thread.
 */
void vmferry_session_busy_poll(struct vmferry_session *session, uint64_t until);

/*
 * At the destination: from its return on no write of the peer is placed any more, whatever is still
 * registered. Messages go on, lanes are over for good. This is the fast way to take memory back;
 * deregistering it can then wait. Any thread. -EIO when a device refuses, which is logged: then
 * only deregistering takes it back.
 */
int vmferry_session_revoke(struct vmferry_session *session);
unsigned int vmferry_session_lanes(const struct vmferry_session *session);
const char *vmferry_session_peer(const struct vmferry_session *session);

/* ---- messages -------------------------------------------------------------------------------- */

/*
 * Messages of one channel arrive complete and in order. The mailbox takes the shortest way there is
 * and is for what lies on a switchover's critical path; over TCP both are the control connection.
 * Between the two channels no order is promised.
 */
enum vmferry_channel {
	VMFERRY_CONTROL,
	VMFERRY_MAILBOX,
};

struct vmferry_message {
	uint32_t type; /* the sender's, 0 to VMFERRY_MESSAGE_TYPE_MAX */
	size_t length;
	void *data; /* malloc'ed, NULL when @length is 0 */
};

#define VMFERRY_MESSAGE_TYPE_MAX 0xffffu

/*
 * -ETIMEDOUT: nothing was sent, the call can be repeated; but when a part had gone out by the
 * deadline, the session is over, and all further calls say -ECONNRESET. -EMSGSIZE beyond
 * VMFERRY_MESSAGE_MAX.
 */
int vmferry_send(struct vmferry_session *session, enum vmferry_channel channel, uint32_t type,
		 const void *data, size_t length, uint64_t deadline);

/*
 * The next message of either channel; give it back with vmferry_message_free(). -ETIMEDOUT loses
 * nothing, the call can be repeated. -ECONNRESET when the peer is gone.
 */
int vmferry_recv(struct vmferry_session *session, struct vmferry_message *message,
		 uint64_t deadline);

/* Frees the data and zeroes the structure. */
void vmferry_message_free(struct vmferry_message *message);

/* ---- memory ---------------------------------------------------------------------------------- */

enum {
	VMFERRY_ACCESS_LOCAL = 0,	 /* the source's: nothing may be done to it from outside */
	VMFERRY_ACCESS_REMOTE_WRITE = 1, /* the destination's */
	VMFERRY_ACCESS_REMOTE_READ = 2,
};

/*
 * Registers @size bytes at @base under the session addresses @address to @address + @size - 1. The
 * memory stays the caller's and must stay mapped until vmferry_deregister(); only vmferry_discard()
 * may take pages out of it. -EEXIST if the addresses overlap a registration of this side; -EINVAL
 * if base, size or address are not multiples of 4096 or the range wraps.
 * Threads: not while another thread registers or deregisters on the same session.
 */
int vmferry_register(struct vmferry_session *session, void *base, uint64_t size, uint64_t address,
		     unsigned int access, struct vmferry_memory **memory);

/*
 * Tells that bytes will be written to (destination) or from (source) this range soon: what takes
 * time, such as pinning it for the device, begins in the background, in the order of the calls, and
 * the peer's writes to what is ready need not wait for the rest. What is never told is made ready
 * when the first write wants it. Over TCP it does nothing. -EINVAL for a range that leaves the
 * memory.
 */
int vmferry_prepare(struct vmferry_memory *memory, uint64_t offset, uint64_t length);

/*
 * Gives pages back to the system, which read as zeroes then: what a balloon does. -EBUSY, and
 * nothing is done, while any of the range is registered with a device or about to be. The device
 * would keep the old pages (Documentation/core-api/pin_user_pages.rst of Linux): what it writes
 * there, and what the CPU writes here, the other would never see. That is so from
 * vmferry_prepare(), or the first write that wanted the range, until vmferry_deregister(), in
 * chunks of 16 MiB and more; never over TCP, nor with on-demand paging, where the device follows
 * such changes. -EINVAL for a range that leaves the memory or is not of whole pages, and what
 * madvise(2) says. Any thread.
 */
int vmferry_discard(struct vmferry_memory *memory, uint64_t offset, uint64_t length);

/*
 * What has been pinned so far, and the time that it took, summed over all threads. Zero over TCP.
 * Any thread.
 */
struct vmferry_registration_stats {
	uint64_t bytes;
	uint64_t regions; /* pieces that were registered with the device, on each rail */
	uint64_t ns;
};

void vmferry_registration_stats(const struct vmferry_session *session,
				struct vmferry_registration_stats *stats);

/*
 * Revokes access, waits until no write of the peer is being placed in it, frees the handle, sets
 * *@memory to NULL. A write that arrives afterwards ends the session with -EACCES, as does one that
 * arrives before vmferry_register(): let the destination say by a message when it is ready.
 */
void vmferry_deregister(struct vmferry_memory **memory);

/* ---- lanes ----------------------------------------------------------------------------------- */

struct vmferry_write {
	const struct vmferry_memory *memory; /* where the bytes are */
	uint64_t offset;		     /* in @memory, bytes */
	uint64_t address; /* where they go: a session address of the destination */
	uint64_t length;  /* bytes, more than 0 */
};

/*
 * Gives up to @count writes to a lane, in order, and returns how many it took (at least 1). What
 * was taken will be sent even if it is not yet; its memory must stay valid until a later fence of
 * this lane has completed or the session is closed. When the lane is full the call waits until
 * @deadline: -EAGAIN if nothing was taken by then. Errors are of the session and final:
 * -ECONNRESET, -EPIPE, -EACCES, -ECANCELED. -EINVAL for a write that leaves its memory.
 */
int vmferry_lane_write(struct vmferry_session *session, unsigned int lane,
		       const struct vmferry_write *writes, unsigned int count, uint64_t deadline);

/*
 * Puts a fence behind all writes of this lane. @epoch grows from fence to fence, the same numbers
 * on all lanes; -EINVAL if it does not. -ETIMEDOUT if the lane was full until the deadline: the
 * fence is not set.
 */
int vmferry_lane_fence(struct vmferry_session *session, unsigned int lane, uint32_t epoch,
		       uint64_t deadline);

/* At the source: waits until the destination has said that this lane's fence @epoch is reached. */
int vmferry_lane_fence_wait(struct vmferry_session *session, unsigned int lane, uint32_t epoch,
			    uint64_t deadline);

/*
 * At the source, for a lane that has nothing to do: asks for a sign of life of its path, so that
 * one that is dead shows now and not when the lane is needed. To be called a few times a second;
 * waits for nothing. 0, or the error that has ended the session. Over TCP, where the lanes' path is
 * that of the control connection, it does nothing.
 */
int vmferry_lane_probe(struct vmferry_session *session, unsigned int lane);

/*
 * At the destination: waits until fence @epoch has come on every lane. Then every write that was
 * given before it is placed and visible to this process' CPUs. -ECONNRESET if a lane ended before
 * that.
 */
int vmferry_fence_wait(struct vmferry_session *session, uint32_t epoch, uint64_t deadline);

/*
 * At the source: reads @length bytes at the destination's @address into @memory at @offset and
 * waits for them. The destination must have registered them with VMFERRY_ACCESS_REMOTE_READ, else
 * -EACCES. When the deadline passes with the answer under way, the session is over.
 */
int vmferry_lane_read(struct vmferry_session *session, unsigned int lane,
		      struct vmferry_memory *memory, uint64_t offset, uint64_t address,
		      uint64_t length, uint64_t deadline);

/*
 * Becomes writable when a full lane can take more; over RDMA it always is, and vmferry_lane_write()
 * itself has to be asked. Owned by the session. -ENOENT for a lane that does not exist.
 */
int vmferry_lane_fd(const struct vmferry_session *session, unsigned int lane);

/*
 * The NUMA node of the device that this lane goes through: a thread that uses the lane is best kept
 * there, as the session's own threads are. -1: not known, no matter, or no such lane.
 */
int vmferry_lane_numa_node(const struct vmferry_session *session, unsigned int lane);

struct vmferry_lane_stats {
	/*
	 * payload given to the lane (source) or placed (destination; 0 over RDMA, where nobody sees
	 * it)
	 */
	uint64_t bytes;
	uint64_t wire_bytes; /* with framing */
	/* source: payload that the destination has said it placed; it says so now and then */
	uint64_t placed_bytes;
	uint64_t writes;      /* ranges */
	uint64_t submissions; /* system calls or doorbells that moved payload */
	uint64_t stall_ns;    /* time in which the lane was full */
	uint64_t cpu_ns;      /* destination over TCP: CPU time of the lane's thread */
	uint64_t requests; /* RDMA: work requests; / submissions: how many a doorbell rings for */
	uint64_t signals;  /* RDMA: of these, how many asked for a completion */
	uint64_t sleeps;   /* RDMA: waits that went to sleep after spinning in vain */
};

/* Counters so far; any thread, slightly out of date at worst. */
int vmferry_lane_stats(const struct vmferry_session *session, unsigned int lane,
		       struct vmferry_lane_stats *stats);

#ifdef __cplusplus
}
#endif
#pragma GCC visibility pop

#endif
