/* SPDX-License-Identifier: MIT */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "nic.h"

#define PAGE 4096ull

/*
 * A key is the region's place, how often that place has been used, and which of the two keys it is:
 * lkey 0, rkey 1.
 */
#define KEY_SHIFT 8

struct ibv_pd *ibv_alloc_pd(struct ibv_context *context)
{
	struct nic_pd *pd;
	int error;

	nic_lock();
	error = nic_scripted(FAKE_ALLOC_PD);
	if (error == 0 && nic_gone(context))
		error = EIO;
	if (error != 0)
		return nic_null(error);
	pd = nic_alloc(1, sizeof(*pd));
	pd->ibv.context = context;
	nic_context_use(context);
	nic.counts.live.pds++;
	nic_unlock();
	return &pd->ibv;
}

int ibv_dealloc_pd(struct ibv_pd *pd)
{
	struct nic_pd *our = container(pd, struct nic_pd, ibv);
	int error;

	nic_lock();
	if (our->users > 0) {
		nic_unlock();
		return EBUSY;
	}
	nic_context_drop(pd->context);
	nic.counts.live.pds--;
	error = nic_destroyed(pd->context);
	nic_unlock();
	free(our);
	return error;
}

/*
 * What pinning does, and refuses: the memory must be there, with the rights that the device needs.
 */
static int pin(void *memory, size_t length, unsigned int access)
{
	uintptr_t start = (uintptr_t)memory & ~(PAGE - 1);
	uintptr_t end = ((uintptr_t)memory + length + PAGE - 1) & ~(PAGE - 1);
	int advice = access & IBV_ACCESS_LOCAL_WRITE ? MADV_POPULATE_WRITE : MADV_POPULATE_READ;

	if (madvise((void *)start, end - start, advice) == 0)
		return 0;
	/* EINVAL: a kernel before 5.14. */
	return errno == EINVAL ? 0 : EFAULT;
}

static int check_region(const struct ibv_pd *pd, const void *memory, size_t length, uint64_t iova,
			unsigned int access)
{
	const unsigned int needs_local = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_ATOMIC;

	if (nic_gone(pd->context))
		return EIO;
	if (length == 0 || length > nic.limits.max_mr_size || iova + length - 1 < iova)
		return EINVAL;
	if ((access & needs_local) && !(access & IBV_ACCESS_LOCAL_WRITE))
		return EINVAL;
	if (access & (IBV_ACCESS_ZERO_BASED | IBV_ACCESS_MW_BIND))
		return EINVAL;
	if ((access & IBV_ACCESS_ON_DEMAND) && !nic.limits.on_demand)
		return EINVAL;
	if ((iova ^ (uintptr_t)memory) & (PAGE - 1))
		return EINVAL;
	return nic.counts.live.mrs >= nic.limits.max_mr ? ENOMEM : 0;
}

static void give_keys(struct nic_mr *mr)
{
	unsigned int place = nic.mr_cursor;

	/*
	 * The next place rather than a free one: a key that is out of date stays invalid for long.
	 */
	do {
		place = place % (NIC_MRS - 1) + 1;
	} while (nic.mrs[place] != NULL);
	nic.mr_cursor = place;
	nic.mrs[place] = mr;
	mr->ibv.lkey = place << KEY_SHIFT | (uint8_t)(++nic.generations[place] << 1);
	mr->ibv.rkey = mr->ibv.lkey | 1;
}

