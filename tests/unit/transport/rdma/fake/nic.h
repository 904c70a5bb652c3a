/* SPDX-License-Identifier: MIT */
/*
 * What the parts of the fake know of each other.
 *
 *   state.c      the lock, the script, counters
 *   device.c     devices, addresses, contexts, asynchronous events
 *   memory.c     protection domains, regions, keys
 *   cq.c         completion channels and queues
 *   qp.c         queue pairs: making, posting, errors
 *   wire.c       the threads that choose what happens next
 *   execute.c    one work request
 *   id.c         CM identifiers, channels and events
 *   resolve.c    addresses, ports, routes
 *   connect.c    connections
 *   names.c      texts
 *
 * One lock for everything: functions whose names begin with nic_ want it held. Memory is copied
 * without it; what a copy needs is marked (mr.busy, qp.executing, qp.inbound) and whoever wants to
 * take it away waits.
 */
#ifndef FAKE_NIC_H
#define FAKE_NIC_H

#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/queue.h>

#include "fake.h"

/* The headers put macros in front of these functions. */
#undef ibv_query_port
#undef ibv_reg_mr
#undef ibv_reg_mr_iova

#define NIC_DEVICES   8
#define NIC_ADDRESSES 8
#define NIC_SGES      8
#define NIC_MRS	      65536
#define NIC_NEVER     UINT64_MAX

#define container(pointer, type, member) ((type *)((char *)(pointer)-offsetof(type, member)))

/* A file descriptor that is readable as long as there is something to fetch. */
struct latch {
	int fd;
	bool raised;
};

struct nic_device;

struct nic_async {
	TAILQ_ENTRY(nic_async) link;
	struct ibv_async_event event;
};

struct nic_context {
	struct verbs_context extended;
	struct nic_device *device;
	unsigned int objects; /* that were made of it: domains, completion queues and channels */
	struct latch latch;
	TAILQ_HEAD(, nic_async) events;
	LIST_ENTRY(nic_context) link;
};

struct nic_device {
	struct ibv_device ibv;
	unsigned int number;
	bool removed;
	/*
	 * librdmacm's own. It closes that of a removed device when its last identifier goes
	 * (rdma-core, librdmacm/cma.c, ucma_put_device()); the memory lasts until fake_reset(), so
	 * that using it is noticed.
	 */
	struct nic_context *context;
	unsigned int users; /* identifiers, and lists of devices */
	bool closed;
	LIST_HEAD(, nic_context) contexts;
	unsigned int address_count;
	struct in6_addr addresses[NIC_ADDRESSES]; /* IPv4 ones are mapped */
};

struct nic_pd {
	struct ibv_pd ibv;
	unsigned int users;
};

struct nic_mr {
	struct ibv_mr ibv;
	uint64_t iova;
	unsigned int access;
	unsigned int busy; /* copies under way */
};

struct nic_channel {
	struct ibv_comp_channel ibv;
	struct latch latch;
	unsigned int cqs;
	TAILQ_HEAD(, nic_cq) ready;
};

struct nic_qp;

struct nic_cqe {
	struct ibv_wc wc;
	struct nic_qp *qp;
	uint64_t frees; /* the queue's slots below this one */
	bool receive;
};

enum nic_armed { NIC_DISARMED, NIC_ARMED_SOLICITED, NIC_ARMED };

struct nic_cq {
	struct ibv_cq ibv;
	TAILQ_ENTRY(nic_cq) link; /* in the channel's list, if events > 0 */
	struct nic_cqe *ring;
	unsigned int first;
	atomic_uint count; /* written with the lock; read without by who polls */
	unsigned int users;
	enum nic_armed armed;
	bool dead;
	unsigned int events; /* in the channel, not fetched */
	unsigned int unacked;
	unsigned int async_unacked;
};

struct nic_send {
	uint64_t wr_id;
	enum ibv_wr_opcode opcode;
	unsigned int flags;
	__be32 imm;
	uint64_t remote;
	uint32_t rkey;
	unsigned int sges;
	struct ibv_sge sge[NIC_SGES];
	uint8_t *inlined; /* the queue pair's memory for this slot */
	uint32_t inline_length;
};

struct nic_recv {
	uint64_t wr_id;
	unsigned int sges;
	struct ibv_sge sge[NIC_SGES];
};

struct nic_id;

