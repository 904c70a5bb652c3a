/* SPDX-License-Identifier: MIT */
#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "moment.h"

#define QUEUE_NS    NS_PER_MS /* how long bytes may wait for the link */
#define INTERVAL_NS (20 * NS_PER_MS)
#define WINDOW_MAX  (PEER_RING_BYTES - PEER_SEGMENT_BYTES)
/*
 * Two segments of what a slow link moves in a few hundred microseconds: less, and it would idle
 * between fences.
 */
#define WINDOW_MIN (128u << 10)
/* A fence that was waited for less than this had been reached before. */
#define WAITED_NS (20 * NS_PER_US)
#define FILL_MIN  (64u << 10)
#define STUCK_NS  (5 * NS_PER_S)

static int allocate(struct ring *r)
{
	unsigned int lanes = r->offload->lanes;

	for (unsigned int i = 0; i < PEER_SEGMENTS; i++) {
		r->segments[i].epochs = calloc(lanes, sizeof(uint32_t));
		if (r->segments[i].epochs == NULL)
			return -ENOMEM;
	}
	r->batches = calloc(lanes, sizeof(*r->batches));
	/* Populated now: later each page would cost a fault, which is as slow as reading it. */
	r->base = mmap(NULL, PEER_RING_BYTES, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	if (r->base == MAP_FAILED)
		r->base = NULL;
	return r->batches == NULL || r->base == NULL ? -ENOMEM : 0;
}

int ring_open(struct offload *offload, unsigned int reader, struct ring **ring)
{
	struct ring *r = calloc(1, sizeof(*r));
	int ret;

	if (r == NULL)
		return relay_fail(offload->relay, -ENOMEM, "no memory for a ring");
	r->offload = offload;
	r->reader = reader;
	r->window = PEER_SEGMENT_BYTES;
	r->fastest_ns = UINT64_MAX;
	r->interval_fastest_ns = UINT64_MAX;
	ret = allocate(r);
	if (ret < 0)
		relay_fail(offload->relay, ret, "no memory for a ring");
	else
		ret = offload_register(offload, r->base, PEER_RING_BYTES,
				       peer_staging_address(reader), &r->memory);
	if (ret < 0) {
		ring_close(&r);
		return ret;
	}
	*ring = r;
	return 0;
}

void ring_close(struct ring **ring)
{
	struct ring *r = *ring;

	if (r == NULL)
		return;
	vmferry_deregister(&r->memory);
	if (r->base != NULL)
		munmap(r->base, PEER_RING_BYTES);
	for (unsigned int i = 0; i < PEER_SEGMENTS; i++)
		free(r->segments[i].epochs);
	free(r->batches);
	free(r);
	*ring = NULL;
}

static size_t at(const struct ring *ring)
{
	return (size_t)ring->current * PEER_SEGMENT_BYTES;
}

uint8_t *ring_segment(const struct ring *ring)
{
	return ring->base + at(ring);
}

size_t ring_segment_fill(const struct ring *ring)
{
	uint64_t half = ring->window / 2;

	if (half > PEER_SEGMENT_BYTES)
		half = PEER_SEGMENT_BYTES;
	return half < FILL_MIN ? FILL_MIN : (size_t)half;
}

/* ---- giving pages to lanes ------------------------------------------------------------------- */

static int give(struct ring *ring, unsigned int lane)
{
	struct lane_batch *b = &ring->batches[lane];
	int ret;

	if (b->count == 0)
		return 0;
	ret = offload_write(ring->offload, lane, b->writes, b->count);
	b->count = 0;
	return ret;
}

static int add(struct ring *ring, unsigned int lane, const struct vmferry_write *w)
{
	struct lane_batch *b = &ring->batches[lane];
	struct vmferry_write *last = &b->writes[b->count > 0 ? b->count - 1 : 0];

	b->touched = true;
	if (b->count > 0 && last->memory == w->memory && last->offset + last->length == w->offset &&
	    last->address + last->length == w->address) {
		last->length += w->length;
		return 0;
	}
	b->writes[b->count++] = *w;
	return b->count == RING_BATCH ? give(ring, lane) : 0;
}

static void forget_touched(struct ring *ring)
{
	for (unsigned int i = 0; i < ring->offload->lanes; i++)
		ring->batches[i].touched = false;
}

/* Sends the list of pages that the destination is to copy from where the lanes have put them. */
static int send_staged(struct ring *ring)
{
	struct relay *relay = ring->offload->relay;
	uint8_t bytes[PEER_STAGED_BYTES_MAX];
	size_t length;
	int ret = ring_flush(ring);

	if (ret == 0)
		ret = offload_fence_all(ring->offload, &ring->staged.epoch);
	if (ret < 0)
		return ret;
	/* The destination copies behind that fence, which was behind all writes so far. */
	forget_touched(ring);
	ring->staged.reader = ring->reader;
	ring->staged.segment = ring->current;
	length = peer_staged_encode(&ring->staged, bytes);
	ring->staged.count = 0;
	ring->segments[ring->current].staged = true;
	pthread_mutex_lock(&relay->lock);
	ring->segments[ring->current].copies++;
	pthread_mutex_unlock(&relay->lock);
	return relay_send(relay, PEER_STAGED, bytes, length);
}

/* @data NULL: a page of zeroes, which needs no bytes. */
static int stage(struct ring *ring, unsigned int block, uint64_t offset, const uint8_t *data)
{
	struct peer_staged_page *page = &ring->staged.pages[ring->staged.count++];
	uint64_t from = data == NULL ? 0 : (uint64_t)(data - ring->base);
	int ret = 0;

	*page = (struct peer_staged_page){block, data == NULL ? PEER_STAGED_ZERO : (uint32_t)from,
					  offset};
	/*
	 * The order is that of the lists, so that any lane will do: one for the segment keeps its
	 * writes together.
	 */
	if (data != NULL)
		ret = add(ring, ring->current % ring->offload->lanes,
			  &(struct vmferry_write){ring->memory, from,
						  peer_staging_address(ring->reader) + from,
						  STREAM_PAGE_SIZE});
	return ret == 0 && ring->staged.count == PEER_STAGED_MAX ? send_staged(ring) : ret;
}

int ring_page(struct ring *ring, const uint8_t *data, unsigned int block, uint64_t offset)
{
	struct offload *o = ring->offload;
	uint64_t address = peer_block_address(block) + offset;
	struct vmferry_write write;
	int ret = offload_page_comes(o, block, offset);

	if (ret < 0)
		return ret;
	ring->counts.pages++;
	ring->segments[ring->current].bytes += STREAM_PAGE_SIZE;
	if (o->targets[block].kind == PLACEMENT_PROCESS)
		return stage(ring, block, offset, data);
	write = (struct vmferry_write){ring->memory, (uint64_t)(data - ring->base), address,
				       STREAM_PAGE_SIZE};
	if (o->targets[block].live != NULL) {
		write.memory = o->targets[block].live;
		write.offset = offset;
	}
	return add(ring, offload_lane_of(o, address), &write);
}

int ring_zero(struct ring *ring, unsigned int block, uint64_t offset)
{
	struct offload *o = ring->offload;
	uint64_t address = peer_block_address(block) + offset;

	ring->counts.zero_pages++;
	/* It reads as zeroes already, and stays without memory if it has none. */
	if (!offload_page_written(o, block, offset))
		return 0;
	ring->counts.zero_written++;
	ring->segments[ring->current].bytes += STREAM_PAGE_SIZE;
	if (o->targets[block].kind == PLACEMENT_PROCESS)
		return stage(ring, block, offset, NULL);
	/*
	 * At the same offset in the zeroes as in the stripe, so that neighbours become one write.
	 */
	return add(ring, offload_lane_of(o, address),
		   &(struct vmferry_write){o->zeroes_memory, address % OFFLOAD_ZEROES_BYTES,
					   address, STREAM_PAGE_SIZE});
}

/* Readers begin with different lanes, so that they do not queue up for the same one. */
int ring_flush(struct ring *ring)
{
	unsigned int lanes = ring->offload->lanes;
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < lanes; i++)
		ret = give(ring, (ring->reader + i) % lanes);
	return ret;
}

