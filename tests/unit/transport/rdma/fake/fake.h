/* SPDX-License-Identifier: MIT */
/*
 * A NIC that lives in the process: it stands in for libibverbs and librdmacm in unit tests. Work
 * requests are carried out by threads of its own, in order on a queue pair, in no order across
 * queue pairs, and checked as strictly as the specification lets a device check them. What real
 * devices only do once a month can be asked for here.
 *
 * Two devices are there from the beginning: "fake0" with 10.99.0.1 and fd99::1, "fake1" with
 * 10.99.1.1. Each can reach the other.
 *
 * Misuse after which the real libraries would hang or corrupt memory (destroying what still has
 * unacknowledged events, or the last identifier of a removed device before what was made of its
 * context, ...) ends the process with a message: the test crashes.
 */
#ifndef FAKE_FAKE_H
#define FAKE_FAKE_H

#include <infiniband/verbs.h>
#include <rdma/rdma_cma.h>
#include <stdbool.h>
#include <stdint.h>

/* ---- state ----------------------------------------------------------------------------------- */

/*
 * Back to the beginning: two devices, default limits, no script, counters at zero. Nothing may be
 * alive. Needed between two scenarios of one test only: each test is a process of its own.
 */
void fake_reset(void);

/*
 * Nothing is ordered any more: what was to fail does not, what was held goes on. Counters, limits
 * and devices stay.
 */
void fake_forget(void);

/* Another order of events across queue pairs, and of acknowledgements. */
void fake_seed(uint64_t seed);

/* One more device, without addresses; its number. */
unsigned int fake_device_add(void);

/*
 * One more address of a device: IPv4 or IPv6, such as 127.0.0.2 where TCP has to listen on the same
 * one.
 */
void fake_address_add(unsigned int device, const char *address);

/* ---- limits ---------------------------------------------------------------------------------- */

struct fake_limits {
	uint32_t max_qp_wr;
	uint32_t max_cqe;
	uint32_t max_sge;
	uint32_t max_inline;
	uint32_t max_mr;       /* how many */
	uint64_t max_mr_size;  /* bytes of one */
	uint32_t max_message;  /* bytes of a work request: more is IBV_WC_LOC_LEN_ERR */
	uint8_t max_reads_in;  /* max_qp_rd_atom */
	uint8_t max_reads_out; /* max_qp_init_rd_atom */
	bool on_demand;	       /* pages on demand; without, a region that wants it is refused */
	bool loses_receives;   /* as rxe: a RECV posted to a queue pair in error is never flushed */
	enum ibv_mtu active_mtu;      /* of the port */
	enum ibv_port_state state;    /* of the port */
	enum ibv_fork_status forking; /* what ibv_is_fork_initialized() says */
};

/* Of all devices, for what is created from now on. */
void fake_limits_get(struct fake_limits *limits);
void fake_limits_set(const struct fake_limits *limits);

/* ---- failing calls --------------------------------------------------------------------------- */

enum fake_call {
	FAKE_OPEN_DEVICE,
	FAKE_QUERY_DEVICE,
	FAKE_QUERY_PORT,
	FAKE_QUERY_GID,
	FAKE_ALLOC_PD,
	FAKE_REG_MR,
	FAKE_CREATE_COMP_CHANNEL,
	FAKE_CREATE_CQ,
	FAKE_CREATE_QP,
	FAKE_MODIFY_QP,
	FAKE_QUERY_QP,
	FAKE_FORK_INIT,
	FAKE_CREATE_EVENT_CHANNEL,
	FAKE_CREATE_ID,
	FAKE_BIND_ADDR,
	FAKE_RESOLVE_ADDR,
	FAKE_RESOLVE_ROUTE,
	FAKE_SET_OPTION,
	FAKE_LISTEN,
	FAKE_CONNECT,
	FAKE_ACCEPT,
	FAKE_REJECT,
	FAKE_MIGRATE_ID,
	FAKE_GET_DEVICES,
	/*
	 * From here on: how often they are called is a matter of time, fake_calls() does not count
	 * them.
	 */
	FAKE_POST_SEND,
	FAKE_POST_RECV,
	FAKE_POLL_CQ,
	FAKE_REQ_NOTIFY_CQ,
	FAKE_GET_CQ_EVENT,
	FAKE_GET_CM_EVENT,
	FAKE_GET_ASYNC_EVENT,
	FAKE_CALLS,
};

/*
 * The @nth call of this function from now on, counted from 1, fails with @error (a positive errno).
 * One such order for each function; 0: none.
 */