/* Counts of requests, ever growing. Send queue: freed <= acked <= next <= posted. */
struct nic_qp {
	struct ibv_qp ibv;
	TAILQ_ENTRY(nic_qp) link;
	struct nic_qp
		*peer; /* NULL before the connection, and when the peer has destroyed its half */
	struct ibv_qp_cap cap;
	bool signal_all;
	struct nic_send *sends;
	uint8_t *inline_bytes;
	uint64_t posted, next, acked, freed;
	struct nic_recv *recvs;
	uint64_t recv_posted, recv_next, recv_freed;
	bool executing;	      /* by a wire thread, without the lock */
	unsigned int inbound; /* the peer's requests that are being executed here */
	bool dying;
	unsigned int access;
	uint8_t reads_in, reads_out;
	uint8_t min_rnr_timer, timeout, retry_count, rnr_retry;
	unsigned int rnr_tries;
	uint64_t not_before; /* RNR: the next try */
	uint64_t give_up;    /* the peer does not answer: 0 or when the retries are over */
	unsigned int async_unacked;
};

enum nic_step {
	STEP_IDLE,
	STEP_BOUND,
	STEP_ADDRESS, /* resolved */
	STEP_ROUTE,
	STEP_LISTENING,
	STEP_ASKED, /* passive: has a request to answer */
	STEP_CONNECTING,
	STEP_ACCEPTED,
	STEP_CONNECTED,
	STEP_DISCONNECTED,
	STEP_FAILED,
};

struct nic_event {
	TAILQ_ENTRY(nic_event) link;
	struct rdma_cm_event cm;
	struct nic_id *owner; /* whose destruction waits for it */
	uint8_t data[256];
};

struct nic_events {
	struct rdma_event_channel ibv;
	struct latch latch;
	unsigned int ids;
	TAILQ_HEAD(, nic_event) list;
};

struct nic_id {
	struct rdma_cm_id cm;
	TAILQ_ENTRY(nic_id) link;
	enum nic_step step;
	struct nic_device *device;
	struct nic_id *peer;
	struct nic_id *listener; /* that an unanswered request came to */
	unsigned int unacked;
	int backlog;
	bool timeout_set;
	uint8_t timeout_option; /* as set, and as the route has it: later ones come too late */
	uint8_t timeout;
	struct rdma_conn_param asked; /* as the peer sees it */
};

/* What a test has ordered; all zero but for @failed when it has ordered nothing. */
struct nic_script {
	unsigned int at[FAKE_CALLS];
	int error[FAKE_CALLS];
	unsigned int calls;
	unsigned int call_at;
	int call_error;
	enum fake_call failed;
	struct fake_match match;
	unsigned int wr_at;
	enum ibv_wc_status status;
	bool hold_wire, hold_fences, hold_cm, cut;
	unsigned int double_fences, rnr;
	uint32_t hold_acks_of; /* 0: of none */
	enum rdma_cm_event_type cm_event;
	unsigned int cm_at; /* 0: none fails */
	int cm_status;
	enum ibv_event_type slow_async;
	unsigned int slow_async_ms; /* 0: none is slow */
};

struct nic {
	pthread_mutex_t lock;
	pthread_cond_t wire;	/* there may be something to do */
	pthread_cond_t settled; /* something is no longer in use */
	struct fake_limits limits;
	struct fake_counts counts;
	uint64_t random;
	unsigned int device_count;
	struct nic_device devices[NIC_DEVICES];
	struct nic_mr *mrs[NIC_MRS];
	uint8_t generations[NIC_MRS];
	unsigned int mr_cursor;
	uint32_t qp_numbers;
	TAILQ_HEAD(, nic_qp) qps;
	TAILQ_HEAD(, nic_id) ids;
	uint16_t next_port;
	struct nic_script script;
};

extern struct nic nic;

/* state.c; nic_lock() also makes the devices when it is the first. */
void nic_lock(void);
void nic_unlock(void);
uint64_t nic_random(uint64_t below);
/* The error that the script has for this call, or 0. */
int nic_scripted(enum fake_call call);
/*
 * Waits, with the lock dropped meanwhile, until *@count is zero; ends the process if that takes
 * seconds.
 */
void nic_settle(const unsigned int *count, const char *what);
_Noreturn void nic_misuse(const char *what);
void *nic_alloc(size_t count, size_t size);
/* NULL with errno, for the calls that return pointers; -1 likewise. With the lock dropped. */
void *nic_null(int error);
int nic_minus(int error);

void latch_open(struct latch *latch);
void latch_close(struct latch *latch);
void latch_set(struct latch *latch, bool raised);
/* Waits for the latch unless its descriptor does not block: then EAGAIN. */
int nic_latch_wait(struct latch *latch);