/* Once a segment: readers would fight for the counters' cache line otherwise. */
static void count(struct ring *ring)
{
	struct offload_counters *c = &ring->offload->counters;

	atomic_fetch_add_explicit(&c->pages, ring->counts.pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->zero_pages, ring->counts.zero_pages, memory_order_relaxed);
	atomic_fetch_add_explicit(&c->zero_written, ring->counts.zero_written,
				  memory_order_relaxed);
	ring->counts = (struct ring_counts){0};
}

int ring_sync(struct ring *ring)
{
	count(ring);
	return ring->staged.count > 0 ? send_staged(ring) : ring_flush(ring);
}

/* ---- segments -------------------------------------------------------------------------------- */

static int fence_touched(struct ring *ring, struct segment *s)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < ring->offload->lanes; i++)
		if (ring->batches[i].touched)
			ret = offload_fence(ring->offload, i, &s->epochs[i]);
	return ret;
}

/* Sets the fences behind the current segment's pages. */
static int seal(struct ring *ring)
{
	struct segment *s = &ring->segments[ring->current];
	int ret = ring_flush(ring);

	count(ring);
	if (ret < 0 || s->bytes == 0)
		return ret;
	memset(s->epochs, 0, ring->offload->lanes * sizeof(s->epochs[0]));
	if (ring->staged.count > 0)
		ret = send_staged(ring);
	if (ret == 0)
		ret = fence_touched(ring, s);
	forget_touched(ring);
	s->waits = ret == 0;
	s->given_ns = vmferry_now();
	ring->under_way += s->bytes;
	return ret;
}