struct ibv_mr *ibv_reg_mr_iova2(struct ibv_pd *pd, void *memory, size_t length, uint64_t iova,
				unsigned int access)
{
	struct nic_mr *mr;
	int error;

	access &= ~(unsigned int)IBV_ACCESS_OPTIONAL_RANGE;
	nic_lock();
	error = nic_scripted(FAKE_REG_MR);
	if (error == 0)
		error = check_region(pd, memory, length, iova, access);
	if (error != 0)
		return nic_null(error);
	/* As it keeps the domain from going away while the lock is dropped for what takes time. */
	container(pd, struct nic_pd, ibv)->users++;
	nic_unlock();
	error = access & IBV_ACCESS_ON_DEMAND ? 0 : pin(memory, length, access);
	nic_lock();
	if (error != 0) {
		container(pd, struct nic_pd, ibv)->users--;
		return nic_null(error);
	}
	mr = nic_alloc(1, sizeof(*mr));
	mr->ibv.context = pd->context;
	mr->ibv.pd = pd;
	mr->ibv.addr = memory;
	mr->ibv.length = length;
	mr->iova = iova;
	mr->access = access;
	give_keys(mr);
	nic.counts.live.mrs++;
	nic.counts.on_demand += (access & IBV_ACCESS_ON_DEMAND) != 0;
	nic_unlock();
	return &mr->ibv;
}

struct ibv_mr *ibv_reg_mr_iova(struct ibv_pd *pd, void *memory, size_t length, uint64_t iova,
			       int access)
{
	return ibv_reg_mr_iova2(pd, memory, length, iova, (unsigned int)access);
}

struct ibv_mr *ibv_reg_mr(struct ibv_pd *pd, void *memory, size_t length, int access)
{
	return ibv_reg_mr_iova2(pd, memory, length, (uintptr_t)memory, (unsigned int)access);
}

int ibv_dereg_mr(struct ibv_mr *mr)
{
	struct nic_mr *our = container(mr, struct nic_mr, ibv);
	int error;

	nic_lock();
	if (nic.mrs[mr->lkey >> KEY_SHIFT] != our)
		nic_misuse("a memory region deregistered twice");
	nic.mrs[mr->lkey >> KEY_SHIFT] = NULL;
	nic_settle(&our->busy, "a memory region stays busy");
	container(mr->pd, struct nic_pd, ibv)->users--;
	nic.counts.live.mrs--;
	error = nic_destroyed(mr->context);
	nic_unlock();
	free(our);
	return error;
}

struct nic_mr *nic_mr_use(const struct ibv_pd *pd, uint32_t key, uint64_t address, uint64_t length,
			  unsigned int access, uint8_t **at)
{
	uint32_t place = key >> KEY_SHIFT;
	struct nic_mr *mr = place < NIC_MRS ? nic.mrs[place] : NULL;

	if (mr == NULL || key != (key & 1 ? mr->ibv.rkey : mr->ibv.lkey) || mr->ibv.pd != pd)
		return NULL;
	if (address < mr->iova || address - mr->iova > mr->ibv.length ||
	    length > mr->ibv.length - (address - mr->iova))
		return NULL;
	if ((mr->access & access) != access)
		return NULL;
	*at = (uint8_t *)mr->ibv.addr + (address - mr->iova);
	mr->busy++;
	return mr;
}

void nic_mr_release(struct nic_mr *mr)
{
	mr->busy--;
	pthread_cond_broadcast(&nic.settled);
}

#if defined(__SANITIZE_ADDRESS__)
#define BY_MEMCPY 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define BY_MEMCPY 1
#endif
#endif

/*
 * A device is no thread of the program: guests write to pages that are being sent, and
 * ThreadSanitizer is not to hear of that. AddressSanitizer is to hear of memory that is freed while
 * it is registered.
 */
#ifdef BY_MEMCPY
void fake_copy(uint8_t *to, const uint8_t *from, uint64_t length)
{
	memmove(to, from, length);
}
#else
typedef uint64_t word __attribute__((may_alias, aligned(1)));

__attribute__((no_sanitize("thread"))) void fake_copy(uint8_t *to, const uint8_t *from,
						      uint64_t length)
{
	uint64_t words = length / sizeof(word);

	/* Volatile, or the compiler makes a memcpy of it, which ThreadSanitizer sees. */
	for (uint64_t i = 0; i < words; i++)
		((volatile word *)to)[i] = ((const volatile word *)from)[i];
	for (uint64_t i = words * sizeof(word); i < length; i++)
		((volatile uint8_t *)to)[i] = ((const volatile uint8_t *)from)[i];
}
#endif