/* device.c */
void nic_devices_make(void);
void nic_devices_free(void);
struct nic_device *nic_device_of(const struct in6_addr *address);
struct nic_device *nic_device_towards(const struct in6_addr *address);
void nic_async_raise(struct nic_context *context, const struct ibv_async_event *event);
/* Forgets events that nobody fetched of an object that goes away. */
void nic_async_forget(struct ibv_context *context, const void *element);
/* Whether the device was removed. Ends the process if librdmacm has closed the context. */
bool nic_gone(const struct ibv_context *context);
/*
 * What destroying an object says. Of a removed device the kernel has destroyed it before, and
 * libibverbs passes on that it finds nothing (rdma-core, verbs_is_destroy_err(), unless
 * RDMAV_ALLOW_DISASSOC_DESTROY is set).
 */
int nic_destroyed(const struct ibv_context *context);
/* An object was made of this context, or has gone. */
void nic_context_use(const struct ibv_context *context);
void nic_context_drop(const struct ibv_context *context);
/* What keeps librdmacm's context of a device. */
void nic_device_get(struct nic_device *device);
void nic_device_put(struct nic_device *device);
static inline struct nic_context *nic_context_of(const struct ibv_context *context)
{
	return container(context, struct nic_context, extended.context);
}

/* memory.c */
struct span {
	uint8_t *at;
	uint64_t length;
};

/* Where @length bytes at @address are, if the key is good for them; the region is then busy. */
struct nic_mr *nic_mr_use(const struct ibv_pd *pd, uint32_t key, uint64_t address, uint64_t length,
			  unsigned int access, uint8_t **at);
void nic_mr_release(struct nic_mr *mr);
void fake_copy(uint8_t *to, const uint8_t *from, uint64_t length);

/* cq.c */
void nic_cq_push(struct ibv_cq *cq, const struct nic_cqe *cqe, bool solicited);
void nic_cq_purge(struct ibv_cq *cq, const struct nic_qp *qp);
int nic_poll_cq(struct ibv_cq *cq, int count, struct ibv_wc *wc);
int nic_req_notify_cq(struct ibv_cq *cq, int solicited_only);

/* qp.c */
int nic_qp_create(struct ibv_pd *pd, struct ibv_qp_init_attr *attr, struct nic_qp **qp);
void nic_qp_free(struct nic_qp *qp);
/*
 * The request at @index fails with @status, those before it have been carried out; the queue pair
 * is in error.
 */
void nic_qp_fail(struct nic_qp *qp, uint64_t index, enum ibv_wc_status status);
/* In error, and what is not being executed is flushed: the caller must see to the rest. */
void nic_qp_error(struct nic_qp *qp);
/* As nic_qp_error(), when nothing is being executed any more. Drops the lock meanwhile. */
void nic_qp_break(struct nic_qp *qp);
void nic_qp_flush(struct nic_qp *qp);
/* Acknowledges what was carried out up to @index. */
void nic_qp_ack(struct nic_qp *qp, uint64_t index);
void nic_qp_received(struct nic_qp *qp, const struct ibv_wc *wc, bool solicited);
int fake_post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad);
int fake_post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad);
static inline struct nic_qp *nic_qp_of(const struct ibv_qp *qp)
{
	return container(qp, struct nic_qp, ibv);
}

/* wire.c */
void nic_wire_start(void);
void nic_wire_kick(void);
void nic_wire_stop(void); /* without the lock */
/* What a responder refuses puts its queue pair in error too. */
bool nic_is_refusal(enum ibv_wc_status status);

/*
 * execute.c: carries out the next request of a queue pair whose peer answers. Drops the lock
 * meanwhile.
 */
void nic_execute(struct nic_qp *qp);

/* id.c */
struct nic_id *nic_id_new(struct rdma_event_channel *channel, void *context,
			  enum rdma_port_space space);
void nic_id_drop(struct nic_id *id);
struct nic_event *nic_event_new(struct nic_id *id, enum rdma_cm_event_type type, int status);
/* Private data as the CM pads it to @size. */
void nic_event_data(struct nic_event *event, const void *data, uint8_t length, uint8_t size);
void nic_event_post(struct nic_event *event);
static inline struct nic_id *nic_id_of(const struct rdma_cm_id *id)
{
	return container(id, struct nic_id, cm);
}

/* resolve.c */
bool nic_address_read(const struct sockaddr *address, struct in6_addr *ip, uint16_t *port);
struct nic_id *nic_listener_at(const struct sockaddr *address);
/*
 * Posts @good, or the failure that the script has for this step: then false. CONNECT_REQUEST stands
 * for connecting, which posts nothing here.
 */
bool nic_step_done(struct nic_id *id, enum rdma_cm_event_type good, enum nic_step step);

/* connect.c: the connection ends from this side. */
void nic_id_leave(struct nic_id *id);
/*
 * The active side has fetched the answer: its queue pair starts, and the passive side hears of it.
 */
void nic_id_establish(struct nic_id *id);

#endif