void fake_fail_at(enum fake_call call, unsigned int nth, int error);

/* Whether what was ordered to fail, calls and work requests, has come to it. */
bool fake_reached(void);

/*
 * To run a scenario once for each call that may fail: how many there were since fake_reset(), and
 * an order to have the @nth from now on, counted from 1, fail. 0: none. fake_failed() tells which
 * it hit: FAKE_CALLS for none.
 */
unsigned int fake_calls(void);
void fake_fail_call(unsigned int nth, int error);
enum fake_call fake_failed(void);

/* ---- the wire -------------------------------------------------------------------------------- */

#define FAKE_OPCODE(opcode) (1u << (opcode)) /* IBV_WR_* */

/* Zero matches everything. */
struct fake_match {
	uint32_t qp_num;
	unsigned int opcodes; /* FAKE_OPCODE()s */
};

/*
 * The @nth work request that matches, counted from 1 from now on, is not carried out but fails with
 * @status. One order at a time.
 */
void fake_fail_wr(const struct fake_match *match, unsigned int nth, enum ibv_wc_status status);

/*
 * Nothing is carried out and nothing is acknowledged while this is on; no time-out of a device
 * runs.
 */
void fake_hold_wire(bool hold);

/*
 * What this queue pair sends is carried out but not acknowledged, until another one is named; 0:
 * all are acknowledged.
 */
void fake_hold_acks(uint32_t qp_num);

/* WRITE_WITH_IMMs, and what is behind them on their queue pairs, wait while this is on. */
void fake_hold_fences(bool hold);

/* The next @count WRITE_WITH_IMMs arrive twice: two RECVs, one completion at the source. */
void fake_double_fences(unsigned int count);

/*
 * All packets vanish while this is on, of the CM too: what is under way fails when ack time-out and
 * retries are over.
 */
void fake_cut_wire(bool cut);

/* The next @count requests that need a RECV find none, whatever has been posted. */
void fake_rnr(unsigned int count);

/* Events of the CM are delivered only when this is off again. */
void fake_hold_cm(bool hold);

/*
 * The next time that the CM would report a step's success it reports this failure of the step
 * instead (ADDR_ERROR, ..., REJECTED).
 */
void fake_cm_error(enum rdma_cm_event_type event, int status);
/* The same, but not the next time: the @nth, counted from 1. */
void fake_cm_error_at(unsigned int nth, enum rdma_cm_event_type event, int status);

/*
 * The device goes away: DEVICE_REMOVAL to all identifiers, DEVICE_FATAL to all contexts, queue
 * pairs in error, calls fail.
 */
void fake_device_remove(unsigned int device);

/* IBV_EVENT_QP_FATAL, and the queue pair is in error. No such queue pair: nothing. */
void fake_qp_fatal(uint32_t qp_num);

/* An event of the device's own, such as IBV_EVENT_PORT_ERR of port 1. */
void fake_async(unsigned int device, enum ibv_event_type event);

/*
 * Who fetches an event of this type is given it only @ms later; others can fetch the next ones
 * meanwhile.
 */
void fake_slow_async(enum ibv_event_type event, unsigned int ms);

/* ---- what has happened ----------------------------------------------------------------------- */

struct fake_counts {
	uint64_t doorbells; /* calls of ibv_post_send() */
	uint64_t wrs; /* work requests in these, and how many of them asked for a completion */
	uint64_t signalled;
	uint64_t completions; /* that were put into completion queues */
	uint64_t bytes;	      /* copied */
	uint64_t enomem;      /* posting to a queue that was full */
	uint64_t overruns;    /* completions that found their queue full */
	uint64_t rnr;	      /* no RECV when one was needed */
	uint64_t on_demand;   /* regions whose pages were not pinned */
	struct {
		unsigned int contexts; /* of ibv_open_device() */
		unsigned int pds;
		unsigned int mrs;
		unsigned int comp_channels;
		unsigned int cqs;
		unsigned int qps;
		unsigned int event_channels;
		unsigned int ids;
		unsigned int device_lists;
	} live;
};

void fake_counts(struct fake_counts *counts);

/*
 * Whether anything is alive: what a test asserts the contrary of at its end. Says on stderr what
 * there is.
 */
bool fake_leaks(void);

/*
 * Waits until everything that was posted has been carried out and acknowledged, or @ms are over:
 * then false.
 */
bool fake_quiet(unsigned int ms);

#endif
