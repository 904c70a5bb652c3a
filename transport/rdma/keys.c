/* SPDX-License-Identifier: MIT */
/*
 * The source's table of the destination's keys: which addresses can be written to, and with what.
 * The service thread fills it from what the destination says; lanes look in it, ask for what is
 * missing, and wait.
 *
 * LOCKS    rdma_keys.lock is for everything but the generation. It is never held while something is
 *          sent, nor over session_fail(), which takes it to wake those who wait.
 * ORDER    A lane that keeps a key reads the generation before it asks for the key and again before
 *          each use: the same number says that no key was taken back in between. It is raised with
 *          release under the lock, when the keys are out of the table, and read with acquire. What
 *          is taken back while a write is under way makes the destination's device refuse the
 *          write: that is the contract.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "common/clock.h"
#include "common/wire.h"
#include "transport/rdma/chunk.h"

#define PAGE 4096u
/* More chunks than any memory is cut into; a peer that says more fills our memory. */
#define RANGES_MAX (1u << 18)
/* As many as there can be lanes that wait. */
#define WISHES_MAX VMFERRY_LANES_MAX
/* A destination's chunks are seldom smaller: wishes closer than that share an answer. */
#define WISH_SHIFT 24u
/* As long as a message of a few bytes may need if the connection is full of others. */
#define WISH_NS (500 * NS_PER_MS)

struct key_range {
	uint64_t address;
	uint64_t last; /* so that the end of all addresses is no special case */
	uint32_t keys[VMFERRY_RAILS_MAX];
};

struct rdma_keys {
	struct rdma_session *session;
	_Atomic uint64_t generation;
	pthread_mutex_t lock;
	pthread_cond_t news;
	struct key_range *ranges; /* sorted, without overlaps */
	unsigned int count;
	unsigned int room;
	uint64_t wishes[WISHES_MAX]; /* asked for and not answered yet */
	unsigned int wish_count;
};

int rdma_keys_new(struct rdma_session *session)
{
	struct rdma_keys *k = calloc(1, sizeof(*k));

	if (k == NULL)
		return -ENOMEM;
	k->session = session;
	pthread_mutex_init(&k->lock, NULL);
	pthread_cond_init(&k->news, NULL);
	session->keys = k;
	return 0;
}

void rdma_keys_free(struct rdma_session *session)
{
	struct rdma_keys *k = session->keys;

	if (k == NULL)
		return;
	pthread_cond_destroy(&k->news);
	pthread_mutex_destroy(&k->lock);
	free(k->ranges);
	free(k);
	session->keys = NULL;
}

void rdma_keys_wake(struct rdma_session *session)
{
	struct rdma_keys *k = session->keys;

	if (k != NULL) {
		pthread_mutex_lock(&k->lock);
		pthread_cond_broadcast(&k->news);
		pthread_mutex_unlock(&k->lock);
	}
	if (session->registrar != NULL)
		registrar_wake(session->registrar);
}

/* ---- the table ------------------------------------------------------------------------------- */

