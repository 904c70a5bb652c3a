/* SPDX-License-Identifier: MIT */
/*
 * One chunk and the devices. Nearly all of the time goes into populating: soft-RoCE registers 1 GiB
 * of populated memory in a hundredth of what it needs for untouched memory (Linux 6.1). So that is
 * done before, in steps that can be given up between.
 */
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "common/clock.h"
#include "common/log.h"
#include "transport/rdma/chunk.h"

#define POPULATE_STEP (8ull << 20)

static struct vmferry_session *session_of(const struct rdma_chunk *chunk)
{
	return chunk->memory->memory->session;
}

static bool given_up(const struct rdma_chunk *chunk)
{
	const struct vmferry_session *session = session_of(chunk);

	return atomic_load(&chunk->memory->going) || atomic_load(&chunk->memory->registrar->stop) ||
	       atomic_load(&session->revoked) || session_error(session) != 0;
}

/* The session ends with it; the caller has logged the particulars. */
static int failed(const struct rdma_chunk *chunk, int error)
{
	return session_fail(session_of(chunk), -error, "memory cannot be registered");
}

/* ---- populating ------------------------------------------------------------------------------ */

static int populate_failed(const struct rdma_chunk *chunk, uint64_t offset, int error)
{
	const struct vmferry_memory *m = chunk->memory->memory;

	log_error("session %s: memory at 0x%llx cannot be populated: %s: %s", m->session->name,
		  (unsigned long long)(m->address + offset), strerror(error),
		  error == EFAULT ? "map it with write permission, over a file that is long enough"
				  : "free memory, or raise the limit of the memory cgroup");
	return failed(chunk, error);
}

/* On demand a page comes when it is written to, and that is the sense of it. */
static bool is_on_demand(const struct rdma_session *session)
{
	bool all = true;

	for (unsigned int i = 0; i < session->rail_count; i++)
		all = all && (session->rails[i] == NULL || session->rails[i]->limits.odp);
	return all && !atomic_load(&session->registrar->odp_refused);
}

static int populate(const struct rdma_chunk *chunk)
{
	uint8_t *base = chunk->memory->memory->base;
	uint64_t end = chunk->offset + chunk->length;

	for (uint64_t at = chunk->offset; at < end; at += POPULATE_STEP) {
		uint64_t n = end - at < POPULATE_STEP ? end - at : POPULATE_STEP;

		if (given_up(chunk))
			return -ECANCELED;
		if (madvise(base + at, n, MADV_POPULATE_WRITE) == 0)
			continue;
		/*
		 * Linux before 5.14 does not know it: registering populates as well, only all in
		 * one piece.
		 */
		return errno == EINVAL ? 0 : populate_failed(chunk, at, errno);
	}
	return 0;
}

/* ---- registering ----------------------------------------------------------------------------- */

/*
 * No access at all is enough for the source: its device only reads, and only what its own queues
 * name.
 */
static unsigned int access_of(const struct rdma_chunk *chunk)
{
	const struct vmferry_memory *m = chunk->memory->memory;
	unsigned int access = 0;

	if (m->session->is_source)
		return 0;
	/* A device refuses remote writes to what it may not write to locally. */
	if ((m->access & VMFERRY_ACCESS_REMOTE_WRITE) != 0)
		access |= IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE;
	if ((m->access & VMFERRY_ACCESS_REMOTE_READ) != 0)
		access |= IBV_ACCESS_REMOTE_READ;
	return access;
}

/*
 * At its session address: so what goes over the wire is no pointer of this process, and both sides
 * name the same place alike.
 */
static struct ibv_mr *make_region(const struct rdma_chunk *chunk, const struct rdma_rail *rail,
				  unsigned int access)
{
	const struct vmferry_memory *m = chunk->memory->memory;

	return ibv_reg_mr_iova(rail->pd, m->base + chunk->offset, chunk->length,
			       m->address + chunk->offset, access);
}

/*
 * Which error says that a device cannot after all, or not with this memory, is not the same
 * everywhere: any is taken for that.
 */
