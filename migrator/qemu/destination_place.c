/* SPDX-License-Identifier: MIT */
/*
 * QEMU's memory: where the blocks of the stream are, what is made ready for the lanes, and pages
 * that are copied.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include "destination_state.h"
#include "moment.h"
#include "qmp.h"

#define QMP_NS	      (5 * NS_PER_S)
#define FENCE_NS      (10 * NS_PER_S)
#define STAGING_BYTES (PEER_CONNECTIONS_MAX * PEER_RING_BYTES)

/* ---- where blocks are ------------------------------------------------------------------------ */

static void demote(struct placement *p, const char *reason, int error)
{
	placement_release(p, 1);
	p->kind = PLACEMENT_FORWARD;
	snprintf(p->reason, sizeof(p->reason), "%s: %s", reason, strerror(-error));
}

static void tell_extents(const struct placement *p, struct peer_target *t)
{
	int ret = placement_extents(p, t->extents, PEER_EXTENTS_MAX, &t->extent_count);

	if (ret == 0)
		return;
	/* Too many, or nobody knows: as if something were everywhere. */
	t->extents[0] = (struct placement_extent){0, p->bytes};
	t->extent_count = 1;
}

static int register_staging(struct qemu_destination *d)
{
	void *base;

	if (d->staging != NULL)
		return 0;
	base = mmap(NULL, STAGING_BYTES, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (base == MAP_FAILED)
		return -ENOMEM;
	d->staging = base;
	return vmferry_register(d->relay.session, base, STAGING_BYTES, peer_staging_address(0),
				VMFERRY_ACCESS_REMOTE_WRITE, &d->staging_memory);
}

/* Over RDMA memory is pinned as it is written to: too late then to find that it may not be. */
static bool may_pin(const struct qemu_destination *d, uint64_t bytes)
{
	struct rlimit limit;

	if (!relay_is_rdma(&d->relay) || d->pins_freely)
		return true;
	return getrlimit(RLIMIT_MEMLOCK, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY ||
	       bytes <= limit.rlim_cur;
}

/* CAP_IPC_LOCK exempts from the memlock limit, see mlock(2). */
static bool has_ipc_lock(void)
{
	static const unsigned int cap_ipc_lock = 14;
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long long caps = 0;
	char line[128];

	while (file != NULL && fgets(line, sizeof(line), file) != NULL)
		if (sscanf(line, "CapEff: %llx", &caps) == 1)
			break;
	if (file != NULL)
		fclose(file);
	return (caps >> cap_ipc_lock & 1) != 0;
}

/* Makes the block's memory writable for the lanes; what cannot be is left to QEMU. */
static void open_block(struct qemu_destination *d, unsigned int i, struct peer_target *t)
{
	struct placement *p = &d->placements[i];
	int ret = 0;

	if (p->kind != PLACEMENT_FORWARD)
		tell_extents(p, t);
	if (p->kind == PLACEMENT_MAPPED && !may_pin(d, d->registered_bytes + p->bytes)) {
		demote(p, "it may not be pinned: raise the memlock limit (LimitMEMLOCK=)", -EPERM);
	} else if (p->kind == PLACEMENT_MAPPED) {
		d->registered_bytes += p->bytes;
		ret = vmferry_register(d->relay.session, p->base, p->bytes, peer_block_address(i),
				       VMFERRY_ACCESS_REMOTE_WRITE, &d->memories[i]);
		if (ret < 0)
			demote(p, "its memory cannot be registered", ret);
	} else if (p->kind == PLACEMENT_PROCESS) {
		ret = register_staging(d);
		if (ret < 0)
			demote(p, "no staging memory", ret);
	}
	t->kind = p->kind;
	if (t->kind == PLACEMENT_FORWARD)
		t->extent_count = 0;
	snprintf(t->reason, sizeof(t->reason), "%s", p->reason);
}

static int find_blocks(struct qemu_destination *d, const struct peer_blocks *blocks)
{
	struct qmp *qmp = NULL;
	int ret = 0;

	d->placements = calloc(STREAM_BLOCKS_MAX, sizeof(*d->placements));
	d->memories = calloc(STREAM_BLOCKS_MAX, sizeof(struct vmferry_memory *));
	if (d->placements == NULL || d->memories == NULL)
		return destination_fail(d, -ENOMEM, "no memory for the list of blocks");
	if (d->options.qmp != NULL) {
		ret = qmp_open(d->options.qmp, vmferry_now() + QMP_NS, &qmp);
		if (ret < 0)
			return destination_fail(d, ret, "QEMU cannot be asked by QMP");
	}
	ret = placement_find(&d->process, qmp, d->options.place, blocks->blocks, blocks->count,
			     d->placements);
	qmp_close(&qmp);
	if (ret < 0)
		return destination_fail(d, ret, "QEMU's memory cannot be found");
	d->placement_count = blocks->count;
	return 0;
}

static int answer_placed(struct qemu_destination *d, const struct peer_placed *placed)
{
	uint8_t *bytes;
	size_t length;
	int ret = peer_placed_encode(placed, &bytes, &length);

	if (ret < 0)
		return destination_fail(d, ret, "no memory for the answer");
	ret = relay_send(&d->relay, PEER_PLACED, bytes, length);
	free(bytes);
	return ret;
}

/*
 * A QEMU without -S runs the guest as soon as it has loaded it, and tells the source so only then:
 * should that be lost, the source runs on, too. Without a return path nobody waits for such an
 * answer.
 */
static int check_autostart(struct qemu_destination *d, const struct peer_blocks *blocks)
{
	if (!d->process.autostart || !blocks->return_path || d->options.allow_autostart)
		return 0;
	return relay_fail(
		&d->relay, -EPERM,
		"QEMU, pid %d, starts the guest by itself and the migration has a return path: if "
		"its last answer is lost, both run; start it with -S and let it continue by QMP, "
		"or give --allow-autostart",
		(int)d->process.pid);
}

static int place(struct qemu_destination *d, const struct peer_blocks *blocks)
{
	struct peer_placed *placed;
	int ret = check_autostart(d, blocks);

	if (ret < 0)
		return ret;
	placed = calloc(1, sizeof(*placed));
	if (placed == NULL)
		return destination_fail(d, -ENOMEM, "no memory for the answer");
	d->passing = blocks->passing;
	snprintf(d->reason, sizeof(d->reason), "%s", blocks->reason);
	ret = find_blocks(d, blocks);
	if (ret == 0) {
		placed->autostart = d->process.autostart;
		placed->count = blocks->count;
		d->pins_freely = has_ipc_lock();
		for (unsigned int i = 0; i < blocks->count; i++)
			open_block(d, i, &placed->targets[i]);
		/* Purely for speed: pages that are not there when they come are made then. */
		if (placement_populate_start(d->placements, d->placement_count,
					     d->options.populate_threads, &d->populate) < 0)
			d->populate = NULL;
		ret = answer_placed(d, placed);
	}
	free(placed);
	return ret;
}

int destination_take_blocks(struct qemu_destination *d, const struct vmferry_message *m)
{
	struct peer_blocks *blocks = calloc(1, sizeof(*blocks));
	int ret = blocks == NULL ? -ENOMEM : peer_blocks_decode(m->data, m->length, blocks);

	if (ret == 0 && (d->placements != NULL || d->relay.connection_count == 0))
		ret = -EPROTO;
	ret = ret < 0 ? destination_fail(d, ret, "the source's list of blocks makes no sense")
		      : place(d, blocks);
	free(blocks);
	return ret;
}

/*
 * The source has written to neighbouring pages for a while: what follows is made ready for the
 * lanes, and for private memory, before it comes. What the source never writes to costs nothing.
 */
int destination_take_ahead(struct qemu_destination *d, const struct vmferry_message *m)
{
	uint32_t numbers[3];
	uint64_t offset, bytes;
	int ret = peer_numbers_decode(m->data, m->length, numbers, 3);

	if (ret < 0 || numbers[0] >= d->placement_count)
		return destination_fail(d, -EPROTO, "the source announces pages of no block");
	offset = (uint64_t)numbers[1] * STREAM_PAGE_SIZE;
	bytes = (uint64_t)numbers[2] * STREAM_PAGE_SIZE;
	if (offset >= d->placements[numbers[0]].bytes)
		return 0;
	if (bytes > d->placements[numbers[0]].bytes - offset)
		bytes = d->placements[numbers[0]].bytes - offset;
	if (d->memories[numbers[0]] != NULL)
		vmferry_prepare(d->memories[numbers[0]], offset, bytes);
	/* To be pinned it is populated, by the transport's own threads. */
	if (d->populate != NULL && !(relay_is_rdma(&d->relay) && d->memories[numbers[0]] != NULL))
		placement_populate_ahead(d->populate, numbers[0], offset, bytes);
	return 0;
}

/* ---- pages that are copied to QEMU ----------------------------------------------------------- */

/* Consecutive pages of one block, in one call. */
static int copy_pages(struct qemu_destination *d, const struct peer_staged *staged,
		      const struct placement_page *pages, unsigned int first, unsigned int count)
{
	unsigned int block = staged->pages[first].block;
	int ret;

	if (count == 0)
		return 0;
	ret = placement_write(&d->placements[block], pages + first, count);
	return ret < 0 ? destination_fail(d, ret, "pages cannot be copied to QEMU") : 0;
}

static int copy_staged(struct qemu_destination *d, const struct peer_staged *staged)
{
	static const uint8_t zeroes[STREAM_PAGE_SIZE];
	const uint8_t *ring = d->staging + staged->reader * PEER_RING_BYTES;
	struct placement_page pages[PEER_STAGED_MAX];
	unsigned int first = 0;
	int ret = 0;

	for (unsigned int i = 0; ret == 0 && i < staged->count; i++) {
		const struct peer_staged_page *p = &staged->pages[i];

		if (p->block >= d->placement_count ||
		    d->placements[p->block].kind != PLACEMENT_PROCESS)
			return destination_fail(d, -EPROTO,
						"a staged page is of a block that is not copied");
		if (p->block != staged->pages[first].block) {
			ret = copy_pages(d, staged, pages, first, i - first);
			first = i;
		}
		pages[i] = (struct placement_page){
			.offset = p->offset,
			.data = p->at == PEER_STAGED_ZERO ? zeroes : ring + p->at,
			.bytes = STREAM_PAGE_SIZE,
		};
		d->copied_zero_pages += p->at == PEER_STAGED_ZERO;
	}
	d->copied_pages += staged->count;
	return ret < 0 ? ret : copy_pages(d, staged, pages, first, staged->count - first);
}

int destination_take_staged(struct qemu_destination *d, const struct vmferry_message *m)
{
	struct peer_staged staged;
	uint8_t numbers[8];
	int ret = peer_staged_decode(m->data, m->length, &staged);

	if (ret < 0 || d->staging == NULL)
		return destination_fail(d, -EPROTO,
					"the source's list of staged pages makes no sense");
	ret = vmferry_fence_wait(d->relay.session, staged.epoch, vmferry_now() + FENCE_NS);
	if (ret < 0)
		return destination_fail(d, ret, "staged pages have not come");
	ret = copy_staged(d, &staged);
	if (ret < 0)
		return ret;
	peer_numbers_encode((const uint32_t[]){staged.reader, staged.segment}, 2, numbers);
	return relay_send(&d->relay, PEER_FREED, numbers, sizeof(numbers));
}

void destination_deregister(struct qemu_destination *d)
{
	placement_populate_stop(&d->populate);
	for (unsigned int i = 0; i < d->placement_count; i++)
		vmferry_deregister(&d->memories[i]);
	vmferry_deregister(&d->staging_memory);
}

void destination_release(struct qemu_destination *d)
{
	if (d->placements != NULL)
		placement_release(d->placements, d->placement_count);
	if (d->staging != NULL)
		munmap(d->staging, STAGING_BYTES);
	free(d->placements);
	free(d->memories);
}
