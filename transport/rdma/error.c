/* SPDX-License-Identifier: MIT */
/* What completions that failed mean. */
#include <errno.h>
#include <stdio.h>

#include "common/clock.h"
#include "transport/rdma/rdma.h"

/* An errno of the transport's contract. */
static int status_error(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_SUCCESS:
		return 0;
	case IBV_WC_REM_ACCESS_ERR:
	/*
	 * Reading where no memory at all may be read: the connection does not take such requests.
	 */
	case IBV_WC_REM_INV_REQ_ERR:
		return -EACCES;
	case IBV_WC_RETRY_EXC_ERR:
	case IBV_WC_RNR_RETRY_EXC_ERR:
	case IBV_WC_WR_FLUSH_ERR:
		return -ECONNRESET;
	default:
		return -EIO;
	}
}

static const char *remedy(enum ibv_wc_status status)
{
	switch (status) {
	case IBV_WC_REM_ACCESS_ERR:
	case IBV_WC_REM_INV_REQ_ERR:
		return "the destination has no memory there that may be used so, or has it no "
		       "longer";
	case IBV_WC_RETRY_EXC_ERR:
		return "the peer does not answer: see whether it is alive, the cable, and that the "
		       "network loses nothing";
	case IBV_WC_RNR_RETRY_EXC_ERR:
		return "the peer is not ready to receive: see whether it is alive";
	case IBV_WC_LOC_PROT_ERR:
		return "this side's memory was deregistered or unmapped while it was in use";
	default:
		return "see the device's counters and the kernel's log, and report this with the "
		       "name of the device";
	}
}

/* "lane 3" but only "mailbox": of that there is one. */
static int fail(struct vmferry_session *session, int error, const char *part, unsigned int number,
		const char *what)
{
	if (number == LANE_MAILBOX)
		return session_fail(session, error, "%s: %s", part, what);
	return session_fail(session, error, "%s %u: %s", part, number, what);
}

/*
 * A flush does not say why. The cause is another completion, an event of the device or of the CM,
 * or the peer's last message; any of them may be seen after the flush, within moments. The service
 * thread ends the session if none is.
 */
static int note_flush(struct rdma_session *session, unsigned int number)
{
	uint64_t never = 0;

	atomic_compare_exchange_strong(number == LANE_MAILBOX ? &session->mailbox_flushed
							      : &session->lane_flushed,
				       &never, vmferry_now());
	return -ECONNRESET;
}

int rdma_wc_failed(struct vmferry_session *session, const char *part, unsigned int number,
		   const struct ibv_wc *wc)
{
	int error = status_error(wc->status);
	char what[256];

	/* It was this side that broke the lanes. The mailbox it did not break. */
	if (number != LANE_MAILBOX && atomic_load(&session->revoked))
		return error;
	if (wc->status == IBV_WC_WR_FLUSH_ERR)
		return note_flush(rdma_session_of(session), number);
	snprintf(what, sizeof(what), "%s (vendor error 0x%x, queue pair 0x%x): %s",
		 ibv_wc_status_str(wc->status), wc->vendor_err, wc->qp_num, remedy(wc->status));
	return fail(session, error, part, number, what);
}