static struct ibv_mr *make_on_demand(const struct rdma_chunk *chunk, const struct rdma_rail *rail,
				     unsigned int access)
{
	atomic_bool *refused = &chunk->memory->registrar->odp_refused;
	struct ibv_mr *region;

	if (!rail->limits.odp || atomic_load(refused))
		return NULL;
	region = make_region(chunk, rail, access | IBV_ACCESS_ON_DEMAND);
	if (region == NULL && !atomic_exchange(refused, true))
		log_warn("rail %s: refuses on-demand paging: %s: memory is pinned", rail->name,
			 strerror(errno));
	return region;
}

static int register_failed(const struct rdma_chunk *chunk, const struct rdma_rail *rail, int error)
{
	const struct vmferry_memory *m = chunk->memory->memory;
	char limit[MEMLOCK_TEXT];

	memlock_text(limit);
	if (error == ENOMEM)
		log_error(
			"session %s: memory at 0x%llx, 0x%llx bytes, cannot be registered with %s: "
			"%s: the memlock limit is %s: " MEMLOCK_REMEDY
			"; if it is not that, free memory or raise the cgroup's limit",
			m->session->name, (unsigned long long)(m->address + chunk->offset),
			(unsigned long long)chunk->length, rail->name, strerror(error), limit);
	else
		log_error(
			"session %s: memory at 0x%llx, 0x%llx bytes, cannot be registered with %s: "
			"%s: %s",
			m->session->name, (unsigned long long)(m->address + chunk->offset),
			(unsigned long long)chunk->length, rail->name, strerror(error),
			error == EFAULT ? "it must be writable, and no userfaultfd may watch it"
					: "see the kernel's log");
	return failed(chunk, error);
}

static int register_on(struct rdma_chunk *chunk, const struct rdma_rail *rail)
{
	unsigned int access = access_of(chunk);
	struct ibv_mr *region = make_on_demand(chunk, rail, access);

	if (region == NULL) {
		region = make_region(chunk, rail, access);
		chunk->pinned = true;
	}
	if (region == NULL)
		return register_failed(chunk, rail, errno);
	chunk->regions[rail->index] = region;
	atomic_fetch_add_explicit(&chunk->memory->registrar->regions, 1, memory_order_relaxed);
	return 0;
}

int chunk_pin(struct rdma_chunk *chunk)
{
	struct rdma_registrar *registrar = chunk->memory->registrar;
	const struct rdma_session *session = registrar->session;
	uint64_t before = vmferry_now();
	int ret = given_up(chunk) ? -ECANCELED : 0;

	/* At the source most pages are there already, and registering faults in the others. */
	if (ret == 0 && !session->session->is_source && !is_on_demand(session))
		ret = populate(chunk);
	for (unsigned int i = 0; ret == 0 && i < session->rail_count; i++)
		if (session->rails[i] != NULL)
			ret = register_on(chunk, session->rails[i]);
	atomic_fetch_add_explicit(&registrar->ns, vmferry_now() - before, memory_order_relaxed);
	/* What some rails have of a chunk that failed goes when the memory does. */
	if (ret == 0)
		atomic_fetch_add_explicit(&registrar->bytes, chunk->length, memory_order_relaxed);
	return ret;
}

void chunk_unpin(struct rdma_chunk *chunk)
{
	for (unsigned int i = 0; i < VMFERRY_RAILS_MAX; i++) {
		int error = chunk->regions[i] == NULL ? 0 : ibv_dereg_mr(chunk->regions[i]);

		chunk->regions[i] = NULL;
		/* The device was removed, and the kernel has let go of the pages. */
		if (error == EIO)
			continue;
		/*
		 * Its pages stay pinned, so whatever the device still does to them hits nobody
		 * else's.
		 */
		if (error != 0)
			log_error(
				"session %s: memory at 0x%llx stays registered: %s: the pages are "
				"lost until this process ends",
				session_of(chunk)->name,
				(unsigned long long)(chunk->memory->memory->address +
						     chunk->offset),
				strerror(error));
	}
}