static int await_copies(struct ring *ring, const struct segment *s)
{
	struct relay *relay = ring->offload->relay;
	uint64_t deadline = vmferry_now() + STUCK_NS;
	int ret = 0;

	pthread_mutex_lock(&relay->lock);
	while (ret == 0 && s->copies > 0)
		ret = relay_await(relay, deadline);
	pthread_mutex_unlock(&relay->lock);
	return ret == -ETIMEDOUT
		       ? relay_fail(relay, ret, "the destination does not copy pages to QEMU")
		       : ret;
}

static int await_fences(struct ring *ring, const struct segment *s)
{
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < ring->offload->lanes; i++)
		if (s->epochs[i] != 0)
			ret = offload_fence_wait(ring->offload, i, s->epochs[i]);
	return ret;
}

static uint64_t clamp(uint64_t value, uint64_t min, uint64_t max)
{
	return value < min ? min : value > max ? max : value;
}

/*
 * A segment has taken @ns from being given to the lanes to being placed. 0: less than it took to
 * look.
 */
static void control_window(struct ring *ring, uint64_t ns, uint64_t now)
{
	uint64_t limit;

	if (ns > 0 && ns < ring->fastest_ns)
		ring->fastest_ns = ns;
	if (ns < ring->interval_fastest_ns)
		ring->interval_fastest_ns = ns;
	if (now - ring->interval_ns < INTERVAL_NS)
		return;
	limit = QUEUE_NS + (ring->fastest_ns == UINT64_MAX ? 0 : ring->fastest_ns);
	if (ring->interval_fastest_ns > 2 * limit)
		ring->window /= 2;
	else if (ring->interval_fastest_ns > limit)
		ring->window -= ring->window / 8;
	else
		ring->window += ring->window / 4;
	ring->window = clamp(ring->window, WINDOW_MIN, WINDOW_MAX);
	ring->interval_ns = now;
	ring->interval_fastest_ns = UINT64_MAX;
}

static int await_oldest(struct ring *ring)
{
	struct segment *s = &ring->segments[ring->oldest];
	uint64_t begun = vmferry_now();
	uint64_t now;
	int ret = s->staged ? await_copies(ring, s) : 0;

	if (ret == 0)
		ret = await_fences(ring, s);
	if (ret < 0)
		return ret;
	now = vmferry_now();
	atomic_fetch_add_explicit(&ring->offload->counters.stall_ns, now - begun,
				  memory_order_relaxed);
	control_window(ring, now - begun > WAITED_NS ? now - s->given_ns : 0, now);
	ring->under_way -= s->bytes;
	s->bytes = 0;
	s->waits = false;
	s->staged = false;
	return 0;
}

int ring_next(struct ring *ring)
{
	unsigned int next = (ring->current + 1) % PEER_SEGMENTS;
	int ret;

	if (ring->under_way == 0)
		ring->oldest = ring->current;
	ret = seal(ring);
	/*
	 * Segments without pages need nothing: they are passed over as if they had been waited for.
	 */
	while (ret == 0 && ring->under_way > 0 &&
	       (ring->segments[next].waits || ring->under_way > ring->window)) {
		if (ring->segments[ring->oldest].waits)
			ret = await_oldest(ring);
		if (ret == 0)
			ring->oldest = (ring->oldest + 1) % PEER_SEGMENTS;
	}
	ring->current = next;
	return ret;
}

int ring_freed(struct ring *ring, unsigned int segment)
{
	struct segment *s = &ring->segments[segment];

	if (s->copies == 0)
		return -EPROTO;
	s->copies--;
	return 0;
}
