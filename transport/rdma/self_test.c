/* SPDX-License-Identifier: MIT */
/*
 * A session from this process to itself, on the public interface alone: what works here works for a
 * migration. The destination has a thread of its own, which owns all that is the destination's and
 * compares what arrives; the caller's thread is the source.
 *
 *   source                                    destination
 *                                     READY   memory is registered
 *   round 1: a pattern once, fence            compares
 *                                     SAME
 *   round 2: another one, timed, fence        compares
 *                                     SAME
 *   fences alone, timed                       waits for each
 *   BYE
 */
#include "transport/rdma/self_test.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/log.h"
#include "common/thread.h"

#define REGION_BYTES (8u << 20)
#define WORDS	     (REGION_BYTES / sizeof(uint64_t))
#define PIECE_BYTES  (256u << 10)
#define PIECES	     (REGION_BYTES / PIECE_BYTES)
#define ADDRESS	     (1ull << 32) /* as that of memory above the hole below 4 GiB */
#define ROUNDS	     2
#define TIMED_PASSES 4 /* of the second round */
#define FENCES	     15
#define BUSY_POLL_NS NS_PER_S

enum message { READY = 1, SAME, BYE };

struct end {
	struct vmferry_session *session;
	struct vmferry_memory *memory;
	uint64_t *words;
	uint64_t deadline;
};

struct destination {
	struct end end;
	struct vmferry_listener *listener; /* the source's thread's */
	uint64_t register_ns;
	int result;
};

/* ---- both ends ------------------------------------------------------------------------------- */

static uint64_t word_of(size_t index, uint64_t round)
{
	return (index + 1) * 0x9e3779b97f4a7c15ull + (round << 56);
}

void self_test_fill(uint64_t *words, size_t count, uint64_t round)
{
	for (size_t i = 0; i < count; i++)
		words[i] = word_of(i, round);
}

size_t self_test_compare(const uint64_t *words, size_t count, uint64_t round)
{
	size_t i = 0;

	while (i < count && words[i] == word_of(i, round))
		i++;
	return i;
}

static int end_open(struct end *end, uint64_t deadline)
{
	void *base = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			  -1, 0);

	end->deadline = deadline;
	if (base == MAP_FAILED) {
		log_error("self-test: no memory: %s: free some", strerror(errno));
		return -errno;
	}
	end->words = base;
	return 0;
}

static void end_close(struct end *end)
{
	if (end->memory != NULL)
		vmferry_deregister(&end->memory);
	if (end->session != NULL)
		vmferry_session_close(&end->session);
	if (end->words != NULL)
		munmap(end->words, REGION_BYTES);
	end->words = NULL;
}

static int end_register(struct end *end, unsigned int access)
{
	int ret = vmferry_register(end->session, end->words, REGION_BYTES, ADDRESS, access,
				   &end->memory);

	return ret < 0 ? ret : vmferry_prepare(end->memory, 0, REGION_BYTES);
}

static uint64_t end_register_ns(const struct end *end)
{
	struct vmferry_registration_stats stats;

	vmferry_registration_stats(end->session, &stats);
	return stats.ns;
}

static void end_busy_poll(const struct end *end)
{
	uint64_t until = vmferry_now() + BUSY_POLL_NS;

	vmferry_session_busy_poll(end->session, until < end->deadline ? until : end->deadline);
}

static int say(struct end *end, enum message type)
{
	return vmferry_send(end->session, VMFERRY_CONTROL, type, NULL, 0, end->deadline);
}

static int hear(struct end *end, enum message type)
{
	struct vmferry_message message = {0};
	int ret = vmferry_recv(end->session, &message, end->deadline);

	if (ret == 0 && message.type != type)
		ret = -EPROTO;
	vmferry_message_free(&message);
	return ret;
}

/* ---- the destination ------------------------------------------------------------------------- */

static int compare_round(struct end *end, uint32_t round)
{
	int ret = vmferry_fence_wait(end->session, round, end->deadline);
	size_t same;

	if (ret < 0)
		return ret;
	same = self_test_compare(end->words, WORDS, round);
	if (same < WORDS) {
		log_error("self-test: what arrived at byte %zu of %u is not what was written: the "
			  "device or its driver is broken: use the transport tcp",
			  same * sizeof(uint64_t), REGION_BYTES);
		return -EILSEQ;
	}
	return say(end, SAME);
}

static int receive(struct destination *d)
{
	struct end *end = &d->end;
	int ret = vmferry_accept(d->listener, end->deadline, &end->session);

	if (ret == 0)
		ret = end_register(end, VMFERRY_ACCESS_REMOTE_WRITE);
	if (ret == 0)
		ret = say(end, READY);
	for (uint32_t round = 1; ret == 0 && round <= ROUNDS; round++)
		ret = compare_round(end, round);
	if (ret == 0)
		end_busy_poll(end);
	for (uint32_t i = 1; ret == 0 && i <= FENCES; i++)
		ret = vmferry_fence_wait(end->session, ROUNDS + i, end->deadline);
	if (ret < 0)
		return ret;
	d->register_ns = end_register_ns(end);
	/*
	 * All is well by now; this only keeps the session until the source has had its last answer.
	 */
	hear(end, BYE);
	return 0;
}

/* Closes what it has at once: that is how the source hears of a failure. */
static void *destination_main(void *arg)
{
	struct destination *d = arg;

	d->result = receive(d);
	end_close(&d->end);
	return NULL;
}

/* ---- the source ------------------------------------------------------------------------------ */