/* Index of the first range that ends behind @address. */
static unsigned int first_behind(const struct rdma_keys *k, uint64_t address)
{
	unsigned int low = 0;
	unsigned int high = k->count;

	while (low < high) {
		unsigned int mid = low + (high - low) / 2;

		if (k->ranges[mid].last < address)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static const struct key_range *find_range(const struct rdma_keys *k, uint64_t address)
{
	unsigned int at = first_behind(k, address);

	return at < k->count && k->ranges[at].address <= address ? &k->ranges[at] : NULL;
}

static int make_room(struct rdma_keys *k)
{
	unsigned int room = k->room == 0 ? 64 : 2 * k->room;
	struct key_range *grown;

	if (k->count < k->room)
		return 0;
	if (k->count == RANGES_MAX)
		return -EPROTO;
	grown = realloc(k->ranges, room * sizeof(*grown));
	if (grown == NULL)
		return -ENOMEM;
	k->ranges = grown;
	k->room = room;
	return 0;
}

static int add_range(struct rdma_keys *k, const struct key_range *range)
{
	unsigned int at = first_behind(k, range->address);
	int ret;

	if (at < k->count && k->ranges[at].address <= range->last)
		return -EPROTO;
	ret = make_room(k);
	if (ret < 0)
		return ret;
	memmove(k->ranges + at + 1, k->ranges + at, (k->count - at) * sizeof(*k->ranges));
	k->ranges[at] = *range;
	k->count++;
	return 0;
}

/* What lies in @gone; what only partly does was never given so. */
static int remove_ranges(struct rdma_keys *k, const struct key_range *gone)
{
	unsigned int first = first_behind(k, gone->address);
	unsigned int behind = first;

	while (behind < k->count && k->ranges[behind].address <= gone->last) {
		if (k->ranges[behind].address < gone->address ||
		    k->ranges[behind].last > gone->last)
			return -EPROTO;
		behind++;
	}
	if (behind > first)
		memmove(k->ranges + first, k->ranges + behind,
			(k->count - behind) * sizeof(*k->ranges));
	k->count -= behind - first;
	return 0;
}

/* ---- wishes ---------------------------------------------------------------------------------- */

static bool is_wished(const struct rdma_keys *k, uint64_t address)
{
	for (unsigned int i = 0; i < k->wish_count; i++)
		if (k->wishes[i] >> WISH_SHIFT == address >> WISH_SHIFT)
			return true;
	return false;
}

/* Forgets the wishes in a range; true if there were any. */
static bool forget_wishes(struct rdma_keys *k, uint64_t first, uint64_t last)
{
	unsigned int kept = 0;
	unsigned int count = k->wish_count;

	for (unsigned int i = 0; i < count; i++)
		if (k->wishes[i] < first || k->wishes[i] > last)
			k->wishes[kept++] = k->wishes[i];
	k->wish_count = kept;
	return kept < count;
}

/* Lock held, given up meanwhile. */
static int wish(struct rdma_keys *k, uint64_t address, uint64_t deadline)
{
	uint64_t enough = vmferry_now() + WISH_NS;
	uint8_t data[8];
	int ret;

	/*
	 * A lane that does not want to wait is no reason to stop in the middle of a message, which
	 * would be the session's end.
	 */
	if (deadline < enough)
		deadline = enough;
	wire_put_u64(data, address);
	k->wishes[k->wish_count++] = address;
	pthread_mutex_unlock(&k->lock);
	ret = session_send_control(k->session->session, RDMA_CONTROL_WANT, data, sizeof(data),
				   deadline);
	pthread_mutex_lock(&k->lock);
	/* Others may have relied on it: they have to ask by themselves. */
	if (ret < 0 && forget_wishes(k, address, address))
		pthread_cond_broadcast(&k->news);
	return ret;
}

/* ---- what lanes ask -------------------------------------------------------------------------- */

/* Lock held. The range, or NULL with the reason in @ret. */
static const struct key_range *await_range(struct rdma_keys *k, uint64_t address, uint64_t deadline,
					   int *ret)
{
	struct timespec until = deadline_timespec(deadline);

	*ret = 0;
	for (;;) {
		const struct key_range *range = find_range(k, address);
		int error = session_error(k->session->session);

		if (error != 0)
			*ret = error;
		else if (range != NULL)
			return range;
		if (*ret != 0)
			return NULL;
		if (!is_wished(k, address) && k->wish_count < WISHES_MAX)
			*ret = wish(k, address, deadline);
		else
			*ret = -pthread_cond_clockwait(&k->news, &k->lock, CLOCK_MONOTONIC, &until);
	}
}

int rdma_remote_key(struct rdma_session *session, unsigned int rail, uint64_t address,
		    uint64_t deadline, uint32_t *key, uint64_t *end)
{
	struct rdma_keys *k = session->keys;
	const struct key_range *range;
	int ret;

	pthread_mutex_lock(&k->lock);
	range = await_range(k, address, deadline, &ret);
	if (range != NULL) {
		*key = range->keys[rail];
		*end = range->last + 1;
	}
	pthread_mutex_unlock(&k->lock);
	return range != NULL ? 0 : ret;
}

uint64_t rdma_remote_generation(const struct rdma_session *session)
{
	return atomic_load_explicit(&session->keys->generation, memory_order_acquire);
}

/* ---- what the destination says --------------------------------------------------------------- */

static int read_range(struct wire_reader *in, struct key_range *range)
{
	uint64_t address = wire_read_u64(in);
	uint64_t length = wire_read_u64(in);

	if (in->failed || length == 0 || (address | length) % PAGE != 0 ||
	    length - 1 > UINT64_MAX - address)
		return -EPROTO;
	*range = (struct key_range){.address = address, .last = address + (length - 1)};
	return 0;
}

static int read_keys(const struct rdma_keys *k, struct wire_reader *in, struct key_range *range)
{
	int ret = read_range(in, range);
	uint32_t count = wire_read_u32(in);

	if (ret < 0 || in->failed || count != k->session->addresses.rail_count)
		return -EPROTO;
	for (uint32_t i = 0; i < count; i++)
		range->keys[i] = wire_read_u32(in);
	return in->failed ? -EPROTO : 0;
}

static int take_keys(struct rdma_keys *k, struct wire_reader *in)
{
	struct key_range range;
	int ret;

	do {
		ret = read_keys(k, in, &range);
		if (ret == 0)
			ret = add_range(k, &range);
		if (ret == 0)
			forget_wishes(k, range.address, range.last);
	} while (ret == 0 && wire_left(in) > 0);
	return ret;
}

/*
 * A wish in there was perhaps heard and forgotten with the memory: whoever still waits asks again.
 */
static int take_gone(struct rdma_keys *k, struct wire_reader *in)
{
	struct key_range gone;
	int ret = read_range(in, &gone);

	if (ret == 0 && !wire_done(in))
		ret = -EPROTO;
	if (ret == 0)
		ret = remove_ranges(k, &gone);
	if (ret < 0)
		return ret;
	forget_wishes(k, gone.address, gone.last);
	atomic_fetch_add_explicit(&k->generation, 1, memory_order_release);
	return 0;
}

/*
 * -EACCES if somebody asked for it. Nobody may: it can cross a GONE that has settled the question.
 */
static int take_none(struct rdma_keys *k, struct wire_reader *in, uint64_t *address)
{
	*address = wire_read_u64(in);
	if (!wire_done(in))
		return -EPROTO;
	return forget_wishes(k, *address, *address) ? -EACCES : 0;
}

static int take(struct rdma_keys *k, const struct vmferry_message *message, uint64_t *address)
{
	struct wire_reader in;

	wire_reader_init(&in, message->data, message->length);
	switch (message->type) {
	case RDMA_CONTROL_KEYS:
		return take_keys(k, &in);
	case RDMA_CONTROL_GONE:
		return take_gone(k, &in);
	case RDMA_CONTROL_NONE:
		return take_none(k, &in, address);
	default:
		return -EPROTO;
	}
}

int rdma_keys_take(struct rdma_session *session, const struct vmferry_message *message)
{
	struct rdma_keys *k = session->keys;
	uint64_t address = 0;
	int ret;

	pthread_mutex_lock(&k->lock);
	ret = take(k, message, &address);
	pthread_cond_broadcast(&k->news);
	pthread_mutex_unlock(&k->lock);
	if (ret == -EACCES)
		return session_fail(session->session, ret,
				    "the destination refuses access to the addresses at 0x%llx",
				    (unsigned long long)address);
	if (ret == -ENOMEM)
		return session_fail(session->session, ret, "no memory for the destination's keys");
	if (ret < 0)
		return session_fail(session->session, ret,
				    "control: type 0x%x, %zu bytes, makes no sense as keys",
				    message->type, message->length);
	return 0;
}