static int write_piece(struct end *end, unsigned int lane, uint64_t offset)
{
	const struct vmferry_write piece = {.memory = end->memory,
					    .offset = offset,
					    .address = ADDRESS + offset,
					    .length = PIECE_BYTES};
	int taken = vmferry_lane_write(end->session, lane, &piece, 1, end->deadline);

	return taken == -EAGAIN ? -ETIMEDOUT : taken < 0 ? taken : 0;
}

static int write_all(struct end *end, unsigned int lanes)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < PIECES; i++)
		ret = write_piece(end, i % lanes, (uint64_t)i * PIECE_BYTES);
	return ret;
}

static int fence_all(struct end *end, unsigned int lanes, uint32_t epoch)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < lanes; i++)
		ret = vmferry_lane_fence(end->session, i, epoch, end->deadline);
	for (unsigned int i = 0; ret == 0 && i < lanes; i++)
		ret = vmferry_lane_fence_wait(end->session, i, epoch, end->deadline);
	return ret;
}

static int send_round(struct end *end, struct vmferry_rdma_self_test *result, uint32_t round)
{
	unsigned int passes = round == ROUNDS ? TIMED_PASSES : 1;
	uint64_t begin;
	int ret = 0;

	self_test_fill(end->words, WORDS, round);
	begin = vmferry_now();
	for (unsigned int i = 0; ret == 0 && i < passes; i++)
		ret = write_all(end, result->lanes);
	if (ret == 0)
		ret = fence_all(end, result->lanes, round);
	if (ret < 0)
		return ret;
	result->bytes += (uint64_t)passes * REGION_BYTES;
	result->bytes_per_second =
		passes * (uint64_t)REGION_BYTES * NS_PER_S / (vmferry_now() - begin + 1);
	return hear(end, SAME);
}

static int by_size(const void *a, const void *b)
{
	const uint64_t *x = a;
	const uint64_t *y = b;

	return *x < *y ? -1 : *x > *y;
}

static int time_fences(struct end *end, struct vmferry_rdma_self_test *result)
{
	uint64_t ns[FENCES];

	end_busy_poll(end);
	for (uint32_t i = 0; i < FENCES; i++) {
		uint64_t begin = vmferry_now();
		int ret = fence_all(end, result->lanes, ROUNDS + 1 + i);

		if (ret < 0)
			return ret;
		ns[i] = vmferry_now() - begin;
	}
	qsort(ns, FENCES, sizeof(ns[0]), by_size);
	result->fence_ns = ns[FENCES / 2];
	return 0;
}

static int send_all(struct end *end, struct vmferry_rdma_self_test *result)
{
	int ret = end_register(end, VMFERRY_ACCESS_LOCAL);

	result->lanes = vmferry_session_lanes(end->session);
	if (ret == 0)
		ret = hear(end, READY);
	for (uint32_t round = 1; ret == 0 && round <= ROUNDS; round++)
		ret = send_round(end, result, round);
	if (ret == 0)
		ret = time_fences(end, result);
	if (ret == 0)
		result->register_ns = end_register_ns(end);
	return ret < 0 ? ret : say(end, BYE);
}

static int source(struct vmferry_listener *listener,
		  const struct vmferry_transport_options *options, uint64_t deadline,
		  struct vmferry_rdma_self_test *result)
{
	struct end end = {0};
	int ret = end_open(&end, deadline);

	if (ret == 0)
		ret = vmferry_connect(vmferry_listener_uri(listener), options, deadline,
				      &end.session);
	if (ret == 0)
		ret = send_all(&end, result);
	end_close(&end);
	return ret;
}

/* ---- the test -------------------------------------------------------------------------------- */

/*
 * An end that fails takes the other one with it: the cause is the one that does not speak of the
 * other.
 */
static int cause(int here, int there)
{
	if (there < 0 && there != -ECONNRESET && there != -ECANCELED)
		return there;
	return here < 0 ? here : there;
}

static int both_ends(struct vmferry_listener *listener,
		     const struct vmferry_transport_options *options, uint64_t deadline,
		     struct vmferry_rdma_self_test *result)
{
	struct destination d = {.listener = listener};
	pthread_t thread;
	int ret = end_open(&d.end, deadline);

	if (ret < 0)
		return ret;
	ret = thread_start(&thread, "vmf-self-test", destination_main, &d);
	if (ret < 0) {
		log_error("self-test: no thread: %s: raise the limit of processes", strerror(-ret));
		end_close(&d.end);
		return ret;
	}
	ret = source(listener, options, deadline, result);
	vmferry_listener_shutdown(listener);
	pthread_join(thread, NULL);
	result->register_ns += d.register_ns;
	return cause(ret, d.result);
}

int self_test_run(const struct vmferry_transport_options *options, uint64_t deadline,
		  struct vmferry_rdma_self_test *result)
{
	struct vmferry_rdma_self_test found = {.size = sizeof(found)};
	struct vmferry_listener *listener;
	int ret;

	if (result->size < sizeof(found)) {
		log_error("self-test: size is %zu: set it to sizeof(struct vmferry_rdma_self_test)",
			  result->size);
		return -EINVAL;
	}
	ret = vmferry_listen("tcp:127.0.0.1:0", options, &listener);
	if (ret < 0)
		return ret;
	ret = both_ends(listener, options, deadline, &found);
	vmferry_listener_close(&listener);
	if (ret == 0)
		*result = found;
	return ret;
}

int vmferry_rdma_self_test(const char *rail, uint64_t deadline,
			   struct vmferry_rdma_self_test *result)
{
	const struct vmferry_transport_options options = {
		.size = sizeof(options),
		.transport = VMFERRY_TRANSPORT_RDMA,
		.rails = {rail},
		.rail_count = 1,
	};

	return self_test_run(&options, deadline, result);
}
